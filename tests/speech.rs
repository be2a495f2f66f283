//! Real speech through the whole daemon: from the client to an agent that sends it back, and back to the client.
//!
//! What comes back is compared at the client's own sample positions: nothing may be missing, doubled or moved, and it
//! must sound as after the codecs alone (PESQ-WB, ITU-T P.862.2).

mod harness;

use std::time::Duration;

use antiphon::media::clip::Clip;
use antiphon::media::format::{Codec, Format};
use antiphon::media::transcode::payload_ticks;
use futures_util::{SinkExt, StreamExt};
use harness::agent::{AgentServer, Echoing};
use harness::speech::{ClientCodec, Direct, Pair, Utterance, correlation, direct, pesq, utterances};
use harness::{Caller, Daemon, PATIENCE};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// How far below the codecs alone speech through the daemon may score.
const TOLERANCE: f64 = 0.1;
const NATIVE: &str = "protocol = \"native\"";
const PLAIN: &str = "protocol = \"plain\"";
const PLAIN_WITH_START: &str = "protocol = \"plain\"\nstart = true";
const OPUS: Format = Format::OPUS;

/// A daemon whose agent `mirror` is at `url` and speaks `agent`. A busy test machine is not a silent caller: silence is
/// made up late.
async fn daemon(url: &str, agent: Format, protocol: &str, workers: &str) -> Daemon {
    let config = format!(
        "[[route]]\nname = \"all\"\nto = \"mirror\"\naudio.stall_ms = 5000\n\
         [agent.mirror]\nkind = \"websocket\"\nurl = \"{url}\"\n{protocol}\n\
         audio_in = \"{agent}\"\naudio_out = \"{agent}\"\n"
    );
    Daemon::start_with(Some(&config), &[("ANTIPHON_RUNTIME__WORKERS", workers)]).await
}

/// Sends the frames in real time to `mirror` and gives what comes back, `ticks` of it at least, and `ended`.
async fn say_and_hear(
    daemon: &Daemon,
    name: &str,
    format: Format,
    frames: &[Bytes],
    ticks: u64,
) -> (Vec<Bytes>, Value) {
    let mut caller = Caller::connect(daemon).await;
    let audio = json!({ "codec": format.codec.to_string(), "rate": format.rate });
    caller.say(json!({ "type": "start", "conversation_id": name, "audio": { "in": audio, "out": audio } })).await;
    while caller.hear_type("agent").await["status"] != "ready" {}
    let (mut sink, mut stream) = caller.socket.split();
    let speaking = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for frame in frames {
            pace.tick().await;
            sink.send(Message::Binary(frame.clone())).await.unwrap();
        }
        sink
    };
    let hearing = async {
        let (mut back, mut got) = (Vec::new(), 0);
        while got < ticks {
            match timeout(PATIENCE, stream.next()).await.expect("what was said does not come back") {
                Some(Ok(Message::Binary(frame))) => {
                    got += u64::from(payload_ticks(&format, &frame).expect("a frame of the format"));
                    back.push(frame);
                }
                Some(Ok(_)) => {}
                end => panic!("the call was ended: {end:?}"),
            }
        }
        (back, stream)
    };
    let (sink, (back, stream)) = tokio::join!(speaking, hearing);
    let mut caller = Caller { socket: sink.reunite(stream).unwrap() };
    caller.say(json!({ "type": "end" })).await;
    (back, caller.hear_type("ended").await)
}

/// One utterance there and back.
struct Returned {
    utterance: Utterance,
    /// What was sent.
    frames: Vec<Bytes>,
    /// What came back.
    back: Vec<Bytes>,
}

/// All utterances there and back, at the same time.
async fn there_and_back(daemon: &Daemon, format: Format) -> Vec<Returned> {
    let calls = utterances(format.rate).into_iter().map(async |utterance| {
        let frames = ClientCodec::new(format).encode(&utterance.clip.samples);
        // All but a part of the silence at the end: codecs keep back some of it.
        let ticks = (frames.len() as u64 - 5) * format.time_to_ticks(Duration::from_millis(20));
        let (back, ended) = say_and_hear(daemon, &utterance.name, format, &frames, ticks).await;
        let stats = &ended["stats"];
        let made_up = [&stats["lost"], &stats["concealed_ms"], &stats["filled_ms"]];
        assert!(made_up.iter().all(|figure| **figure == 0), "{}: nothing was lost: {stats}", utterance.name);
        Returned { utterance, frames, back }
    });
    futures_util::future::join_all(calls).await
}

/// What was heard at one place on the way, by the codecs alone and through the daemon.
struct Listener<'a> {
    name: String,
    /// What was said.
    said: &'a Clip,
    alone: Direct,
    samples: Vec<i16>,
}

/// Holds what the agent and the caller heard to what the codecs alone do with it.
fn assert_same_speech(client: Format, agent: Format, echoing: &Echoing, returned: &[Returned]) {
    let mut listeners = Vec::new();
    for Returned { utterance, frames, back } in returned {
        let [up, down] = direct(client, agent, frames);
        let at_agent = ClientCodec::new(agent).decode(&[echoing.heard(&utterance.name).into()]);
        let at_caller = ClientCodec::new(client).decode(back);
        for (who, alone, samples) in [("agent", up, at_agent), ("caller", down, at_caller)] {
            let name = format!("{} at the {who}", utterance.name);
            let alike = correlation(&samples, &alone.samples);
            assert!(alike > 0.99, "{name}: at the same positions it is not what the codecs alone give: {alike:.4}");
            listeners.push(Listener { name, said: &utterance.clip, alone, samples });
        }
    }
    let pairs: Vec<_> = listeners.iter().flat_map(|listener| listener.pairs()).collect();
    let scores = pesq(&pairs);
    for listener in &listeners {
        let [score, alone] = ["daemon", "alone"].map(|way| scores[&format!("{} {way}", listener.name)]);
        let name = format!("{client} <-> {agent}, {}", listener.name);
        let same = listener.samples.iter().zip(&listener.alone.samples).all(|(daemon, alone)| daemon == alone);
        println!("{name}: PESQ-WB {score:.3}, codecs alone {alone:.3}, every sample the same: {same}");
        assert!(score >= alone - TOLERANCE, "{name}: {score:.3}, but codecs alone {alone:.3}");
    }
}

impl Listener<'_> {
    fn pairs(&self) -> [Pair<'_>; 2] {
        // The silence at the end may still be on its way.
        let frames = self.said.samples.len() / (self.said.rate as usize / 50) - 10;
        let (original, rate, from) =
            (&self.said.samples[..frames * self.said.rate as usize / 50], self.alone.rate, self.alone.delay);
        [("daemon", &self.samples), ("alone", &self.alone.samples)].map(|(way, heard)| Pair {
            name: format!("{} {way}", self.name),
            original: (original, self.said.rate),
            heard: (&heard[from..from + frames * rate as usize / 50], rate),
        })
    }
}

/// The utterances, through a daemon that has to transcode them.
async fn assert_transcoded(client: Format, agent: Format, protocol: &str, workers: &str) {
    let echoing = AgentServer::bind().await.echo();
    let daemon = daemon(&echoing.url, agent, protocol, workers).await;
    let returned = there_and_back(&daemon, client).await;
    assert_same_speech(client, agent, &echoing, &returned);
    let transcoded = daemon.metric("antiphon_added_latency_seconds_count", "path=\"transcode\"").await;
    assert!(transcoded > 0.0, "it was transcoded");
}

/// The utterances, through a daemon that has nothing to do with their samples.
async fn assert_passed_through(format: Format, protocol: &str) {
    let echoing = AgentServer::bind().await.echo();
    let daemon = daemon(&echoing.url, format, protocol, "2").await;
    for Returned { utterance, frames, back } in there_and_back(&daemon, format).await {
        if format.codec == Codec::Opus {
            assert_eq!(back[..], frames[..back.len()], "{}: the packets are the same", utterance.name);
        }
        let (sent, back) = (frames.concat(), back.concat());
        let wrong = back.iter().zip(&sent).filter(|(back, sent)| back != sent).count();
        assert_eq!(wrong, 0, "{format} {}: {wrong} of {} bytes came back changed", utterance.name, back.len());
        println!("{format} {}: {} bytes came back as they were", utterance.name, back.len());
    }
}

#[tokio::test]
async fn an_opus_caller_and_a_24_khz_agent_hear_the_same_speech_with_one_worker() {
    assert_transcoded(OPUS, Format::pcm16(24_000), NATIVE, "1").await;
}

#[tokio::test]
async fn an_opus_caller_and_a_24_khz_agent_hear_the_same_speech_with_four_workers() {
    assert_transcoded(OPUS, Format::pcm16(24_000), NATIVE, "4").await;
}

#[tokio::test]
async fn an_opus_caller_and_a_16_khz_agent_hear_the_same_speech() {
    assert_transcoded(OPUS, Format::pcm16(16_000), NATIVE, "2").await;
}

#[tokio::test]
async fn an_opus_caller_and_a_plain_agent_hear_the_same_speech() {
    assert_transcoded(OPUS, Format::pcm16(16_000), PLAIN_WITH_START, "2").await;
}

#[tokio::test]
async fn a_mu_law_caller_and_a_16_khz_agent_hear_the_same_speech() {
    assert_transcoded(Format::PCMU, Format::pcm16(16_000), NATIVE, "2").await;
}

#[tokio::test]
async fn an_a_law_caller_and_a_16_khz_agent_hear_the_same_speech() {
    assert_transcoded(Format::PCMA, Format::pcm16(16_000), NATIVE, "2").await;
}

#[tokio::test]
async fn a_16_khz_caller_and_a_24_khz_agent_hear_the_same_speech() {
    assert_transcoded(Format::pcm16(16_000), Format::pcm16(24_000), NATIVE, "2").await;
}

#[tokio::test]
async fn pcm_of_the_same_rate_passes_through_bit_exact() {
    assert_passed_through(Format::pcm16(24_000), NATIVE).await;
}

#[tokio::test]
async fn g711_of_the_same_law_passes_through_bit_exact() {
    tokio::join!(assert_passed_through(Format::PCMU, NATIVE), assert_passed_through(Format::PCMA, NATIVE));
}

#[tokio::test]
async fn opus_passes_through_packet_by_packet() {
    assert_passed_through(OPUS, NATIVE).await;
}

#[tokio::test]
async fn a_plain_agent_without_a_start_message_gets_and_gives_bare_samples() {
    assert_passed_through(Format::pcm16(16_000), PLAIN).await;
}
