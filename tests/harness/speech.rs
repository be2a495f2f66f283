//! Real speech, how it would come back over a wire without a daemon, and how alike two recordings sound.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use antiphon::media::clip::Clip;
use antiphon::media::format::{Codec, Format};
use antiphon::media::transcode::{Decoder, Encoder};
use antiphon::route::plan::OpusSettings;
use bytes::BytesMut;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Bytes;

use super::folder;

/// What is said, and the voice of espeak-ng that says it.
const SAID: [(&str, &str); 2] = [
    ("en-gb", "Could you tell me where my order is? It should have come on Friday."),
    ("de+f3", "Guten Tag, ich wüsste gern, wo meine Bestellung geblieben ist."),
];

/// What else is said where more voices are wanted.
const ALSO_SAID: [(&str, &str); 7] = [
    ("en-us+f2", "I would like to move my appointment to Thursday afternoon, if you still have a place."),
    ("en-gb-scotland", "The parcel was left in the rain, and half of the books are ruined."),
    ("de", "Können Sie mir bitte sagen, wann der nächste Zug nach Hamburg fährt?"),
    ("fr-fr+f4", "Bonjour, je voudrais changer mon adresse et mon numéro de téléphone."),
    ("es", "Quisiera saber cuánto cuesta el envío y cuándo llega a mi casa."),
    ("it+f5", "Buongiorno, ho perso la chiave della camera e non riesco ad entrare."),
    ("pl", "Proszę mi powiedzieć, o której godzinie otwiera się jutro apteka."),
];

/// A stretch of speech.
#[derive(Clone)]
pub struct Utterance {
    /// For messages.
    pub name: String,
    /// Mono samples, whole frames of 20 ms, the last ten of them silent.
    pub clip: Clip,
}

/// Two voices made by espeak-ng and the recording that `antiphon call` speaks, at `rate` Hz.
pub fn utterances(rate: u32) -> Vec<Utterance> {
    said(&SAID, rate)
}

/// Ten utterances: those of [`utterances`], and more voices.
pub fn corpus(rate: u32) -> Vec<Utterance> {
    said(&[&SAID[..], &ALSO_SAID].concat(), rate)
}

fn said(sentences: &[(&str, &str)], rate: u32) -> Vec<Utterance> {
    let spoken = sentences.iter().map(|&(voice, text)| (voice.to_owned(), espeak(voice, text)));
    let recorded = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/speech.ogg")).unwrap();
    let all = spoken.chain([("speech.ogg".to_owned(), Clip::parse(&recorded).unwrap())]);
    let utterances: Vec<_> = all
        .map(|(name, clip)| {
            let mut clip = clip.resampled(rate).unwrap();
            let frame = rate as usize / 50;
            clip.samples.truncate(4 * rate as usize);
            clip.samples.resize(clip.samples.len().next_multiple_of(frame) + 10 * frame, 0);
            Utterance { name, clip }
        })
        .collect();
    for Utterance { name, clip } in &utterances {
        assert!(clip.duration().as_secs() >= 2, "{name} is too short");
        assert!(clip.samples.iter().any(|sample| sample.unsigned_abs() > 5_000), "{name} is too quiet");
    }
    utterances
}

/// A sentence by a voice of espeak-ng.
pub fn espeak(voice: &str, text: &str) -> Clip {
    let folder = folder();
    let file = folder.join("speech.wav");
    let output = Command::new("espeak-ng").args(["-v", voice, "-s", "170", "-w"]).arg(&file).arg(text).output();
    let output = output.unwrap_or_else(|error| panic!("espeak-ng: {error}; `make setup` installs it"));
    assert!(output.status.success(), "espeak-ng: {}", String::from_utf8_lossy(&output.stderr));
    let clip = Clip::parse(&std::fs::read(&file).unwrap()).unwrap();
    let _ = std::fs::remove_dir_all(folder);
    clip
}

/// A client's codec, both ways. Opus is libopus itself, with the daemon's default settings.
pub struct ClientCodec {
    format: Format,
    encoder: Coder,
    decoder: Coder,
}

enum Coder {
    OpusEncoder(opus::Encoder),
    OpusDecoder(opus::Decoder),
    Plain(Box<(Decoder, Encoder)>),
}

/// libopus as antiphon sets it by default, at `rate` Hz.
pub fn opus_encoder(rate: u32) -> opus::Encoder {
    let settings = OpusSettings::default();
    let mut encoder = opus::Encoder::new(rate, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_complexity(settings.complexity.into()).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(settings.bitrate as i32)).unwrap();
    encoder.set_max_bandwidth(opus::Bandwidth::Wideband).unwrap();
    encoder
}

impl ClientCodec {
    /// The codec of `format`, with samples at the format's rate.
    pub fn new(format: Format) -> ClientCodec {
        let plain = || {
            let encoder = Encoder::new(format, format.rate, &OpusSettings::default()).unwrap();
            Coder::Plain(Box::new((Decoder::new(format, format.rate).unwrap(), encoder)))
        };
        let (encoder, decoder) = match format.codec {
            Codec::Opus => (
                Coder::OpusEncoder(opus_encoder(format.rate)),
                Coder::OpusDecoder(opus::Decoder::new(format.rate, opus::Channels::Mono).unwrap()),
            ),
            _ => (plain(), plain()),
        };
        ClientCodec { format, encoder, decoder }
    }

    /// Frames of 20 ms.
    pub fn encode(&mut self, samples: &[i16]) -> Vec<Bytes> {
        let frame = self.format.rate as usize / 50;
        let frames = samples.chunks_exact(frame);
        match &mut self.encoder {
            Coder::OpusEncoder(encoder) => {
                frames.map(|pcm| Bytes::from(encoder.encode_vec(pcm, 1500).unwrap())).collect()
            }
            Coder::Plain(coders) => {
                let mut buffer = BytesMut::new();
                frames.map(|pcm| coders.1.encode(pcm, &mut buffer).unwrap()).collect()
            }
            Coder::OpusDecoder(_) => unreachable!("an encoder was made"),
        }
    }

    /// All samples of the frames.
    pub fn decode(&mut self, frames: &[Bytes]) -> Vec<i16> {
        let mut samples = Vec::new();
        for frame in frames {
            match &mut self.decoder {
                Coder::OpusDecoder(decoder) => {
                    let mut pcm = [0; 5760];
                    let count = decoder.decode(frame, &mut pcm, false).unwrap();
                    samples.extend_from_slice(&pcm[..count]);
                }
                Coder::Plain(coders) => coders.0.decode(frame, &mut samples).unwrap(),
                Coder::OpusEncoder(_) => unreachable!("a decoder was made"),
            }
        }
        samples
    }
}

/// What is heard without a daemon, and how late.
pub struct Direct {
    /// Samples.
    pub samples: Vec<i16>,
    /// Their rate in Hz.
    pub rate: u32,
    /// By how many samples a sound comes later than it went in: look-aheads and filters of all codecs on the way.
    pub delay: usize,
}

/// What an agent and then the client hear of these frames by the codecs alone, one after the other: for Opus by libopus
/// and nothing else.
pub fn direct(client: Format, agent: Format, frames: &[Bytes]) -> [Direct; 2] {
    let delay = |span: Duration, rate: u32| (span.as_secs_f64() * f64::from(rate)).round() as usize;
    if client.codec == Codec::Opus {
        let lookahead = |rate: u32| {
            Duration::from_secs_f64(f64::from(opus_encoder(rate).get_lookahead().unwrap()) / f64::from(rate))
        };
        let mut coder = ClientCodec::new(Format { rate: agent.rate, ..Format::OPUS });
        let up = coder.decode(frames);
        let down = ClientCodec::new(client).decode(&coder.encode(&up));
        let (up_delay, both) = (lookahead(client.rate), lookahead(client.rate) + lookahead(agent.rate));
        return [
            Direct { samples: up, rate: agent.rate, delay: delay(up_delay, agent.rate) },
            Direct { samples: down, rate: client.rate, delay: delay(both, client.rate) },
        ];
    }
    let (mut decoder, mut up) = (Decoder::new(client, agent.rate).unwrap(), Vec::new());
    frames.iter().for_each(|frame| decoder.decode(frame, &mut up).unwrap());
    let mut encoder = Encoder::new(client, agent.rate, &OpusSettings::default()).unwrap();
    let mut buffer = BytesMut::new();
    let back: Vec<_> =
        up.chunks(agent.rate as usize / 50).map(|pcm| encoder.encode(pcm, &mut buffer).unwrap()).collect();
    let down = ClientCodec::new(client).decode(&back);
    [
        Direct { samples: up, rate: agent.rate, delay: delay(decoder.delay(), agent.rate) },
        Direct { samples: down, rate: client.rate, delay: delay(decoder.delay() + encoder.delay(), client.rate) },
    ]
}

/// How alike two recordings are at the same positions: 1 is equal up to a factor.
pub fn correlation(a: &[i16], b: &[i16]) -> f64 {
    let dot = |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1.0)
}

/// Two recordings that are to be compared, from the same position on; each with its sampling rate in Hz.
pub struct Pair<'a> {
    /// Its name in the result.
    pub name: String,
    /// What was said.
    pub original: (&'a [i16], u32),
    /// What was heard.
    pub heard: (&'a [i16], u32),
}

/// PESQ-WB of each pair, by name.
///
/// # Panics
/// With the command that mends it, if Python or one of its packages is missing.
pub fn pesq(pairs: &[Pair]) -> BTreeMap<String, f64> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    let folder = folder();
    let write = |number: usize, kind: &str, (samples, rate): (&[i16], u32)| {
        let file = folder.join(format!("{number}-{kind}.raw"));
        std::fs::write(&file, samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        json!({ "file": file, "rate": rate })
    };
    let list: Value = pairs
        .iter()
        .enumerate()
        .map(|(number, pair)| {
            let (original, heard) = (write(number, "original", pair.original), write(number, "heard", pair.heard));
            json!({ "name": pair.name, "original": original, "heard": heard })
        })
        .collect();
    let mut command = Command::new(&python);
    command
        .arg(root.join("tests/harness/score.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| {
        panic!("{}: {error}; `make setup` makes the Python environment of the tests", python.display())
    });
    child.stdin.take().unwrap().write_all(list.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "score.py failed (a package is missing? `make setup` installs them): {error}");
    let _ = std::fs::remove_dir_all(folder);
    serde_json::from_slice(&output.stdout).unwrap()
}
