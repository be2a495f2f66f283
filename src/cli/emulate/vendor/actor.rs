//! What an emulated vendor hears, thinks and says, whatever its wire looks like: no clock, no socket.

mod events;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::script::{Script, span};
use super::voice::{coded, silent_byte};
use crate::agent::storyteller::Storyteller;
use crate::agent::storyteller::voice::VoiceDetector;
use crate::media::format::{Codec, Format};
use crate::media::transcode::Decoder;
use crate::message::SpeechEvent;

pub use events::{Cut, Heard, Says};

/// Rate at which the detector hears.
const DETECTOR_RATE: u32 = 16_000;
/// Audio in one message where the script does not say.
const CHUNK: Duration = Duration::from_millis(100);

struct Answer {
    turn: u32,
    text: String,
    /// Not sent yet.
    rest: Bytes,
    sent_bytes: usize,
    begun: Duration,
    /// Of the text, how many bytes were said.
    said: usize,
}

/// An emulated vendor in one conversation.
pub struct Actor {
    script: Script,
    says: VecDeque<Says>,
    log: VecDeque<Value>,
    began: Option<Duration>,
    uplink: Format,
    downlink: Format,
    listens: bool,
    yields: bool,
    ears: Option<(Decoder, VoiceDetector)>,
    heard_bytes: u64,
    heard_messages: u64,
    heard_ticks: u64,
    turn: u32,
    sentence: usize,
    answer: Option<Answer>,
    chunk: usize,
    spoken: Duration,
    /// It sends silence, too: when the next piece of it is due.
    silence_at: Option<Duration>,
    streams: bool,
    tool_calls: u32,
    waits_for: Option<String>,
    faults: Faults,
}

/// Faults that are still to come.
struct Faults {
    stall_at: Option<Duration>,
    close_at: Option<Duration>,
    expire: Option<Duration>,
    go_away: Option<Duration>,
}

impl Actor {
    /// One that has heard nothing yet. `streams`: its voice is one stream at the pace of speech, silence included.
    pub fn new(script: &Script, streams: bool) -> Actor {
        let format = Format::pcm16(24_000);
        Actor {
            says: VecDeque::new(),
            log: VecDeque::new(),
            began: None,
            uplink: format,
            downlink: format,
            listens: true,
            yields: true,
            ears: None,
            heard_bytes: 0,
            heard_messages: 0,
            heard_ticks: 0,
            turn: 0,
            sentence: 0,
            answer: None,
            chunk: 0,
            spoken: Duration::ZERO,
            silence_at: None,
            streams,
            tool_calls: 0,
            waits_for: None,
            faults: Faults {
                stall_at: script.stall_at_ms.map(Duration::from_millis),
                close_at: script.close_at_ms.map(Duration::from_millis),
                expire: script.expire_s.map(span),
                go_away: script.go_away_s.map(span),
            },
            script: script.clone(),
        }
    }

    /// The formats in force: heard, spoken.
    pub fn formats(&self) -> (Format, Format) {
        (self.uplink, self.downlink)
    }

    /// The text of an answer that is being given.
    pub fn text_of(&self, turn: u32) -> Option<&str> {
        self.answer.as_ref().filter(|answer| answer.turn == turn).map(|answer| answer.text.as_str())
    }

    /// What happened since the last call, for the log.
    pub fn take_log(&mut self) -> VecDeque<Value> {
        std::mem::take(&mut self.log)
    }

    /// What was heard and said in total, for the log.
    pub fn summary(&self) -> Value {
        json!({
            "event": "closed", "audio_messages": self.heard_messages, "audio_bytes": self.heard_bytes,
            "spoken_ms": self.spoken.as_millis() as u64,
        })
    }

    /// The client said something.
    pub fn handle(&mut self, heard: Heard, now: Duration) {
        match heard {
            Heard::Begin { uplink, downlink, greet, listens, yields } => {
                (self.listens, self.yields) = (listens, yields);
                self.begin(uplink, downlink, greet, now);
            }
            Heard::Audio(payload) => self.listen(&payload, now),
            Heard::Text { text, answer } => {
                self.log.push_back(json!({ "event": "text", "text": text }));
                if text.contains("error") {
                    self.says.push_back(Says::Error { message: "as asked for".into() });
                }
                if answer {
                    self.stop(Cut::Client);
                    self.respond(now);
                }
            }
            Heard::Answer => self.respond(now),
            Heard::Stop => self.stop(Cut::Client),
            Heard::ToolResult { call_id, output, answer } => {
                let known = self.waits_for.take_if(|waiting| *waiting == call_id).is_some();
                self.log
                    .push_back(json!({ "event": "tool_result", "call_id": call_id, "output": output, "known": known }));
                if answer {
                    self.respond(now);
                }
            }
        }
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Duration) {
        let since = |began: Option<Duration>| began.map(|began| now.saturating_sub(began));
        if self.faults.go_away.take_if(|at| since(self.began) >= Some(*at)).is_some() {
            let left = self.faults.expire.unwrap_or(Duration::from_secs(60)).saturating_sub(now);
            self.says.push_back(Says::GoAway { left });
        }
        if self.faults.expire.take_if(|at| since(self.began) >= Some(*at)).is_some() {
            self.answer = None;
            self.says.push_back(Says::Expired);
            self.says.push_back(Says::Close(self.script.close_code.unwrap_or(1000)));
        }
        while self.next_chunk_at().is_some_and(|at| at <= now) {
            self.say_chunk();
        }
        self.keep_silence(now);
    }

    /// Fills the stream where nothing is said.
    fn keep_silence(&mut self, now: Duration) {
        if self.answer.is_some() {
            self.silence_at = Some(now + CHUNK);
        }
        while let Some(at) = self.silence_at.filter(|at| *at <= now && self.streams) {
            let bytes = vec![silent_byte(self.downlink.codec); self.chunk_bytes()];
            self.silence_at = Some(at + self.time_of(bytes.len()));
            self.says.push_back(Says::Audio { turn: 0, payload: bytes.into() });
        }
    }

    /// When [`Actor::handle_time`] is to be called next.
    pub fn deadline(&self) -> Option<Duration> {
        let faults = [self.faults.go_away, self.faults.expire];
        let faults = faults.into_iter().flatten().filter_map(|at| Some(self.began? + at));
        let silence = self.silence_at.filter(|_| self.streams && self.answer.is_none());
        faults.chain(self.next_chunk_at()).chain(silence).min()
    }

    /// The next thing that it says.
    pub fn poll(&mut self) -> Option<Says> {
        self.says.pop_front()
    }

    fn begin(&mut self, uplink: Format, downlink: Format, greet: bool, now: Duration) {
        if self.ears.is_none() || uplink != self.uplink {
            let decoder = Decoder::new(uplink, DETECTOR_RATE).ok();
            self.ears = decoder.map(|decoder| (decoder, VoiceDetector::default()));
        }
        (self.uplink, self.downlink) = (uplink, downlink);
        self.log.push_back(json!({ "event": "begin", "hears": uplink.to_string(), "speaks": downlink.to_string() }));
        if self.began.is_none() {
            (self.began, self.silence_at) = (Some(now), Some(now));
            if greet {
                self.speak(now);
            }
        }
    }

    fn listen(&mut self, payload: &[u8], now: Duration) {
        if self.heard_messages == 0 {
            self.log.push_back(json!({ "event": "audio", "bytes": payload.len() }));
        }
        self.heard_messages += 1;
        self.heard_bytes += payload.len() as u64;
        let Some((decoder, detector)) = self.ears.as_mut() else { return };
        let mut pcm = Vec::new();
        if decoder.decode(payload, &mut pcm).is_err() {
            self.log.push_back(json!({ "event": "bad_audio", "bytes": payload.len() }));
            return;
        }
        self.heard_ticks += pcm.len() as u64;
        let at = Duration::from_micros(self.heard_ticks * 1_000_000 / u64::from(DETECTOR_RATE));
        let bytes: Vec<u8> = pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let Some(event) = detector.on_pcm16(&bytes).filter(|_| self.listens) else { return };
        self.log.push_back(json!({ "event": "speech", "what": event, "at_ms": at.as_millis() as u64 }));
        match event {
            SpeechEvent::Started => {
                let interrupts = self.yields && self.answer.is_some();
                self.says.push_back(Says::SpeechStarted { at, interrupts });
                if interrupts {
                    self.stop(Cut::Speech);
                }
                if self.script.cancel_tool {
                    self.cancel_tool();
                }
            }
            SpeechEvent::Stopped => {
                self.says.push_back(Says::SpeechStopped { at });
                let text = self.script.hears.clone().unwrap_or_else(|| "something was said".into());
                self.says.push_back(Says::Understood { text });
                self.respond(now);
            }
        }
    }

    /// Answers, or calls the tool if it has not been called yet.
    fn respond(&mut self, now: Duration) {
        match self.script.tool.clone().filter(|_| self.tool_calls == 0) {
            Some(name) => {
                self.tool_calls += 1;
                self.turn += 1;
                let call_id = format!("call_{}", self.tool_calls);
                self.log.push_back(json!({ "event": "tool_call", "call_id": call_id, "name": name }));
                self.waits_for = Some(call_id.clone());
                let arguments = json!({ "query": "as scripted" }).to_string();
                self.says.push_back(Says::ToolCall { call_id, name, arguments, turn: self.turn });
            }
            None => self.speak(now),
        }
    }

    fn cancel_tool(&mut self) {
        let (Some(call_id), Some(name)) = (self.waits_for.take(), self.script.tool.clone()) else { return };
        self.log.push_back(json!({ "event": "tool_cancelled", "call_id": call_id }));
        self.says.push_back(Says::ToolCancelled { call_id, name });
    }

    fn speak(&mut self, now: Duration) {
        if self.script.silent {
            return self.log.push_back(json!({ "event": "silent" }));
        }
        let sentences: Vec<_> = Storyteller::sentences().collect();
        let wanted = span(self.script.answer_s.unwrap_or(0.0));
        let (mut text, mut packets, mut long) = (String::new(), Vec::new(), Duration::ZERO);
        while packets.is_empty() || long < wanted {
            let (words, speech) = sentences[self.sentence % sentences.len()];
            self.sentence += 1;
            text = [text.as_str(), words].join(if text.is_empty() { "" } else { " " });
            packets.extend(speech.iter());
            long += Duration::from_millis(20) * speech.len() as u32;
        }
        let audio = match coded(&packets, self.downlink) {
            Ok(audio) => audio,
            Err(error) => return self.log.push_back(json!({ "event": "failed", "error": error })),
        };
        self.stop(Cut::Client);
        self.turn += 1;
        self.log.push_back(json!({ "event": "speaking", "turn": self.turn, "text": text, "bytes": audio.len() }));
        self.says.push_back(Says::TurnStarted { turn: self.turn });
        self.answer = Some(Answer { turn: self.turn, text, rest: audio, sent_bytes: 0, begun: now, said: 0 });
    }

    /// When the next piece of the present answer is due.
    fn next_chunk_at(&self) -> Option<Duration> {
        let answer = self.answer.as_ref()?;
        let sent = self.time_of(answer.sent_bytes);
        let pace =
            if self.streams { self.script.pace.or(Some(1.0)).filter(|pace| *pace > 0.0) } else { self.script.pace() };
        Some(answer.begun + pace.map_or(Duration::ZERO, |pace| sent.div_f64(pace)))
    }

    fn time_of(&self, bytes: usize) -> Duration {
        let width = if self.downlink.codec == Codec::Pcm16 { 2 } else { 1 };
        Duration::from_micros((bytes / width) as u64 * 1_000_000 / u64::from(self.downlink.rate))
    }

    fn chunk_bytes(&mut self) -> usize {
        let sizes = &self.script.chunk_bytes;
        if sizes.is_empty() {
            let width = if self.downlink.codec == Codec::Pcm16 { 2 } else { 1 };
            return (self.downlink.rate as usize * width * CHUNK.as_millis() as usize / 1000).max(1);
        }
        self.chunk += 1;
        sizes[(self.chunk - 1) % sizes.len()].max(1)
    }

    fn say_chunk(&mut self) {
        let size = self.chunk_bytes();
        let Some(answer) = &mut self.answer else { return };
        let turn = answer.turn;
        let payload = answer.rest.split_to(size.min(answer.rest.len()));
        let whole = answer.sent_bytes + payload.len() + answer.rest.len();
        answer.sent_bytes += payload.len();
        let (sent_bytes, over) = (answer.sent_bytes, answer.rest.is_empty());
        // Words go along with the audio that they are spoken in.
        let until = answer.text.len() * sent_bytes / whole.max(1);
        let until = answer.text[..until].rfind(' ').map_or(0, |at| at + 1).max(answer.said);
        let until = if over { answer.text.len() } else { until };
        let text = answer.text[answer.said..until].to_owned();
        answer.said = until;
        let length = self.time_of(payload.len());
        if !text.is_empty() {
            self.says.push_back(Says::Text { turn, text });
        }
        self.says.push_back(Says::Audio { turn, payload });
        self.spoken += length;
        if over && let Some(answer) = self.answer.take() {
            let sent = self.time_of(answer.sent_bytes);
            self.says.push_back(Says::TurnEnded { turn, text: answer.text, sent, cut: None });
            if self.script.errors {
                self.says.push_back(Says::Error { message: "as scripted".into() });
            }
        }
        if self.faults.stall_at.take_if(|at| self.spoken >= *at).is_some() {
            self.log.push_back(json!({ "event": "stalling" }));
            self.says.push_back(Says::Stall(self.script.stall()));
        }
        if self.faults.close_at.take_if(|at| self.spoken >= *at).is_some() {
            self.answer = None;
            self.says.push_back(Says::Close(self.script.close_code.unwrap_or(1011)));
        }
    }

    /// Breaks the present answer off.
    fn stop(&mut self, cut: Cut) {
        let Some(mut answer) = self.answer.take() else { return };
        let sent = self.time_of(answer.sent_bytes);
        let unsent = self.time_of(answer.rest.len());
        self.log.push_back(json!({
            "event": "stopped", "turn": answer.turn, "sent_ms": sent.as_millis() as u64,
            "unsent_ms": unsent.as_millis() as u64,
        }));
        self.says.push_back(Says::TurnEnded { turn: answer.turn, text: answer.text, sent, cut: Some(cut) });
        if let Some(late) = self.script.late_audio_ms {
            let width = if self.downlink.codec == Codec::Pcm16 { 2 } else { 1 };
            let bytes = (u64::from(self.downlink.rate) * late / 1000) as usize * width;
            let payload = answer.rest.split_to(bytes.min(answer.rest.len()));
            self.says.push_back(Says::Audio { turn: answer.turn, payload });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Duration = Duration::ZERO;

    fn begun(script: Script) -> Actor {
        let mut actor = Actor::new(&script, false);
        let format = Format::pcm16(24_000);
        actor.handle(Heard::Begin { uplink: format, downlink: format, greet: true, listens: true, yields: true }, HERE);
        actor
    }

    fn everything(actor: &mut Actor, now: Duration) -> Vec<Says> {
        actor.handle_time(now);
        std::iter::from_fn(|| actor.poll()).collect()
    }

    fn sent(says: &[Says]) -> usize {
        says.iter().map(|says| if let Says::Audio { payload, .. } = says { payload.len() } else { 0 }).sum()
    }

    #[test]
    fn speech_is_sent_at_the_pace_asked_for() {
        let mut actor = begun(Script { pace: Some(2.0), ..Script::default() });
        let says = everything(&mut actor, Duration::from_millis(1000));
        let sent = sent(&says);
        assert!((96_000..=100_800).contains(&sent), "{sent}");
        let mut actor = begun(Script { pace: Some(0.0), answer_s: Some(60.0), ..Script::default() });
        let says = everything(&mut actor, HERE);
        assert!(self::sent(&says) >= 60 * 48_000 && matches!(says.last(), Some(Says::TurnEnded { cut: None, .. })));
        let text: String =
            says.iter().map(|says| if let Says::Text { text, .. } = says { text.as_str() } else { "" }).collect();
        assert!(matches!(says.last(), Some(Says::TurnEnded { text: whole, .. }) if *whole == text));
    }

    #[test]
    fn a_stop_ends_the_answer_and_late_audio_follows_if_scripted() {
        let mut actor = begun(Script { late_audio_ms: Some(200), ..Script::default() });
        everything(&mut actor, Duration::from_millis(100));
        actor.handle(Heard::Stop, Duration::from_millis(100));
        let says = everything(&mut actor, Duration::from_millis(9000));
        assert!(matches!(says[0], Says::TurnEnded { cut: Some(Cut::Client), .. }), "{says:?}");
        assert_eq!((sent(&says), says.len()), (9600, 2));
    }

    #[test]
    fn faults_come_where_the_script_says() {
        let script = Script { close_at_ms: Some(300), stall_at_ms: Some(100), ..Script::default() };
        let says = everything(&mut begun(script), Duration::from_secs(1));
        assert!(says.contains(&Says::Stall(Duration::from_secs(3))));
        assert_eq!((says.last(), sent(&says)), (Some(&Says::Close(1011)), 14_400));
        let script = Script { expire_s: Some(2.0), go_away_s: Some(1.0), ..Script::default() };
        let mut actor = begun(script);
        assert!(
            !everything(&mut actor, Duration::from_millis(900)).iter().any(|says| matches!(says, Says::GoAway { .. }))
        );
        assert!(
            everything(&mut actor, Duration::from_millis(1100)).iter().any(|says| matches!(says, Says::GoAway { .. }))
        );
        assert!(everything(&mut actor, Duration::from_millis(2100)).contains(&Says::Expired));
    }

    #[test]
    fn the_tool_is_called_once_and_its_result_is_answered() {
        let mut actor = begun(Script { tool: Some("look".into()), pace: Some(0.0), ..Script::default() });
        everything(&mut actor, HERE);
        actor.handle(Heard::Text { text: "hello".into(), answer: true }, HERE);
        let says = everything(&mut actor, HERE);
        assert!(matches!(&says[..], [Says::ToolCall { name, .. }] if name == "look"), "{says:?}");
        let result = Heard::ToolResult { call_id: "call_1".into(), output: "4".into(), answer: true };
        actor.handle(result, HERE);
        assert!(sent(&everything(&mut actor, HERE)) > 0);
    }
}
