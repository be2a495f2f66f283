//! What a call showed, for people and for programs.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use serde::Serialize;

use crate::message::{AddedMs, Heard, Percentiles};

/// The result of one call; its JSON form is `antiphon call --json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Whether the call was set up, brought audio back and ended in order.
    pub ok: bool,
    /// `websocket`, `webrtc`, `quic` or `webtransport`.
    pub transport: &'static str,
    /// The base URL's session URL.
    pub url: String,
    /// Who answered.
    pub agent: Option<String>,
    /// The relay's name of the session, for its logs.
    pub session_id: Option<String>,
    /// The link's format.
    pub codec: String,
    /// From the first packet until the agent was ready, in ms.
    pub setup_ms: Option<f64>,
    /// Its stages, in ms.
    pub stages_ms: StagesMs,
    /// From `start` to the first audio that came back, in ms.
    pub first_audio_ms: Option<f64>,
    /// From the end of the own speech to the first audio of the answer, in ms.
    pub answer_ms: Option<f64>,
    /// Frame out to its echo back, the echo's announced delay subtracted; `null` without an echo.
    pub rtt_ms: Option<Percentiles>,
    /// Latency that the relay added, as it says itself.
    pub added_ms: Option<Added>,
    /// Frames of 20 ms.
    pub frames: Frames,
    /// What was heard of each interrupted turn.
    pub heard: Vec<Heard>,
    /// Where the reply was written.
    pub reply: Option<PathBuf>,
    /// How long the reply is, in ms.
    pub reply_ms: u64,
    /// Why the relay ended the session.
    pub ended: Option<&'static str>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Stages of the set-up, in ms; each from the end of the one before.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StagesMs {
    /// Over QUIC and WebTransport: to learn from `/v1/endpoints` where they are served.
    pub endpoints: Option<f64>,
    /// Name and TCP; over QUIC and WebTransport name and handshake.
    pub connect: Option<f64>,
    /// TLS and WebSocket.
    pub upgrade: Option<f64>,
    /// `start` to `started`; over WebRTC from the offer to the answer.
    pub admission: Option<f64>,
    /// Over WebRTC: from the answer until media can flow (ICE and DTLS).
    pub media: Option<f64>,
    /// `started` to `agent ready`; where `started` comes when media flow already, from then on.
    pub agent: Option<f64>,
}

/// Added latency: both directions together, and each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Added {
    /// Sum of the medians of both directions.
    pub p50: f64,
    /// Sum of the 99th percentiles.
    pub p99: f64,
    /// Client to agent.
    pub up: Percentiles,
    /// Agent to client.
    pub down: Percentiles,
}

impl From<AddedMs> for Added {
    fn from(AddedMs { up, down }: AddedMs) -> Added {
        Added { p50: up.p50 + down.p50, p99: up.p99 + down.p99, up, down }
    }
}

/// Frames of 20 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// To the relay.
    pub sent: u64,
    /// From the relay.
    pub received: u64,
    /// Sent, but missing at the relay or, with an echo, not come back.
    pub lost: u64,
    /// Made up by the relay for lost ones.
    pub concealed: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(setup) = self.setup_ms {
            writeln!(f, "set-up      {setup:.1} ms ({})", self.stages_ms)?;
        }
        if let Some(first) = self.first_audio_ms {
            write!(f, "first audio {first:.1} ms after start")?;
            match self.answer_ms {
                Some(answer) => writeln!(f, "; answer {answer:.0} ms after you stopped")?,
                None => writeln!(f)?,
            }
        }
        if let Some(Added { up, down, .. }) = self.added_ms {
            writeln!(f, "added       up   p50 {:.2} ms  p99 {:.2} ms", up.p50, up.p99)?;
            writeln!(f, "            down p50 {:.2} ms  p99 {:.2} ms", down.p50, down.p99)?;
        }
        if let Some(rtt) = self.rtt_ms {
            writeln!(f, "round trip  p50 {:.2} ms  p99 {:.2} ms, the echo's own delay subtracted", rtt.p50, rtt.p99)?;
        }
        let Frames { sent, received, lost, concealed } = self.frames;
        writeln!(f, "frames      sent {sent}  received {received}  lost {lost}  concealed {concealed}")?;
        if let Some(reply) = &self.reply {
            writeln!(f, "reply       {} ({:.1} s, as heard)", reply.display(), self.reply_ms as f64 / 1000.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for StagesMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = [
            ("endpoints", self.endpoints),
            ("connect", self.connect),
            ("upgrade", self.upgrade),
            ("admission", self.admission),
            ("media", self.media),
            ("agent", self.agent),
        ];
        let mut text = String::new();
        for (name, ms) in stages {
            if let Some(ms) = ms {
                let comma = if text.is_empty() { "" } else { ", " };
                write!(text, "{comma}{name} {ms:.1}")?;
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_object_has_the_documented_keys_even_when_nothing_worked() {
        let json = serde_json::to_value(Report { transport: "websocket", ..Report::default() }).expect("serialises");
        for key in ["ok", "transport", "setup_ms", "first_audio_ms", "rtt_ms", "added_ms", "frames", "error"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for key in ["sent", "received", "lost", "concealed"] {
            assert_eq!(json["frames"][key], 0);
        }
    }

    #[test]
    fn added_latency_of_both_directions_is_summed() {
        let up = Percentiles { p50: 0.1, p99: 1.0 };
        let down = Percentiles { p50: 0.2, p99: 2.0 };
        let json = serde_json::to_value(Added::from(AddedMs { up, down })).expect("serialises");
        assert_eq!((json["p99"].as_f64(), json["down"]["p99"].as_f64()), (Some(3.0), Some(2.0)));
    }
}
