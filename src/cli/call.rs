//! `antiphon call`: one call from the command line, with real speech, paced in real time, and what it showed.

pub mod carrier;
mod connect;
mod conversation;
mod meter;
mod microphone;
mod narrator;
pub mod player;
pub mod quic;
mod recorder;
pub mod report;
mod script;
pub mod webrtc;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use url::Url;

use crate::ids::AgentName;
use crate::media::clip::Clip;
use crate::media::format::{Codec, Format};
use crate::message::{AudioFormats, Start};
use carrier::Carrier;
use conversation::Conversation;
use microphone::MicrophoneSource;
use narrator::Narrator;
use recorder::Recorder;
use report::{Report, StagesMs};

pub use connect::{ConnectError, connect, session_url};
pub use conversation::{Called, Progress};
pub use meter::EchoMeter;
pub use microphone::FRAME;

/// What is said where no file is given (`assets/README.md`).
pub const SPEECH: &[u8] = include_bytes!("../../assets/speech.ogg");
/// The largest file that is read, in bytes.
const LARGEST: u64 = 256 * 1024 * 1024;

/// Options of `antiphon call`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "An agent that speaks first is heard for 3 s, then interrupted with FILE; any other is \
    spoken to. Its answer is heard to the end. With an agent that echoes, FILE is sent at once and heard until its \
    tail is back.\n\nExit status: 0 the call worked, 1 it did not, 2 wrong usage.")]
pub struct CallArgs {
    /// WAV or Ogg Opus file to speak; without one, two sentences that are built in
    pub file: Option<PathBuf>,
    /// Base URL of the relay: http, https, ws or wss
    #[arg(long, env = "ANTIPHON_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// How to connect
    #[arg(long, value_enum, default_value_t = CallTransport::Websocket)]
    pub transport: CallTransport,
    /// The agent to ask for; without one the relay's routes decide
    #[arg(long)]
    pub agent: Option<String>,
    /// The codec, both ways
    #[arg(long, value_enum, default_value_t = CallCodec::Opus)]
    pub codec: CallCodec,
    /// Sampling rate in Hz; by default 48000 for opus, 24000 for pcm16, 8000 for pcmu and pcma
    #[arg(long, value_name = "HZ")]
    pub rate: Option<u32>,
    /// Sent as `Authorization: Bearer`
    #[arg(long, env = "ANTIPHON_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// Where to write the reply as it was heard
    #[arg(long, default_value = "reply.wav")]
    pub out: PathBuf,
    /// Print one JSON object and nothing else
    #[arg(long)]
    pub json: bool,
}

/// A caller's token, never printed.
#[derive(Clone)]
pub struct Token(String);

impl From<String> for Token {
    fn from(text: String) -> Token {
        Token(text)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CallTransport {
    /// WebSocket.
    Websocket,
    /// WebRTC.
    Webrtc,
    /// QUIC, ALPN antiphon/1.
    Quic,
    /// WebTransport over HTTP/3.
    Webtransport,
}

impl CallTransport {
    const fn label(self) -> &'static str {
        match self {
            CallTransport::Websocket => "websocket",
            CallTransport::Webrtc => "webrtc",
            CallTransport::Quic => "quic",
            CallTransport::Webtransport => "webtransport",
        }
    }
}

/// Codecs to call with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CallCodec {
    /// Opus.
    Opus,
    /// PCM, 16 bit.
    Pcm16,
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
}

impl CallArgs {
    /// The format of both directions.
    fn format(&self) -> Format {
        let format = match self.codec {
            CallCodec::Opus => Format::OPUS,
            CallCodec::Pcm16 => Format::pcm16(24_000),
            CallCodec::Pcmu => Format::PCMU,
            CallCodec::Pcma => Format::PCMA,
        };
        Format { rate: self.rate.unwrap_or(format.rate), ..format }
    }
}

/// What is wrong with the command line or a file named on it, before anything is sent.
struct Prepared {
    url: Url,
    format: Format,
    microphone: MicrophoneSource,
    recorder: Recorder,
}

/// Makes the call. Exit code 0: it worked; 1: it did not; 2: wrong usage.
pub async fn run(args: CallArgs) -> ExitCode {
    let mut report = Report { transport: args.transport.label(), ..Report::default() };
    let outcome = match prepare(&args) {
        Ok(prepared) => {
            call(&args, prepared, &mut report).await;
            if report.ok { 0 } else { 1 }
        }
        Err(reason) => {
            report.error = Some(reason);
            2
        }
    };
    if args.json {
        // A Report always serialises: it has neither maps with odd keys nor fallible fields.
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        if outcome != 2 && report.setup_ms.is_some() {
            print!("\n{report}");
        }
        if let Some(error) = &report.error {
            eprintln!("error: {error}");
        }
    }
    ExitCode::from(outcome)
}

fn prepare(args: &CallArgs) -> Result<Prepared, String> {
    let url = endpoint(args.transport, &args.url).map_err(|error| error.to_string())?;
    let format = args.format();
    if args.transport == CallTransport::Webrtc && ![Format::OPUS, Format::PCMU, Format::PCMA].contains(&format) {
        return Err(format!("WebRTC carries opus at 48000 Hz, pcmu and pcma, not {format}; see --codec and --rate"));
    }
    format.check().map_err(|error| format!("{error}; see --codec and --rate"))?;
    if format.codec == Codec::Pcm16 && !format.rate.is_multiple_of(50) {
        return Err(format!("{format}: frames of 20 ms need a rate that 50 divides; use --rate 24000"));
    }
    let clip = match &args.file {
        Some(file) => read(file)?,
        None => Clip::parse(SPEECH).map_err(|error| error.to_string())?,
    };
    let clip = clip.resampled(format.rate).map_err(|error| error.to_string())?;
    if clip.samples.is_empty() {
        return Err("the file holds no sound".to_owned());
    }
    let microphone = MicrophoneSource::new(clip.samples, format.rate, format).map_err(|error| error.to_string())?;
    Ok(Prepared { url, format, microphone, recorder: Recorder::create(&args.out, format)? })
}

fn read(file: &PathBuf) -> Result<Clip, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    let size = std::fs::metadata(file).map_err(cannot)?.len();
    if size > LARGEST {
        return Err(format!("{} has {size} bytes; at most {LARGEST} are read", file.display()));
    }
    let bytes = std::fs::read(file).map_err(cannot)?;
    Clip::parse(&bytes).map_err(|error| format!("{}: {error}", file.display()))
}

async fn call(args: &CallArgs, prepared: Prepared, report: &mut Report) {
    let Prepared { url, format, microphone, recorder } = prepared;
    report.url = url.to_string();
    report.codec = format.to_string();
    let narrator = Narrator::new(args.json, microphone.frames() as u64);
    narrator.say(format_args!("calling {url} with {format}"));
    let audio = AudioFormats { uplink: format, downlink: format, flow: None };
    let mut start = Start { agent: args.agent.as_deref().map(AgentName::from), audio: Some(audio), ..Start::default() };
    if args.transport == CallTransport::Quic {
        // There is no header that it could stand in.
        start.token = args.token.as_ref().map(|token| token.0.clone());
    }
    let token = args.token.as_ref().map(|token| token.0.as_str());
    match dial(args.transport, &url, token, &start, &mut report.stages_ms).await {
        Ok(called) => Conversation::new(called, format, microphone, recorder, &narrator).run(&start, report).await,
        Err(error) => report.error = Some(error.to_string()),
    }
    narrator.finish();
}

/// Where [`dial`] connects by this transport, given the base URL.
///
/// # Errors
/// [`ConnectError::Url`].
pub fn endpoint(transport: CallTransport, base: &str) -> Result<Url, ConnectError> {
    let url = session_url(base)?;
    if transport == CallTransport::Webrtc { webrtc::endpoint(&url) } else { Ok(url) }
}

/// Connects by this transport at its [`endpoint`]. `start` is sent only where it is part of connecting; its formats are
/// those of the call. How long each stage took goes to `stages`.
///
/// # Errors
/// [`ConnectError`], each with what to do about it.
pub async fn dial(
    transport: CallTransport,
    url: &Url,
    token: Option<&str>,
    start: &Start,
    stages: &mut StagesMs,
) -> Result<Called, ConnectError> {
    let ms = |stage: Duration| Some(stage.as_micros() as f64 / 1e3);
    let format = start.audio.map_or(Format::OPUS, |audio| audio.uplink);
    let kind = match transport {
        CallTransport::Websocket => {
            let (socket, took) = connect(url, token).await?;
            stages.connect = ms(took.connect);
            stages.upgrade = ms(took.upgrade);
            let carrier = Carrier::WebSocket(Box::new(socket));
            return Ok(Called { carrier, begun: Instant::now(), progress: Progress::Unsent });
        }
        CallTransport::Webrtc => {
            let webrtc::Connected { peer, offered, started, stages: took } =
                webrtc::connect(url, token, start, format).await?;
            stages.connect = ms(took.connect);
            stages.admission = ms(took.admission);
            stages.media = ms(took.media);
            let progress = started.map_or(Progress::Sent, Progress::Started);
            return Ok(Called { carrier: Carrier::Webrtc(Box::new(peer)), begun: offered, progress });
        }
        CallTransport::Quic => quic::Kind::Quic,
        CallTransport::Webtransport => quic::Kind::WebTransport,
    };
    let (call, took) = quic::connect(kind, url, token, format).await?;
    stages.endpoints = ms(took.endpoints);
    stages.connect = ms(took.connect);
    Ok(Called { carrier: Carrier::Quic(Box::new(call)), begun: Instant::now(), progress: Progress::Unsent })
}

#[cfg(test)]
mod tests;
