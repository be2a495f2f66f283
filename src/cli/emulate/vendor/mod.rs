//! Emulated vendors: one conversation each ([`actor`]), on the wire of a kind ([`Wiring`]), over HTTP and WebSocket
//! (`server`).
//!
//! A kind is one file with a [`Wiring`], and a line in `connect`.

pub mod actor;
mod chat;
mod deepgram;
mod elevenlabs;
mod gemini;
mod live;
mod openai;
mod pipecat;
pub mod script;
mod server;
mod voice;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::{Value, json};

use crate::agent::Wire;
use crate::cli::emulate::Log;
use crate::config::vendor::VendorKind;
use actor::{Heard, Says};
use script::Script;
pub use server::Server;

/// Options of `antiphon emulate openai` and the other vendors.
#[derive(Args, Clone, Debug, Default)]
pub struct VendorArgs {
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:0]. The address is printed as one JSON line:
    /// {"listening":"ws://..."}
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Write that line into a file, too
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Serve TLS with a certificate for localhost of its own, which is written to FOLDER/cert.pem
    #[arg(long, value_name = "FOLDER")]
    pub tls: Option<PathBuf>,
    /// Refuse clients that do not present this key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Print what arrives and what is said as JSON lines
    #[arg(long)]
    pub log: bool,
    /// A TOML file with the options below, without dashes: pace = 4
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// What it does
    #[command(flatten)]
    pub plays: Script,
}

/// What is to be sent.
#[derive(Default)]
pub struct Outbox {
    /// Events.
    wires: Vec<Sent>,
    log: Vec<Value>,
}

enum Sent {
    Event(Wire),
    Audio(Wire),
}

impl Outbox {
    /// An event that carries no audio; the script may have it sent twice.
    pub fn event(&mut self, wire: Wire) {
        self.wires.push(Sent::Event(wire));
    }

    /// An event as JSON text.
    pub fn json(&mut self, event: &Value) {
        self.event(Wire::Text(event.to_string()));
    }

    /// A message with audio.
    pub fn audio(&mut self, wire: Wire) {
        self.wires.push(Sent::Audio(wire));
    }

    /// A line in the log.
    pub fn log(&mut self, line: Value) {
        self.log.push(line);
    }
}

/// A vendor's wire in one conversation: what its messages mean, and how it says things.
pub trait Wiring: Send {
    /// The socket is open.
    fn open(&mut self, out: &mut Outbox) {
        let _ = out;
    }

    /// A message of the client. What is not audio is logged by the server.
    fn handle(&mut self, wire: Wire, out: &mut Outbox) -> Vec<Heard>;

    /// Whether it sends audio all the time, at the pace of speech: silence where it says nothing.
    fn streams(&self) -> bool {
        false
    }

    /// An answer is about to begin, and this will be its text: for vendors that tell it before the audio.
    fn announce(&mut self, turn: u32, text: &str) {
        let _ = (turn, text);
    }

    /// Puts what the vendor says on the wire.
    fn say(&mut self, says: &Says, out: &mut Outbox);
}

/// The body of an HTTP answer.
pub type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// How a request is answered.
pub enum Answered {
    /// By a WebSocket, with the subprotocol chosen.
    WebSocket(Box<dyn Wiring>, Option<&'static str>),
    /// As it is.
    Http(http::Response<Body>),
}

/// Answers a request to an emulated vendor; `origin` is like `http://127.0.0.1:4000`.
fn connect(
    kind: VendorKind,
    request: &http::request::Parts,
    body: &Bytes,
    origin: &str,
    args: &VendorArgs,
) -> Answered {
    match kind {
        VendorKind::Chat => chat::connect(request, body, args),
        VendorKind::Deepgram => deepgram::connect(request),
        VendorKind::Elevenlabs => elevenlabs::connect(request, origin, args),
        VendorKind::Openai => openai::connect(request),
        VendorKind::Gemini => gemini::connect(request),
        VendorKind::Pipecat => pipecat::connect(),
        VendorKind::Live => live::connect(request),
    }
}

/// An answer with a JSON body.
pub fn json_answer(status: u16, body: &Value) -> http::Response<Body> {
    use http_body_util::BodyExt;
    let mut answer = http::Response::new(http_body_util::Full::from(body.to_string()).boxed_unsync());
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}

/// The answer where there is nothing.
pub fn not_found() -> http::Response<Body> {
    json_answer(404, &json!({ "error": { "type": "not_found", "message": "there is nothing at this address" } }))
}

/// Runs the vendor until it is interrupted. Exit code 0: stopped; 1: it could not listen.
pub async fn run(kind: VendorKind, mut args: VendorArgs) -> ExitCode {
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("error: {error}");
        ExitCode::from(1)
    };
    args.plays = match std::mem::take(&mut args.plays).over_file(args.script.as_ref()) {
        Ok(script) => script,
        Err(error) => return failed(&error),
    };
    let log: Log = if args.log { Arc::new(|line| println!("{line}")) } else { Arc::new(|_| {}) };
    let ready_file = args.ready_file.clone();
    let server = match Server::bind(kind, args, log).await {
        Ok(server) => server,
        Err(error) => return failed(&error),
    };
    let line = json!({ "listening": server.url() }).to_string();
    if let Some(path) = ready_file
        && let Err(error) = std::fs::write(&path, &line)
    {
        return failed(&format!("{}: {error}", path.display()));
    }
    println!("{line}");
    tokio::select! {
        () = server.serve() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    ExitCode::SUCCESS
}
