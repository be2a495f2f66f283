//! The command line as people use it: `antiphon call` against a daemon, and the examples.

mod harness;

use std::path::{Path, PathBuf};
use std::time::Duration;

use antiphon::media::clip::Clip;
use antiphon::media::format::Format;
use harness::program::{Program, emulate};
use harness::speech::{ClientCodec, correlation, utterances};
use harness::{Daemon, PATIENCE, folder, run, run_for};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

/// A call that was made to its end.
struct Called {
    code: Option<i32>,
    out: String,
    err: String,
    reply: PathBuf,
}

impl Called {
    /// Makes a call with `--json`.
    async fn json(url: &str, arguments: &[&str]) -> (Called, Value) {
        let called = Called::with(url, &[&["--json"], arguments].concat()).await;
        assert_eq!(called.out.lines().count(), 1, "one JSON object and nothing else: {}", called.out);
        let report = serde_json::from_str(&called.out).unwrap();
        (called, report)
    }

    async fn with(url: &str, arguments: &[&str]) -> Called {
        let reply = folder().join("reply.wav");
        let own = ["call", "--url", url, "--out", reply.to_str().unwrap()];
        let output = run_for(3 * PATIENCE, &[&own, arguments].concat(), &[]).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Called { code: output.status.code(), out: text(output.stdout), err: text(output.stderr), reply }
    }

    /// What was recorded.
    fn reply(&self) -> Clip {
        Clip::parse(&std::fs::read(&self.reply).unwrap()).unwrap()
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.reply.parent().unwrap());
    }
}

fn url(daemon: &Daemon) -> String {
    format!("http://{}", daemon.http)
}

/// A second of speech at 16 kHz as a WAV file, and its samples.
fn short_wav() -> (PathBuf, Clip) {
    let mut clip = utterances(16_000).swap_remove(0).clip;
    clip.samples.truncate(16_000);
    let file = folder().join("speech.wav");
    std::fs::write(&file, clip.to_wav()).unwrap();
    (file, clip)
}

/// Where `part` begins in `whole`, sample for sample.
fn position(whole: &[i16], part: &[i16]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

#[tokio::test]
async fn a_first_call_hears_a_story_interrupts_it_and_tells_how_much_was_heard() {
    let transports = ["websocket", "webrtc", "quic", "webtransport"];
    futures_util::future::join_all(transports.map(hear_a_story_and_interrupt)).await;
}

async fn hear_a_story_and_interrupt(transport: &str) {
    let daemon = Daemon::start(&[]).await;
    let (called, report) = Called::json(&url(&daemon), &["--transport", transport]).await;
    assert_eq!((called.code, &report["ok"], &report["error"]), (Some(0), &json!(true), &Value::Null), "{report}");
    assert_eq!((&report["transport"], &report["agent"]), (&json!(transport), &json!("storyteller")));
    for key in ["setup_ms", "first_audio_ms", "answer_ms"] {
        assert!(report[key].as_f64().is_some_and(|ms| ms > 0.0), "{key}: {report}");
    }
    for way in ["up", "down"] {
        assert!(report["added_ms"][way]["p99"].as_f64().is_some_and(|ms| ms > 0.0), "{way}: {report}");
    }
    assert_eq!((&report["frames"]["lost"], &report["frames"]["concealed"]), (&json!(0), &json!(0)));

    let heard = &report["heard"];
    assert_eq!(heard.as_array().map(Vec::len), Some(1), "one answer was interrupted: {report}");
    let (ms, of_ms) = (heard[0]["ms"].as_u64().unwrap(), heard[0]["of_ms"].as_u64().unwrap());
    assert_eq!((&heard[0]["basis"], &heard[0]["turn"]), (&json!("reported"), &json!(1)));
    assert!((2_500..of_ms).contains(&ms), "3 s and the time until the voice is noticed: {report}");

    let record = daemon.call_record().await;
    assert_eq!((&record["interruptions"], &record["reason"]), (&json!(1), &json!("client_hangup")), "{record}");
    assert!(record["turns"].as_u64().unwrap() >= 2, "the story went on: {record}");
    assert_eq!(record["session_id"], report["session_id"]);
    let reply = called.reply();
    assert_eq!(reply.duration().as_millis() as u64, report["reply_ms"].as_u64().unwrap());
    assert!(reply.samples.iter().any(|sample| sample.unsigned_abs() > 3_000), "one hears something in the reply");
}

#[tokio::test]
async fn a_callers_own_words_come_back_from_an_echo_to_the_last_frame() {
    let daemon = Daemon::start(&[]).await;
    let (file, clip) = short_wav();
    let url = url(&daemon);
    let formats: [&[&str]; 4] =
        [&[], &["--codec", "pcm16", "--rate", "16000"], &["--codec", "pcmu"], &["--codec", "pcma"]];
    let calls = formats.map(async |format| {
        let arguments = [&[file.to_str().unwrap(), "--agent", "echo"], format].concat();
        (format, Called::json(&url, &arguments).await)
    });
    for (format, (called, report)) in futures_util::future::join_all(calls).await {
        assert_eq!((called.code, &report["ok"]), (Some(0), &json!(true)), "{format:?}: {report}");
        let frames = &report["frames"];
        assert!(frames["sent"].as_u64().unwrap() >= 50, "{report}");
        assert_eq!(frames["sent"], frames["received"], "{format:?}: {report}");
        assert_eq!((&frames["lost"], &frames["concealed"]), (&json!(0), &json!(0)), "{report}");
        for key in ["p50", "p99"] {
            assert!(report["rtt_ms"][key].as_f64().is_some_and(|ms| ms >= 0.0), "{format:?}: {report}");
        }
        let reply = called.reply();
        if format.contains(&"pcm16") {
            assert_heard(&clip.samples, &reply.samples, 16_000);
        }
        if format.contains(&"pcmu") {
            let said = clip.clone().resampled(8_000).unwrap().samples;
            let mut codec = ClientCodec::new(Format::PCMU);
            let frames = codec.encode(&said);
            let coded = codec.decode(&frames);
            assert_heard(&coded, &reply.samples, 8_000);
        }
    }
    let _ = std::fs::remove_dir_all(file.parent().unwrap());
}

/// By an implementation of WebRTC that shares no code with the daemon's.
#[tokio::test]
async fn over_webrtc_the_same_speech_comes_back_and_the_set_up_is_quick() {
    let daemon = Daemon::start(&[("ANTIPHON_AGENT__ECHO__DELAY_MS", "100")]).await;
    let (file, clip) = short_wav();
    let arguments = ["--transport", "webrtc", "--agent", "echo", file.to_str().unwrap()];
    let mut setups = Vec::new();
    for codec in ["pcmu", "opus", "opus", "pcma", "opus"] {
        let (called, report) = Called::json(&url(&daemon), &[&arguments[..], &["--codec", codec]].concat()).await;
        assert_eq!((called.code, &report["ok"], &report["error"]), (Some(0), &json!(true), &Value::Null), "{report}");
        let frames = &report["frames"];
        assert_eq!((&frames["sent"], &frames["lost"], &frames["concealed"]), (&json!(50), &json!(0), &json!(0)));
        assert!(report["rtt_ms"]["p50"].as_f64().is_some() && report["session_id"].is_string(), "{report}");
        let stages = &report["stages_ms"];
        setups.push(stages["admission"].as_f64().unwrap() + stages["media"].as_f64().unwrap());
        let format = match codec {
            "pcmu" => Format::PCMU,
            "pcma" => Format::PCMA,
            _ => Format::OPUS,
        };
        let said = clip.clone().resampled(format.rate).unwrap().samples;
        let mut client = ClientCodec::new(format);
        let coded = client.encode(&said);
        let alike = best_correlation(&client.decode(&coded), &called.reply().samples, format.rate as usize / 5);
        assert!(alike > 0.9, "{codec}: {alike}");
    }
    setups.sort_by(f64::total_cmp);
    println!("WebRTC set-up in ms, offer sent to connected: {setups:?}");
    assert!(setups[setups.len() / 2] < 100.0, "{setups:?}");
    let _ = std::fs::remove_dir_all(file.parent().unwrap());
}

#[tokio::test]
async fn over_quic_and_webtransport_the_same_samples_come_back() {
    let daemon = Daemon::start(&[("ANTIPHON_AGENT__ECHO__DELAY_MS", "100")]).await;
    let (file, clip) = short_wav();
    let url = url(&daemon);
    // PCM at 48 kHz fits into no datagram of the smallest path: it goes in two packets.
    let formats = [("pcm16", 16_000), ("pcm16", 48_000), ("opus", 48_000)];
    let calls = ["quic", "webtransport"].into_iter().flat_map(|transport| formats.map(|format| (transport, format)));
    for (transport, (codec, rate)) in calls {
        let arguments = ["--transport", transport, "--agent", "echo", "--codec", codec, file.to_str().unwrap()];
        let (called, report) = Called::json(&url, &[&arguments[..], &["--rate", &rate.to_string()]].concat()).await;
        assert_eq!((called.code, &report["ok"], &report["error"]), (Some(0), &json!(true), &Value::Null), "{report}");
        assert_eq!((&report["transport"], &report["frames"]["lost"]), (&json!(transport), &json!(0)), "{report}");
        for stage in ["endpoints", "connect", "admission", "agent"] {
            assert!(report["stages_ms"][stage].as_f64().is_some_and(|ms| ms >= 0.0), "{stage}: {report}");
        }
        assert!(report["rtt_ms"]["p50"].as_f64().is_some(), "{report}");
        if codec == "pcm16" {
            assert_heard(&clip.clone().resampled(rate).unwrap().samples, &called.reply().samples, rate);
        }
    }
    let _ = std::fs::remove_dir_all(file.parent().unwrap());
}

/// The very samples that were said are in what was heard, in pieces of 50 ms: on a busy machine the speaker may run empty
/// for a moment, which is in the reply as it was heard.
fn assert_heard(said: &[i16], heard: &[i16], rate: u32) {
    let pieces = said.chunks(rate as usize / 20);
    let found = pieces.clone().filter(|piece| position(heard, piece).is_some()).count();
    assert!(found * 4 >= pieces.len() * 3, "{rate}: {found} pieces of {}", pieces.len());
}

/// The best correlation of a tenth of a second of speech with what was heard up to `lags` samples away from it: where a
/// busy machine held a frame up, the speaker paused.
fn best_correlation(said: &[i16], heard: &[i16], lags: usize) -> f64 {
    let piece = &said[said.len() / 2..said.len() * 6 / 10];
    let around = said.len() / 2 - lags..said.len() / 2 + lags;
    let windows = around.filter_map(|at| heard.get(at..at + piece.len()));
    windows.map(|window| correlation(piece, window)).fold(0.0, f64::max)
}

#[tokio::test]
async fn without_json_a_human_reads_what_the_call_showed() {
    let daemon = Daemon::start(&[]).await;
    let (file, _) = short_wav();
    let called = Called::with(&url(&daemon), &[file.to_str().unwrap(), "--agent", "echo"]).await;
    assert_eq!(called.code, Some(0), "{}", called.err);
    let reply = called.reply.display().to_string();
    for part in ["set-up", "first audio", "added", "round trip", "lost 0", "concealed 0", &reply] {
        assert!(called.out.contains(part), "`{part}` is missing in:\n{}", called.out);
    }
    let _ = std::fs::remove_dir_all(file.parent().unwrap());
}

#[tokio::test]
async fn an_ogg_file_can_be_spoken() {
    let daemon = Daemon::start(&[("ANTIPHON_AGENT__ECHO__DELAY_MS", "0")]).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/speech.ogg");
    let (called, report) = Called::json(&url(&daemon), &[file.to_str().unwrap(), "--agent", "echo"]).await;
    assert_eq!((called.code, &report["ok"]), (Some(0), &json!(true)), "{report}");
    assert_eq!(report["frames"]["sent"], report["frames"]["received"], "{report}");
}

/// A failed call says why in its JSON and to a human, and leaves no reply behind.
async fn assert_refused(url: &str, arguments: &[&str], code: i32, parts: &[&str]) {
    let (called, report) = Called::json(url, arguments).await;
    let error = report["error"].as_str().unwrap_or_default();
    assert_eq!((called.code, &report["ok"]), (Some(code), &json!(false)), "{report}");
    let said = Called::with(url, arguments).await;
    assert_eq!(said.code, Some(code));
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
        assert!(said.err.contains(part), "`{part}` is missing in: {}", said.err);
    }
    assert!(!called.reply.exists() && !said.reply.exists(), "nothing was heard");
}

#[tokio::test]
async fn a_call_that_fails_says_why_and_what_to_do() {
    let daemon = Daemon::start(&[]).await;
    let there = url(&daemon);
    let nowhere = {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", free.local_addr().unwrap())
    };
    assert_refused(&nowhere, &[], 1, &[nowhere.trim_start_matches("http://"), "is the daemon running", "antiphon run"])
        .await;
    assert_refused("localhost", &[], 2, &["`localhost`", "http://127.0.0.1:8080"]).await;
    assert_refused("ftp://localhost", &[], 2, &["`ftp`", "http://127.0.0.1:8080"]).await;
    assert_refused(&format!("{there}/other"), &[], 1, &["/other/v1/session", "404"]).await;
    assert_refused(&format!("http://{}", daemon.control), &[], 1, &["404"]).await;
    assert_refused(&there, &["--agent", "nobody"], 1, &["`nobody`", "antiphon route explain --agent nobody"]).await;
    assert_refused(&there, &["--codec", "pcm16", "--rate", "11025"], 2, &["11025", "16000", "--rate"]).await;
    assert_refused(&there, &["--codec", "pcmu", "--rate", "16000"], 2, &["pcmu", "8000", "--rate"]).await;
    assert_refused(&there, &["nothing.wav"], 2, &["nothing.wav", "No such file"]).await;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    assert_refused(&there, &[source.to_str().unwrap()], 2, &["Cargo.toml", "WAV", "Ogg Opus"]).await;

    let output = run(&["call", "--codec", "mp3", "--url", &there], &[]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(["mp3", "opus", "pcm16", "pcmu", "pcma"].iter().all(|part| error.contains(part)), "{error}");
    let output = run(&["call", "--out", "/nowhere/reply.wav", "--url", &there], &[]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error.contains("/nowhere/reply.wav") && error.contains("--out"), "{error}");
}

#[tokio::test]
async fn a_call_to_an_agent_that_cannot_be_reached_says_so() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = format!("[agent.gone]\nkind = \"websocket\"\nurl = \"ws://{nowhere}/\"\n");
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    assert_refused(&url(&daemon), &["--agent", "gone"], 1, &[&nowhere.to_string()]).await;
}

#[tokio::test]
async fn an_emulated_echo_hears_every_frame_and_sends_it_back() {
    for protocol in ["native", "plain"] {
        let (mut agent, agent_url) =
            emulate(&["--mode", "echo", "--protocol", protocol, "--format", "pcm16/16000"]).await;
        let config = format!(
            "[[route]]\nname = \"all\"\nto = \"emulated\"\naudio.stall_ms = 5000\n[agent.emulated]\nkind = \"websocket\"\n\
             url = \"{agent_url}\"\nprotocol = \"{protocol}\"\naudio_in = \"pcm16/16000\"\naudio_out = \"pcm16/16000\"\n"
        );
        let daemon = Daemon::start_with(Some(&config), &[]).await;
        let report = harness::echo_call(&daemon, Duration::from_secs(2)).await;
        assert_eq!(report.wrong, 0, "{protocol}: {report:?}");
        let closed = agent.event("closed").await;
        let figures = ["audio_frames", "audio_bytes", "sent_ms"].map(|key| closed[key].as_u64().unwrap());
        assert_eq!(figures, [100, 64_000, 2_000], "{protocol}: {closed}");
    }
}

#[tokio::test]
async fn an_emulated_agent_is_interrupted_and_told_how_much_was_heard() {
    let (mut agent, agent_url) = emulate(&["--mode", "talk"]).await;
    let config = format!(
        "[[route]]\nname = \"all\"\nto = \"emulated\"\n[agent.emulated]\nkind = \"websocket\"\nurl = \"{agent_url}\"\n"
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let (file, _) = short_wav();
    let (called, report) = Called::json(&url(&daemon), &[file.to_str().unwrap()]).await;
    assert_eq!((called.code, &report["ok"]), (Some(0), &json!(true)), "{report}");
    let heard = &report["heard"][0];
    assert_eq!(heard["basis"], "reported", "{report}");
    agent.event("stopped").await;
    let answer = loop {
        let message = agent.event("message").await["message"].clone();
        if message["type"] == "playout" && message["flush"].is_number() {
            break message;
        }
    };
    let told_ms = answer["pos"].as_f64().unwrap() / 24.0;
    // `ms` is cut to whole milliseconds.
    assert!((told_ms - heard["ms"].as_f64().unwrap()).abs() < 1.1, "{answer} {heard}");
    let _ = std::fs::remove_dir_all(file.parent().unwrap());
}

fn python(script: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join(".venv/bin/python"));
    command.arg(root.join("examples").join(script)).kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_example_agent_answers_the_example_caller() {
    let mut command = python("agent.py");
    command.arg("0");
    let mut agent = Program::start(command);
    let listening = agent.line().await;
    let port = listening.rsplit(' ').next().unwrap().trim_end_matches(')');
    let config = format!(
        "[agent.example]\nkind = \"websocket\"\nurl = \"ws://127.0.0.1:{port}\"\n\
         audio_in = \"pcm16/16000\"\naudio_out = \"pcm16/24000\"\n[[route]]\nname = \"all\"\nto = \"example\"\n"
    );
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let (file, _) = short_wav();
    let reply = file.with_file_name("reply.wav");
    let mut caller = python("caller.py");
    caller.arg(format!("ws://{}/v1/session", daemon.http)).args([&file, &reply]);
    let output = timeout(PATIENCE, caller.output()).await.expect("the caller does not hang up").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let messages: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |role: &str| {
        let of_role = messages.iter().filter(|message| message["type"] == "transcript" && message["role"] == role);
        of_role.filter_map(|message| message["text"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert!(said("agent").contains(&"Hello!".to_owned()), "it greets: {text}");
    assert!(said("agent").contains(&"La la la la.".to_owned()), "it answers: {text}");
    assert!(said("user").iter().any(|words| words.contains("dBFS")), "it has heard the caller: {text}");
    let ended = messages.last().unwrap();
    assert_eq!((&ended["type"], &ended["reason"]), (&json!("ended"), &json!("client_hangup")), "{text}");
    let reply = Clip::parse(&std::fs::read(&reply).unwrap()).unwrap();
    assert!(reply.duration() > Duration::from_millis(1500), "greeting and answer: {:?}", reply.duration());
    assert!(reply.samples.iter().any(|sample| sample.unsigned_abs() > 3_000), "one hears something in the reply");
    let _ = std::fs::remove_dir_all(file.parent().unwrap());
}
