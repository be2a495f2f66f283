//! Calls over WebRTC with the real binary: by an independent client, and by one that misbehaves.

mod harness;

use std::time::{Duration, Instant};

use harness::agent::AgentServer;
use harness::forward::Forwarded;
use harness::peer::{PACKET, Peer};
use harness::{Daemon, ask, header};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use str0m::format::Codec;
use tokio::net::UdpSocket;

async fn sessions(daemon: &Daemon) -> f64 {
    daemon.metric("antiphon_sessions_active", "webrtc").await
}

async fn until_sessions(daemon: &Daemon, wanted: f64) {
    let begun = Instant::now();
    while sessions(daemon).await != wanted {
        assert!(begun.elapsed() < harness::PATIENCE, "{} sessions", sessions(daemon).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the peer heard, without the two frames of silence that each voice ends with. A voice is one, unless the machine
/// stalled: then the relay had to take it for ended, and what follows bears the marker, even if that comes within the end.
fn voices<'a>(peer: &'a Peer, silence: &[u8]) -> Vec<&'a [u8]> {
    let (mut spoken, mut ends, mut silent) = (Vec::new(), 0, 2);
    for (_, marker, payload, _) in &peer.heard {
        if payload == silence {
            (ends, silent) = (ends + usize::from(silent == 0), silent + 1);
            assert!(silent <= 2, "a voice ends with two frames of silence, no more");
        } else {
            assert_eq!(*marker, silent > 0, "a voice begins with the marker, packet {}", spoken.len());
            spoken.push(&payload[..]);
            silent = 0;
        }
    }
    assert_eq!(silent, 2, "the last voice ends with two frames of silence");
    assert!(ends <= 1 + spoken.len() / 20, "{ends} ends of a voice of {} packets", spoken.len());
    spoken
}

/// Packets of its own that the peer has heard.
fn echoed(peer: &Peer) -> usize {
    peer.heard.iter().filter(|(_, _, payload, _)| payload[..] == PACKET).count()
}

#[tokio::test]
async fn speech_goes_both_ways_unchanged_and_ends_with_two_frames_of_silence() {
    for workers in ["1", "4"] {
        let daemon = Daemon::start(&[("ANTIPHON_RUNTIME__WORKERS", workers)]).await;
        let begun = Instant::now();
        let mut peer = Peer::call(&daemon, "echo").await;
        println!("set-up with {workers} workers: {:?}", peer.connected.unwrap() - begun);
        assert_eq!(peer.answer["started"]["agent"]["name"], "echo");
        peer.until(|peer| peer.was_told("started")).await;
        peer.speak(Duration::from_secs(2)).await;
        peer.until(|peer| echoed(peer) >= 99).await;
        peer.say(json!({ "type": "ping", "t": 5 })).await;
        peer.until(|peer| peer.was_told("pong")).await;
        peer.live(Duration::from_millis(300)).await;
        let spoken = voices(&peer, &[0xF8, 0xFF, 0xFE]);
        assert!(spoken.len() >= 99, "{} of 100 packets came back", spoken.len());
        assert!(spoken.iter().all(|payload| *payload == PACKET), "unchanged");
        let consecutive = peer.heard.windows(2).all(|pair| pair[1].3 == pair[0].3.wrapping_add(1));
        assert!(consecutive, "sequence numbers do not skip");
        peer.say(json!({ "type": "end" })).await;
        peer.until(|peer| peer.was_told("ended") && peer.closed).await;
        until_sessions(&daemon, 0.0).await;
    }
}

#[tokio::test]
async fn rtp_time_runs_on_over_a_pause_and_the_next_spurt_bears_the_marker() {
    let daemon = Daemon::start(&[]).await;
    let mut peer = Peer::call(&daemon, "echo").await;
    let begun = Instant::now();
    peer.speak(Duration::from_millis(400)).await;
    peer.until(|peer| peer.heard.len() >= 20).await;
    peer.live(Duration::from_millis(1500)).await;
    let before = peer.heard.len();
    peer.speak(Duration::from_millis(400)).await;
    peer.until(|peer| peer.heard.len() >= before + 10).await;
    let (last, next) = (&peer.heard[before - 1], &peer.heard[before]);
    let pause = Duration::from_millis((next.0.wrapping_sub(last.0) / 48).into());
    let all = begun.elapsed();
    assert!(Duration::from_secs(1) <= pause && pause <= all, "RTP time went on by {pause:?} in {all:?}");
    assert!(next.1, "a spurt begins with the marker");
}

/// A DTLS 1.2 record (RFC 6347 section 4.1).
fn record(kind: u8, epoch: u16, body: &[u8]) -> Vec<u8> {
    let head = [&[kind, 254, 253][..], &epoch.to_be_bytes(), &[0, 0, 0, 0, 0, 9], &(body.len() as u16).to_be_bytes()];
    [&head.concat()[..], body].concat()
}

/// DTLS as somebody makes it up who has no keys: random records of every content type and epoch, alerts in the clear,
/// handshake messages that are cut off, and fragments that cannot be.
fn forged_dtls() -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut random = |len: usize| std::iter::repeat_with(|| rng.random()).take(len).collect::<Vec<u8>>();
    let mut forged = Vec::new();
    for (number, kind) in (19..=26).flat_map(|kind| [kind; 4]).enumerate() {
        forged.push(record(kind, [0, 1, 2, u16::MAX][number % 4], &random(7 * number)));
    }
    for (level, what) in [1, 2].into_iter().flat_map(|level| [0, 10, 20, 40, 80].map(|what| (level, what))) {
        forged.extend([record(21, 0, &[level, what]), record(21, 1, &[level, what])]);
    }
    for message in [0, 1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 20] {
        let begins = [message, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let outside = [message, 0, 0, 10, 0, 0, 255, 255, 255, 0, 0, 20];
        forged.push(record(22, 0, &begins));
        forged.push(record(22, 0, &[&begins[..], &random(100)].concat()));
        forged.push(record(22, 0, &[&outside[..], &random(20)].concat()));
    }
    let hello = record(22, 0, &[&[1, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 28, 254, 253][..], &random(26)].concat());
    forged.extend((1..hello.len()).map(|len| hello[..len].to_vec()));
    forged.push([&hello[..], &hello[..20]].concat());
    forged
}

#[tokio::test]
async fn forged_dtls_leaves_a_call_unharmed_whoever_it_comes_from() {
    let daemon = Daemon::start(&[]).await;
    let port = daemon.webrtc.unwrap();
    let mut peer = Peer::call(&daemon, "echo").await;
    let forged = forged_dtls();
    let others = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.2:0").await.unwrap()];
    for some in forged.chunks(4) {
        for datagram in some {
            for other in &others {
                let _ = other.send_to(datagram, port).await;
            }
            // Addresses can be forged, too.
            peer.socket.clone().send_to(datagram, port).await.unwrap();
        }
        peer.speak(Duration::from_millis(20)).await;
    }
    let said = forged.chunks(4).count();
    peer.until(|peer| echoed(peer) >= said * 95 / 100).await;
    peer.say(json!({ "type": "ping", "t": 1 })).await;
    peer.until(|peer| peer.was_told("pong")).await;
    assert!(daemon.metric("antiphon_queue_dropped_total", "unknown_peer").await >= forged.len() as f64);
    assert_eq!(daemon.metric("antiphon_sessions_started_total", "webrtc").await, 1.0);
}

#[tokio::test]
async fn what_strangers_send_leaves_a_call_unharmed() {
    let daemon = Daemon::start(&[]).await;
    let port = daemon.webrtc.unwrap();
    let mut peer = Peer::call(&daemon, "echo").await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let ufrag = peer.answer["sdp"].as_str().unwrap().split("a=ice-ufrag:").nth(1).unwrap()[..4].to_owned();
    let mut stun = vec![0, 1, 0, 8 + 4, 0x21, 0x12, 0xA4, 0x42];
    stun.extend([7; 12]);
    stun.extend([0, 6, 0, 8]);
    stun.extend(format!("{ufrag}:abc").as_bytes());
    let hello = [&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40][..], &[1; 40]].concat();
    let rtp = [&[0x80, 111, 0, 1, 0, 0, 0, 1, 0xDE, 0xAD, 0xBE, 0xEF][..], &[9; 60]].concat();
    let rubbish: Vec<Vec<u8>> = vec![
        stun.clone(),
        stun[..19].to_vec(),
        stun[..21].to_vec(),
        hello,
        rtp,
        vec![],
        vec![0],
        vec![255; 1500],
        vec![128; 12],
        vec![20; 8],
    ];
    for _ in 0..200 {
        for datagram in &rubbish {
            let _ = stranger.send_to(datagram, port).await;
        }
        peer.speak(Duration::from_millis(20)).await;
    }
    let spoof = peer.socket.clone();
    for datagram in &rubbish {
        spoof.send_to(datagram, port).await.unwrap();
    }
    peer.until(|peer| peer.heard.len() >= 195).await;
    peer.say(json!({ "type": "ping", "t": 1 })).await;
    peer.until(|peer| peer.was_told("pong")).await;
    assert!(daemon.metric("antiphon_queue_dropped_total", "unknown_peer").await >= 1000.0);
    assert_eq!(sessions(&daemon).await, 1.0);
    assert_eq!(daemon.metric("antiphon_sessions_started_total", "webrtc").await, 1.0);
}

#[tokio::test]
async fn g711_comes_back_unchanged_where_no_opus_is_offered() {
    let daemon = Daemon::start(&[]).await;
    for (codec, payload_type, name, silence) in [(Codec::PCMU, 0, "pcmu", 0xFF), (Codec::PCMA, 8, "pcma", 0xD5)] {
        let mut peer = Peer::signal_shaped(&daemon, json!({ "agent": "echo" }), codec, |offer| offer).await;
        let format = &peer.answer["started"]["audio"]["out"];
        assert_eq!((format["codec"].as_str(), format["rate"].as_u64()), (Some(name), Some(8000)));
        peer.until(|peer| peer.open && peer.connected.is_some()).await;
        let frames: Vec<Vec<u8>> = (0..50).map(|n| (0..160).map(|k| (n * 31 + k * 7) as u8).collect()).collect();
        for frame in &frames {
            peer.speak_frame(payload_type, 160, frame).await;
        }
        peer.until(|peer| peer.heard.len() >= 50).await;
        peer.live(Duration::from_millis(300)).await;
        assert_eq!(voices(&peer, &[silence; 160]), frames, "{name}: sample for sample");
    }
}

#[tokio::test]
async fn an_agent_hears_the_mean_of_a_stereo_caller() {
    let echoing = AgentServer::bind().await.echo();
    let config = format!(
        "[[route]]\nname = \"all\"\nanonymous = true\nto = \"mirror\"\n\
         [agent.mirror]\nkind = \"websocket\"\nurl = \"{}\"\naudio_in = \"pcm16/16000\"\naudio_out = \"pcm16/16000\"\n",
        echoing.url
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let stereo = |offer: String| offer.replace("useinbandfec=1", "useinbandfec=1;stereo=1;sprop-stereo=1");
    let mut peer = Peer::signal_shaped(&daemon, json!({ "conversation_id": "stereo" }), Codec::Opus, stereo).await;
    peer.until(|peer| peer.open && peer.connected.is_some() && peer.was_told("agent")).await;
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Stereo, opus::Application::Audio).unwrap();
    encoder.set_force_channels(Some(opus::Channels::Stereo)).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(128_000)).unwrap();
    let tone = |n: usize, rate: f64| 12_000.0 * (std::f64::consts::TAU * 440.0 * n as f64 / rate).sin();
    let both: Vec<i16> = (0..48_000).flat_map(|n| [tone(n, 48_000.0) as i16, 0]).collect();
    for frame in both.chunks(1920) {
        peer.speak_frame(111, 960, &encoder.encode_vec(frame, 4000).unwrap()).await;
    }
    peer.live(Duration::from_millis(300)).await;
    let heard: Vec<i16> =
        echoing.heard("stereo").chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    let loudest = heard[3_200..12_800].iter().map(|sample| sample.unsigned_abs()).max().unwrap();
    assert!((5_400..6_600).contains(&loudest), "half of the left channel: {loudest}");
}

#[tokio::test]
async fn the_answer_asks_for_what_the_route_wishes() {
    let answer = async |keys: &str| {
        let route = format!("[[route]]\nname = \"all\"\nanonymous = true\nto = \"requested\"\n{keys}");
        let daemon = Daemon::start_with(Some(&route), &[]).await;
        let peer = Peer::signal(&daemon, "echo").await;
        peer.answer["sdp"].as_str().unwrap().lines().find(|line| line.starts_with("a=fmtp:111")).unwrap().to_owned()
    };
    assert_eq!(answer("").await, "a=fmtp:111 minptime=10;useinbandfec=1");
    let keys = "audio = { client_dtx = true, client_bitrate = 64000 }\n";
    assert_eq!(answer(keys).await, "a=fmtp:111 minptime=10;useinbandfec=1;usedtx=1;maxaveragebitrate=64000");
}

/// Connects and closes, every other call by the client's signalling; gives how long the set-up took.
async fn connect_and_close(daemon: &Daemon, by_signalling: bool) -> Duration {
    let begun = Instant::now();
    let mut peer = Peer::signal(daemon, "echo").await;
    peer.until(|peer| peer.connected.is_some()).await;
    let took = begun.elapsed();
    if by_signalling {
        let (status, ..) = ask(daemon.http, "DELETE", &peer.resource.clone(), &[], "").await;
        assert_eq!(status, 200);
    } else {
        // SCTP that is still being set up cannot be shut down.
        peer.until(|peer| peer.open).await;
        peer.close().await;
    }
    took
}

#[tokio::test]
async fn a_call_that_ends_while_its_data_channel_is_set_up_ends_with_a_goodbye() {
    let daemon = Daemon::start(&[]).await;
    for _ in 0..5 {
        let mut peer = Peer::signal(&daemon, "echo").await;
        peer.until(|peer| peer.connected.is_some()).await;
        let (status, ..) = ask(daemon.http, "DELETE", &peer.resource.clone(), &[], "").await;
        assert_eq!(status, 200);
        peer.until(|peer| peer.closed).await;
    }
    until_sessions(&daemon, 0.0).await;
}

#[tokio::test]
async fn a_thousand_connects_and_closes_leave_no_session_no_descriptor_and_no_memory_behind() {
    let daemon = Daemon::start(&[]).await;
    connect_and_close(&daemon, false).await;
    until_sessions(&daemon, 0.0).await;
    let before = daemon.metric("process_open_fds", "").await;
    let (begun, mut setups, mut resident) = (Instant::now(), Vec::new(), Vec::new());
    for _ in 0..5 {
        for _ in 0..25 {
            let calls = (0..8).map(|number| connect_and_close(&daemon, number % 2 == 0));
            setups.extend(futures_util::future::join_all(calls).await);
        }
        until_sessions(&daemon, 0.0).await;
        resident.push(daemon.metric("process_resident_memory_bytes", "").await / 1e6);
    }
    setups.sort();
    let took = begun.elapsed();
    println!("{} calls in {took:?}; set-up p50 {:?}, p99 {:?}", setups.len(), setups[500], setups[989]);
    println!("resident after each 200, MB: {resident:.1?}");
    assert!(resident[4] - resident[2] < 3.0, "no plateau: {resident:.1?} MB after each 200 calls");
    let after = daemon.metric("process_open_fds", "").await;
    assert!(after <= before, "{before} descriptors before, {after} after");
    assert_eq!(daemon.metric("antiphon_sessions_started_total", "webrtc").await, 1001.0);
}

#[tokio::test]
async fn a_change_of_address_keeps_the_call() {
    let daemon = Daemon::start(&[("ANTIPHON_RUNTIME__WORKERS", "4")]).await;
    let mut peer = Peer::call(&daemon, "echo").await;
    peer.speak(Duration::from_millis(400)).await;
    let etag = peer.restart(&daemon).await;
    assert_ne!(etag, peer.etag);
    let stale = format!("if-match: {}", peer.etag);
    let kind = "content-type: application/trickle-ice-sdpfrag";
    let (status, ..) = ask(daemon.http, "PATCH", &peer.resource.clone(), &[kind, &stale], "a=candidate:1\r\n").await;
    assert_eq!(status, 412);
    let present = format!("if-match: {etag}");
    let (status, ..) = ask(daemon.http, "PATCH", &peer.resource.clone(), &[kind, &present], "a=candidate:1\r\n").await;
    assert_eq!(status, 204);
    peer.speak(Duration::from_secs(1)).await;
    peer.until(|peer| echoed(peer) >= 65).await;
    peer.say(json!({ "type": "ping", "t": 2 })).await;
    peer.until(|peer| peer.was_told("pong")).await;
    assert_eq!(sessions(&daemon).await, 1.0);
}

#[tokio::test]
async fn whip_answers_as_rfc_9725_says() {
    let daemon = Daemon::start(&[]).await;
    let (.., sdp, _) = Peer::offer().await;
    let sdp_type = "content-type: application/sdp";
    let post = async |headers: &[&str], body: &str| ask(daemon.http, "POST", "/whip?agent=echo", headers, body).await;

    let (status, head, body) = post(&[sdp_type], &sdp).await;
    assert_eq!(status, 201, "{head}\n{body}");
    assert!(body.starts_with("v=0") && body.contains("a=ice-lite") && body.contains("a=candidate:"), "{body}");
    assert_eq!(header(&head, "content-type"), Some("application/sdp"));
    let (location, etag) = (header(&head, "location").unwrap(), header(&head, "etag").unwrap());
    assert!(location.starts_with("/whip/") && etag.starts_with('"'), "{head}");

    let (status, ..) = ask(daemon.http, "PATCH", location, &[sdp_type], "").await;
    assert_eq!(status, 415);
    let trickle = "content-type: application/trickle-ice-sdpfrag";
    let (status, ..) = ask(daemon.http, "PATCH", location, &[trickle], "").await;
    assert_eq!(status, 428);
    let present = format!("if-match: {etag}");
    let (status, ..) = ask(daemon.http, "PATCH", location, &[trickle, &present], "a=candidate:1\r\n").await;
    assert_eq!(status, 204);
    let (status, ..) = ask(daemon.http, "GET", location, &[], "").await;
    assert_eq!(status, 204);
    let (status, ..) = ask(daemon.http, "DELETE", location, &[], "").await;
    assert_eq!(status, 200);
    let (status, ..) = ask(daemon.http, "DELETE", location, &[], "").await;
    assert_eq!(status, 404);

    let (status, head, _) = ask(daemon.http, "OPTIONS", "/whip", &[], "").await;
    assert_eq!((status, header(&head, "accept-post")), (204, Some("application/sdp")));
    assert_eq!(post(&["content-type: text/plain"], &sdp).await.0, 415);
    assert_eq!(post(&[sdp_type], "hello").await.0, 400);
    assert_eq!(post(&[sdp_type], "v=0\r\n").await.0, 400);
    assert_eq!(post(&[sdp_type], &sdp.replace("a=sendrecv", "a=recvonly")).await.0, 422);
    assert_eq!(post(&[sdp_type], &format!("{sdp}{}", "a=x\r\n".repeat(600))).await.0, 400);
    let (status, _, body) = ask(daemon.http, "POST", "/whip?agent=nobody", &[sdp_type], &sdp).await;
    assert_eq!(status, 404, "{body}");
}

#[tokio::test]
async fn a_peer_that_vanishes_is_reaped_after_the_grace() {
    let config =
        "[webrtc]\ngrace_s = 3\n[[route]]\nname = \"all\"\nanonymous = true\nto = \"requested\"\nresume_window_s = 0\n";
    let daemon = Daemon::start_with(Some(config), &[]).await;
    let peer = Peer::call(&daemon, "echo").await;
    drop(peer);
    let begun = Instant::now();
    until_sessions(&daemon, 0.0).await;
    let took = begun.elapsed();
    assert!((2..6).contains(&took.as_secs()), "{took:?}");
}

/// An implementation that shares no code with ours. `.venv` comes from `./setup`.
#[tokio::test]
async fn aiortc_holds_a_spoken_call() {
    let daemon = Daemon::start(&[]).await;
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/webrtc/aiortc_call.py");
    let speech = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/speech.ogg");
    let output = tokio::process::Command::new(python)
        .args([script, &format!("http://{}", daemon.http), "echo", speech, "5"])
        .output()
        .await
        .expect("run ./setup first: it makes .venv");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(text.trim())
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    println!("aiortc: set-up {} ms, likeness {}", report["setup_ms"], report["likeness"]);
    assert!(report["likeness"][0].as_f64().unwrap() > 0.9, "{report}");
    assert_eq!(report["state_at_end"], "closed", "close_notify reached it");
    let kinds = report["kinds"].as_array().unwrap();
    for kind in ["started", "turn", "pong", "stats", "ended"] {
        assert!(kinds.iter().any(|known| known == kind), "`{kind}` is missing in {kinds:?}");
    }
}

/// A call of headless Chromium, with a file for its microphone; what the page saw. `lost_of_100` packets are lost on
/// their way to the daemon.
async fn chromium_call(daemon: &Daemon, seconds: &str, lost_of_100: &str) -> Value {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/webrtc/chromium_call.py");
    let speech = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/speech.ogg");
    let microphone = daemon.folder.join("microphone.wav").display().to_string();
    let code = "import av,sys,wave
out=wave.open(sys.argv[2],'wb');out.setnchannels(1);out.setsampwidth(2);out.setframerate(48000)
mono=av.AudioResampler(format='s16',layout='mono',rate=48000)
for frame in av.open(sys.argv[1]).decode(audio=0):
    for piece in mono.resample(frame): out.writeframes(bytes(piece.planes[0])[:2*piece.samples])";
    let made = tokio::process::Command::new(python).args(["-c", code, speech, &microphone]).status().await;
    assert!(made.expect("run ./setup first: it makes .venv").success());
    let output = tokio::process::Command::new(python)
        .args([script, &format!("http://{}", daemon.http), "echo", &microphone, seconds, lost_of_100])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let seen: Value = serde_json::from_str(text.trim())
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    println!("Chromium: set-up {} ms, packets in and lost {}", seen["setup_ms"], seen["inbound"]);
    assert_eq!(
        (seen["status"].as_u64(), seen["started"]["agent"]["name"].as_str()),
        (Some(201), Some("echo")),
        "{seen}"
    );
    seen
}

/// A browser.
#[tokio::test]
async fn chromium_holds_a_spoken_call() {
    let daemon = Daemon::start(&[]).await;
    let seen = chromium_call(&daemon, "5", "0").await;
    assert!(seen["inbound"][0].as_u64().unwrap() > 100 && seen["inbound"][1] == 0, "{seen}");
    assert!(seen["loud_ms"].as_u64().unwrap() > 1000, "the echo is heard: {seen}");
    assert!(seen["messages"].as_array().unwrap().iter().any(|message| message["type"] == "ended"), "{seen}");
}

/// The demo through an SSH forward: UDP reaches nobody, ICE-TCP does.
#[tokio::test]
async fn chromium_holds_a_spoken_call_through_a_tcp_forward() {
    let forwarded = Forwarded::start("2").await;
    let seen = chromium_call(&forwarded.daemon, "5", "0").await;
    assert!(seen["inbound"][0].as_u64().unwrap() > 100 && seen["inbound"][1] == 0, "{seen}");
    assert!(seen["loud_ms"].as_u64().unwrap() > 1000, "the echo is heard: {seen}");
    assert!(forwarded.daemon.metric("antiphon_connections_accepted_total", "webrtc").await >= 1.0);
}

#[tokio::test]
async fn chromium_retransmits_lost_audio_in_time_where_the_route_is_accurate() {
    let route = "[[route]]\nname = \"all\"\nanonymous = true\nto = \"requested\"\naudio.gap = \"accurate\"\n";
    let daemon = Daemon::start_with(Some(route), &[]).await;
    let seen = chromium_call(&daemon, "6", "10").await;
    assert!(seen["answer"].as_str().unwrap().contains("a=rtcp-fb:111 nack\r\n"), "{}", seen["answer"]);
    let [lost, again] = ["lost", "came_again"].map(|kind| seen["relay"][kind].as_u64().unwrap());
    println!(
        "{lost} packets lost, {again} sent again; Chromium counts {} of {}",
        seen["retransmitted"], seen["outbound"]
    );
    // Nobody misses the packets before the first that came and after the last.
    assert!(lost >= 15 && again >= lost * 3 / 4, "{again} of {lost} were sent again");
    let stats = seen["messages"].as_array().unwrap().iter().find(|message| message["type"] == "stats").unwrap();
    assert!(stats["lost"].as_u64().unwrap() <= 2, "what was sent again filled the gaps: {stats}");
}

#[tokio::test]
async fn nack_is_agreed_only_where_the_route_is_accurate() {
    let daemon = Daemon::start(&[]).await;
    let seen = chromium_call(&daemon, "4", "10").await;
    assert!(!seen["answer"].as_str().unwrap().contains("nack"), "{}", seen["answer"]);
    assert_eq!(seen["relay"]["came_again"], 0, "{seen}");
}
