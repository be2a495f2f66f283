//! Speech over a bad network: what the agent hears of a caller whose packets are lost and come out of order.
//!
//! Everything runs in virtual time, with fixed seeds. What the agent hears is held against two others that get the same
//! packets: libopus with all the time in the world, and aiortc's receiver (PESQ-WB, ITU-T P.862.2).

mod harness;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use antiphon::media::format::Format;
use antiphon::message::{AudioIn, RtpMeta};
use antiphon::route::plan::Policy;
use antiphon::session::Carriage;
use antiphon::session::uplink::{Uplink, UplinkOutput};
use antiphon::time::Micros;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::speech::{Pair, Utterance, corpus, pesq};
use serde_json::json;
use tokio_tungstenite::tungstenite::Bytes;

/// How far below libopus with all the time in the world speech may score.
const TOLERANCE: f64 = 0.05;
/// Mean and spread of what the network adds to a packet's delay: uniform from zero to twice this.
const JITTER: Duration = Duration::from_millis(20);
const FRAME: Duration = Duration::from_millis(20);
const AGENT_RATE: u32 = 16_000;

/// A packet that has come through.
struct Arrival {
    at: Micros,
    seq: u64,
    payload: Bytes,
}

/// A generator (splitmix64) that gives the same on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// An encoder as browsers set it for a call on a lossy network.
fn browser_encoder(loss: u64) -> opus::Encoder {
    let mut encoder = opus::Encoder::new(48_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(32_000)).unwrap();
    encoder.set_complexity(9).unwrap();
    encoder.set_inband_fec(true).unwrap();
    encoder.set_packet_loss_perc(loss as i32).unwrap();
    encoder
}

/// The packets of a call that come through, in the order of their arrival.
fn through_the_network(call: &[i16], loss: u64, seed: u64) -> Vec<Arrival> {
    let (mut encoder, mut chance) = (browser_encoder(loss), Chance(seed));
    let mut arrivals = Vec::new();
    for (index, pcm) in call.chunks_exact(960).enumerate() {
        let payload = Bytes::from(encoder.encode_vec(pcm, 1500).unwrap());
        let late = Duration::from_micros(chance.below(2 * JITTER.as_micros() as u64));
        let sent = Micros::from_millis(1_000) + FRAME * index as u32;
        // The first one opens the gate for all receivers alike.
        if chance.below(100) >= loss || index == 0 {
            arrivals.push(Arrival { at: sent + late, seq: index as u64, payload });
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

/// What the agent hears. Nothing that is next in order waits.
fn at_the_agent(arrivals: &[Arrival]) -> Vec<i16> {
    let start = Micros::ZERO;
    let mut uplink = Uplink::new(&Policy::default(), start);
    uplink.set_link(Some((Format::OPUS, Carriage::Rtp)), start);
    uplink.set_agent(Some((Format::pcm16(AGENT_RATE), false)), start);
    let mut heard = Vec::new();
    let (mut next, mut gap_over, mut at_once) = (arrivals[0].seq, start, 0);
    let gap_wait = Policy::default().gap_wait;
    for arrival in arrivals {
        while let Some(due) = uplink.deadline().filter(|&due| due <= arrival.at) {
            uplink.on_deadline(due);
            take(&mut uplink, &mut heard, due);
        }
        let meta = RtpMeta { seq: 100 + arrival.seq, timestamp: 960 * arrival.seq as u32, marker: false, level: None };
        let audio = AudioIn { arrival: arrival.at, rtp: Some(meta), payload: arrival.payload.clone() };
        uplink.on_audio(audio, arrival.at);
        let frames = take(&mut uplink, &mut heard, arrival.at);
        if arrival.seq == next && arrival.at > gap_over {
            assert_eq!(frames, [arrival.at], "packet {} is next in order and goes on at once", arrival.seq);
            at_once += 1;
        } else if arrival.seq > next {
            gap_over = arrival.at + gap_wait;
        }
        next = next.max(arrival.seq + 1);
    }
    assert!(at_once > arrivals.len() / 4, "{at_once} of {} were in order", arrivals.len());
    while let Some(due) = uplink.deadline() {
        uplink.on_deadline(due);
        take(&mut uplink, &mut heard, due);
    }
    heard
}

/// Takes what is for the agent; gives when its frames were ready.
fn take(uplink: &mut Uplink, heard: &mut Vec<i16>, now: Micros) -> Vec<Micros> {
    let mut ready = Vec::new();
    while let Some(output) = uplink.poll() {
        match output {
            UplinkOutput::Audio(audio) => {
                assert!(audio.ready <= now);
                ready.push(audio.ready);
                heard.extend(audio.payload.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
            }
            UplinkOutput::BadAudio(reason) => panic!("{reason}"),
            _ => {}
        }
    }
    ready
}

/// libopus with all the time in the world: every packet that comes within the wait for a gap, else what its successor
/// knows of it, else concealment.
fn offline(arrivals: &[Arrival], frames: usize) -> Vec<i16> {
    let wait = Policy::default().gap_wait;
    let came: BTreeMap<u64, &Arrival> = arrivals.iter().map(|arrival| (arrival.seq, arrival)).collect();
    let mut after = vec![Micros(u64::MAX); frames + 1];
    for seq in (0..frames).rev() {
        let later = came.get(&(seq as u64 + 1)).map_or(Micros(u64::MAX), |arrival| arrival.at);
        after[seq] = after[seq + 1].min(later);
    }
    let in_time = |seq: usize| {
        let arrival = came.get(&(seq as u64))?;
        (after[seq] == Micros(u64::MAX) || arrival.at <= after[seq] + wait).then_some(&arrival.payload)
    };
    let mut decoder = opus::Decoder::new(AGENT_RATE, opus::Channels::Mono).unwrap();
    let mut heard = Vec::new();
    let mut pcm = [0; AGENT_RATE as usize / 50];
    for seq in 0..frames {
        let count = match (in_time(seq), in_time(seq + 1)) {
            (Some(payload), _) => decoder.decode(payload, &mut pcm, false),
            (None, Some(successor)) => decoder.decode(successor, &mut pcm, true),
            (None, None) => decoder.decode(&[], &mut pcm, false),
        };
        assert_eq!(count.unwrap(), pcm.len());
        heard.extend_from_slice(&pcm);
    }
    heard
}

/// What aiortc's receiver hears, at 48 kHz.
fn aiortc(arrivals: &[Arrival]) -> Vec<i16> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = harness::folder();
    let file = folder.join("heard.raw");
    let packet = |a: &Arrival| json!([(100 + a.seq) as u16, 960 * a.seq, STANDARD.encode(&a.payload)]);
    let recording = json!([{ "file": file, "packets": arrivals.iter().map(packet).collect::<Vec<_>>() }]);
    let mut command = Command::new(root.join(".venv/bin/python"));
    command.arg(root.join("tests/lossy_link/aiortc_receiver.py")).stdin(Stdio::piped());
    let mut child = command.spawn().expect("run ./setup first: it makes .venv");
    child.stdin.take().unwrap().write_all(recording.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let heard = std::fs::read(&file).unwrap();
    let _ = std::fs::remove_dir_all(folder);
    heard.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

/// What each receiver makes of a call of ten utterances of which so many packets of 100 are lost.
fn assert_whole_sentences(loss: u64, seed: u64) {
    const WAYS: [&str; 3] = ["antiphon", "offline", "aiortc"];
    let said = corpus(48_000);
    let original = corpus(AGENT_RATE);
    assert!(said.len() >= 10);
    let call: Vec<i16> = said.iter().flat_map(|utterance| utterance.clip.samples.iter().copied()).collect();
    let arrivals = through_the_network(&call, loss, seed);
    let heard = [
        (at_the_agent(&arrivals), AGENT_RATE),
        (offline(&arrivals, call.len() / 960), AGENT_RATE),
        (aiortc(&arrivals), 48_000),
    ];
    let (mut pairs, mut from) = (Vec::new(), 0);
    for (utterance, original) in said.iter().zip(&original) {
        let to = from + utterance.clip.samples.len() / 960;
        for (way, (samples, rate)) in WAYS.into_iter().zip(&heard) {
            let samples_in = |frames: usize| frames * *rate as usize / 50;
            // Codecs keep back the end of the silence.
            pairs.push(Pair {
                name: format!("{} {way}", utterance.name),
                original: (&original.clip.samples[..(to - 5 - from) * AGENT_RATE as usize / 50], AGENT_RATE),
                heard: (&samples[samples_in(from)..samples_in(to - 5)], *rate),
            });
        }
        from = to;
    }
    let scores = pesq(&pairs);
    let score = |utterance: &Utterance, way: &str| scores[&format!("{} {way}", utterance.name)];
    for utterance in &original {
        println!("{loss} % loss, {}: {:.3?}", utterance.name, WAYS.map(|way| score(utterance, way)));
    }
    let [antiphon, offline, aiortc] =
        WAYS.map(|way| original.iter().map(|utterance| score(utterance, way)).sum::<f64>() / original.len() as f64);
    println!("{loss} % loss, mean: antiphon {antiphon:.3}, offline {offline:.3}, aiortc {aiortc:.3}");
    assert!(antiphon >= offline - TOLERANCE, "{antiphon:.3}, but with all the time in the world {offline:.3}");
    assert!(antiphon > aiortc, "{antiphon:.3}, but aiortc {aiortc:.3}");
}

#[test]
fn an_agent_hears_whole_sentences_at_5_percent_loss() {
    assert_whole_sentences(5, 5);
}

#[test]
fn an_agent_hears_whole_sentences_at_10_percent_loss() {
    assert_whole_sentences(10, 10);
}
