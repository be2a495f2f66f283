//! What an emulated vendor does, and what goes wrong: options of the command line over a TOML file of the same names.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

/// What an emulated vendor does, and what goes wrong with it.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// How many times faster than real time speech is sent; 0: all at once [default: 4]
    #[arg(long, value_name = "TIMES")]
    pub pace: Option<f64>,
    /// Bytes of audio in one message, in turns; odd numbers split samples [default: 100 ms of audio]
    #[arg(long, value_name = "BYTES", value_delimiter = ',')]
    pub chunk_bytes: Vec<usize>,
    /// Seconds of speech in an answer, at least; otherwise one sentence
    #[arg(long, value_name = "S")]
    pub answer_s: Option<f64>,
    /// The format that it wants to hear, like pcmu or pcm16/16000, where the vendor announces it
    #[arg(long, value_name = "FORMAT")]
    pub audio_in: Option<String>,
    /// The format that it speaks, where the vendor announces it
    #[arg(long, value_name = "FORMAT")]
    pub audio_out: Option<String>,
    /// What it says to have understood when the caller has spoken
    #[arg(long, value_name = "TEXT")]
    pub hears: Option<String>,
    /// Call this tool instead of answering the first time, and answer once its result is there
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// Take a tool call back when the caller speaks before its result is there, where the vendor does
    #[arg(long)]
    pub cancel_tool: bool,
    /// Refuse the handshake with this HTTP status
    #[arg(long, value_name = "STATUS")]
    pub refuse: Option<u16>,
    /// Answer nothing and nobody
    #[arg(long)]
    pub silent: bool,
    /// Read and write nothing, beginning after so many milliseconds of speech were sent
    #[arg(long, value_name = "MS")]
    pub stall_at_ms: Option<u64>,
    /// For so many seconds [default: 3]
    #[arg(long, value_name = "S")]
    pub stall_s: Option<f64>,
    /// Close the connection after so many milliseconds of speech were sent, in the middle of a word
    #[arg(long, value_name = "MS")]
    pub close_at_ms: Option<u64>,
    /// The WebSocket close code for that [default: 1011]
    #[arg(long, value_name = "CODE")]
    pub close_code: Option<u16>,
    /// End the session so many seconds after it began, because it has become too old
    #[arg(long, value_name = "S")]
    pub expire_s: Option<f64>,
    /// Announce the end so many seconds after the beginning, where the vendor does
    #[arg(long, value_name = "S")]
    pub go_away_s: Option<f64>,
    /// Send so many milliseconds of an answer after it was interrupted
    #[arg(long, value_name = "MS")]
    pub late_audio_ms: Option<u64>,
    /// Send each event that carries no audio twice
    #[arg(long)]
    pub duplicate: bool,
    /// Report an error that does not end the session after each answer
    #[arg(long)]
    pub errors: bool,
}

impl Script {
    /// These options over those of a TOML file.
    ///
    /// # Errors
    /// Which file is wrong, where and why.
    pub fn over_file(self, file: Option<&PathBuf>) -> Result<Script, String> {
        let Some(path) = file else { return Ok(self) };
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
        let below: Script = toml::from_str(&text).map_err(|error| named(&error))?;
        Ok(self.over(below))
    }

    fn over(self, below: Script) -> Script {
        let chunk_bytes = if self.chunk_bytes.is_empty() { below.chunk_bytes } else { self.chunk_bytes };
        Script {
            pace: self.pace.or(below.pace),
            chunk_bytes,
            answer_s: self.answer_s.or(below.answer_s),
            audio_in: self.audio_in.or(below.audio_in),
            audio_out: self.audio_out.or(below.audio_out),
            hears: self.hears.or(below.hears),
            tool: self.tool.or(below.tool),
            cancel_tool: self.cancel_tool || below.cancel_tool,
            refuse: self.refuse.or(below.refuse),
            stall_at_ms: self.stall_at_ms.or(below.stall_at_ms),
            stall_s: self.stall_s.or(below.stall_s),
            close_at_ms: self.close_at_ms.or(below.close_at_ms),
            close_code: self.close_code.or(below.close_code),
            expire_s: self.expire_s.or(below.expire_s),
            go_away_s: self.go_away_s.or(below.go_away_s),
            late_audio_ms: self.late_audio_ms.or(below.late_audio_ms),
            silent: self.silent || below.silent,
            duplicate: self.duplicate || below.duplicate,
            errors: self.errors || below.errors,
        }
    }

    /// How many times faster than real time; `None`: all at once.
    pub(super) fn pace(&self) -> Option<f64> {
        Some(self.pace.unwrap_or(4.0)).filter(|pace| *pace > 0.0)
    }

    /// How long nothing is read or written.
    pub(super) fn stall(&self) -> Duration {
        span(self.stall_s.unwrap_or(3.0))
    }
}

/// So many seconds; nonsense is zero.
pub(super) fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win_over_the_file_and_a_misspelt_one_is_told() {
        let path = std::env::temp_dir().join(format!("antiphon-script-{}.toml", std::process::id()));
        std::fs::write(&path, "pace = 0\nhears = \"file\"\nchunk_bytes = [7]\nduplicate = true\n").unwrap();
        let options = Script { hears: Some("option".into()), ..Script::default() };
        let script = options.over_file(Some(&path)).unwrap();
        assert_eq!((script.hears.as_deref(), script.pace(), script.duplicate), (Some("option"), None, true));
        std::fs::write(&path, "stahl_s = 1\n").unwrap();
        let error = Script::default().over_file(Some(&path)).unwrap_err();
        assert!(error.contains("stahl_s"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
}
