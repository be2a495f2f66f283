//! A tiny agent server (`docs/protocol.md`, "Agent servers"), the same as `examples/agent.py`.
//!
//! It greets with a melody, answers each utterance with a longer one, tells how loud it heard the caller, and stops at
//! once when it is interrupted. Run `cargo run --example agent [PORT]` and name it in the configuration:
//! ```toml
//! [agent.beeper]
//! kind = "websocket"
//! url = "ws://127.0.0.1:9000"
//! ```

use std::f64::consts::TAU;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// Samples per second of our voice.
const RATE: u32 = 24_000;
/// Level from which the caller speaks, of 32768.
const LOUD: f64 = 600.0;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Call {
    link: WebSocketStream<TcpStream>,
    /// Number of our answer.
    turn: u32,
    /// Samples that we have sent, and that the caller has heard.
    sent: u32,
    heard: u32,
    /// The caller's utterance: seconds of it, of the pause after it, its loudest frame.
    voice: f64,
    quiet: f64,
    level: f64,
}

impl Call {
    async fn say(&mut self, message: Value) -> Result<()> {
        Ok(self.link.send(Message::text(message.to_string())).await?)
    }

    async fn sing(&mut self, text: &str, notes: &[f64]) -> Result<()> {
        self.turn += 1;
        let (turn, item) = (self.turn, format!("a-{}", self.turn));
        self.say(json!({"type": "turn", "turn": turn, "item": item, "phase": "start", "pos": self.sent})).await?;
        self.say(json!({"type": "transcript", "item": item, "role": "agent", "text": text, "final": true})).await?;
        for &note in notes {
            let samples = tone(note);
            self.sent += samples.len() as u32 / 2;
            self.link.send(Message::binary(samples)).await?;
        }
        self.say(json!({"type": "turn", "turn": turn, "phase": "end", "pos": self.sent})).await
    }

    /// The answer to `flush` comes as `playout {pos, flush}`.
    async fn stop(&mut self) -> Result<()> {
        if self.heard >= self.sent {
            return Ok(());
        }
        self.heard = self.sent;
        self.say(json!({"type": "flush", "id": self.turn, "turn": self.turn, "valid_from": self.sent})).await
    }

    /// 20 ms of the caller, more or less.
    async fn listen(&mut self, frame: &[u8]) -> Result<()> {
        let squares = frame.as_chunks::<2>().0.iter().map(|&bytes| f64::from(i16::from_le_bytes(bytes)).powi(2));
        let samples = (frame.len() / 2).max(1) as f64;
        let (seconds, level) = (samples / 16_000.0, (squares.sum::<f64>() / samples).sqrt());
        if level > LOUD {
            (self.voice, self.quiet, self.level) = (self.voice + seconds, 0.0, self.level.max(level));
        } else {
            self.quiet += seconds;
        }
        if self.voice >= 0.2 && self.quiet == 0.0 {
            self.stop().await?;
        }
        if self.quiet >= 0.6 {
            if self.voice >= 0.2 {
                self.answer().await?;
            }
            (self.voice, self.level) = (0.0, 0.0);
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<()> {
        let text = format!("({:.1} s at {:.0} dBFS)", self.voice, 20.0 * (self.level / 32_768.0).log10());
        let item = format!("u-{}", self.turn);
        self.say(json!({"type": "transcript", "item": item, "role": "user", "text": text, "final": true})).await?;
        let notes = 3 + (self.voice * 4.0) as i32;
        let notes: Vec<f64> = (0..notes).map(|n| 262.0 * 2f64.powf(f64::from(n) / 6.0)).collect();
        self.sing("La la la la.", &notes).await
    }

    /// Whether the call goes on.
    async fn read(&mut self, message: &Value) -> Result<bool> {
        match message["type"].as_str() {
            Some("start") => {
                let audio = json!({"in": {"codec": "pcm16", "rate": 16_000}, "out": {"codec": "pcm16", "rate": RATE}});
                self.say(json!({"type": "started", "audio": audio, "agent": {"name": "beeper"}})).await?;
                self.sing("Hello!", &[523.0, 659.0, 784.0]).await?;
            }
            Some("playout") => self.heard = self.heard.max(message["pos"].as_u64().unwrap_or(0) as u32),
            Some("interrupt") => self.stop().await?,
            Some("end") => return Ok(false),
            _ => {}
        }
        Ok(true)
    }
}

/// A quarter of a second of one note.
fn tone(hz: f64) -> Vec<u8> {
    let length = RATE / 4;
    let sample = |n: u32| {
        let fade = (f64::from(n.min(length - n)) / 240.0).min(1.0);
        (9000.0 * fade * (TAU * hz * f64::from(n) / f64::from(RATE)).sin()) as i16
    };
    (0..length).flat_map(|n| sample(n).to_le_bytes()).collect()
}

#[allow(clippy::result_large_err, reason = "the library's own signature")]
fn choose_protocol(_: &Request, mut response: Response) -> std::result::Result<Response, ErrorResponse> {
    response.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static("antiphon.v1"));
    Ok(response)
}

/// One call, from the TCP connection to its end.
pub async fn serve(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let link = tokio_tungstenite::accept_hdr_async(stream, choose_protocol).await?;
    let mut call = Call { link, turn: 0, sent: 0, heard: 0, voice: 0.0, quiet: 0.0, level: 0.0 };
    while let Some(message) = call.link.next().await {
        match message? {
            Message::Binary(frame) => call.listen(&frame).await?,
            Message::Text(text) if !call.read(&serde_json::from_str(&text)?).await? => break,
            _ => {}
        }
    }
    Ok(call.link.close(None).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let port = std::env::args().nth(1).map_or(Ok(9000), |text| text.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(stream).await {
                eprintln!("{error}");
            }
        });
    }
}
