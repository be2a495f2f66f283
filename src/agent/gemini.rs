//! Gemini Live over WebSocket (`BidiGenerateContent`); this side is its client.
//!
//! Audio goes both ways as base64 in JSON: 16 kHz to the service, 24 kHz from it, in binary frames. A connection lasts
//! about ten minutes, a conversation longer: the service gives handles by which the conversation goes on over a new
//! connection, which this side opens by itself when the old one is about to end or was lost.

mod keep;
mod opening;
mod renewal;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::carry::Carry;
use crate::agent::open_calls::OpenCalls;
use crate::agent::outbox::Outbox;
use crate::agent::recap::GO_ON;
use crate::agent::turns::{Place, Turns};
use crate::agent::{Agent, AgentOutput, Capabilities, Endpoint, Wire, audio_json};
use crate::config::vendor::VendorAgent;
use crate::media::format::Format;
use crate::message::{
    AgentAudio, AgentAudioOut, AgentError, AgentStart, AgentTranscript, FailureClass, FromAgent, Input, InputAction,
    Ready, Setup, ToAgent, ToolCall, ToolResult, TurnDetection,
};
use crate::time::Micros;

use keep::{Kept, Memory};
pub use opening::SETUP;
use wire::{Content, Said};

/// What it hears.
const UPLINK: Format = Format::pcm16(16_000);
/// What it speaks, unless its audio says otherwise.
const DOWNLINK: Format = Format::pcm16(24_000);
/// A new connection has to be ready within this time.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);
/// So long before the announced end of a connection it is left at the latest.
const MARGIN: Duration = Duration::from_secs(2);
/// Messages that wait for a new connection.
const MAX_WAITING: usize = 32;

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not set up yet.
    Opening,
    /// The conversation runs.
    Ready,
    /// The connection is given up, and the next one is not set up yet.
    Resuming {
        /// When it has to be.
        by: Micros,
        /// Whether a handle is used.
        with_handle: bool,
    },
    /// Over.
    Ended,
}

/// One conversation with a Gemini Live model.
#[derive(Debug)]
pub struct Gemini {
    settings: VendorAgent,
    vendor: Value,
    stage: Stage,
    start: Option<AgentStart>,
    /// Who else than the vendor says when the caller has finished.
    manual: Option<TurnDetection>,
    /// Audio between the caller's turns, where the relay finds these; none is open.
    onset: Option<Kept>,
    downlink: Format,
    carry: Carry,
    turns: Turns,
    /// The newest handle by which the conversation can go on.
    handle: Option<String>,
    /// When the connection is left for a new one at the latest.
    leave_by: Option<Micros>,
    /// Connections that were lost since an answer was complete.
    losses: u8,
    /// The last one was lost in the middle of an answer.
    broken: bool,
    kept: Kept,
    waiting: VecDeque<String>,
    said: Memory,
    /// Their names.
    calls: OpenCalls<String>,
    ignored: u64,
    out: Outbox,
}

impl Gemini {
    /// An agent that is not connected yet. `vendor` is merged into `setup`.
    pub fn new(settings: &VendorAgent, vendor: Value) -> Gemini {
        Gemini {
            settings: settings.clone(),
            vendor,
            stage: Stage::Opening,
            start: None,
            manual: None,
            onset: None,
            downlink: DOWNLINK,
            carry: Carry::default(),
            turns: Turns::default(),
            handle: None,
            leave_by: None,
            losses: 0,
            broken: false,
            kept: Kept::new(keep::MOST),
            waiting: VecDeque::new(),
            said: Memory::default(),
            calls: OpenCalls::default(),
            ignored: 0,
            out: Outbox::default(),
        }
    }

    /// Messages that were of no use or unknown, so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Says something on the wire, or as soon as there is one again.
    fn say(&mut self, message: &Value) {
        let text = message.to_string();
        match self.stage {
            Stage::Ready => self.out.send(Wire::Text(text)),
            Stage::Resuming { .. } if self.waiting.len() < MAX_WAITING => self.waiting.push_back(text),
            Stage::Opening | Stage::Resuming { .. } | Stage::Ended => self.ignored += 1,
        }
    }

    fn set_up(&mut self) {
        let Some(start) = &self.start else { return };
        let opening = opening::opening(&self.settings, start, &self.vendor, self.handle.as_deref());
        self.manual = opening.manual;
        let relay = self.manual == Some(TurnDetection::Relay);
        self.onset = relay.then(|| Kept::new(keep::ONSET));
        self.out.say(&opening.message);
        self.out.refuse(opening.missing);
    }

    fn handle_setup_complete(&mut self) {
        let first = match self.stage {
            Stage::Opening => true,
            Stage::Resuming { .. } => false,
            Stage::Ready | Stage::Ended => return,
        };
        self.stage = Stage::Ready;
        match first {
            true => self.out.tell(FromAgent::Ready(Ready { uplink: UPLINK, downlink: self.downlink, delay: None })),
            false => self.out.tell(FromAgent::Renewed),
        }
        if let Some(start) = self.start.as_ref().filter(|start| self.handle.is_none() && !start.context.is_empty()) {
            let history = opening::history(&start.context, true);
            self.say(&history);
        }
        if let Some(text) = self.start.as_ref().filter(|_| first).and_then(opening::greeting) {
            self.say(&json!({ "realtimeInput": { "text": text } }));
        }
        if std::mem::take(&mut self.broken) {
            self.say(&json!({ "realtimeInput": { "text": GO_ON } }));
        }
        for text in self.waiting.drain(..) {
            self.out.send(Wire::Text(text));
        }
        while let Some(audio) = self.kept.pop() {
            self.send(&audio);
        }
    }

    fn handle_message(&mut self, said: Said<'_>, now: Micros) {
        if said.is_strange() {
            self.ignored += 1;
        }
        if said.setup_complete.is_some() {
            self.handle_setup_complete();
        }
        if let Some(update) = said.session_resumption_update {
            // While it is not resumable the last handle still leads to the state before.
            if update.resumable && !update.new_handle.is_empty() {
                self.handle = Some(update.new_handle);
            }
        }
        if let Some(content) = said.server_content {
            self.handle_content(content, now);
        }
        for function in said.tool_call.into_iter().flat_map(|call| call.function_calls) {
            let arguments = function.args.map_or("{}", |args| args.get()).to_owned();
            self.call(function.id, function.name, arguments);
        }
        if let Some(cancelled) = said.tool_call_cancellation {
            for id in &cancelled.ids {
                self.calls.close(id);
            }
            self.out.tell(FromAgent::ToolCancelled(cancelled.ids.into_iter().map(Into::into).collect()));
        }
        if let Some(usage) = said.usage_metadata.and_then(|usage| usage.amounts()) {
            self.out.tell(FromAgent::Usage(usage));
        }
        if let Some(go_away) = said.go_away {
            self.handle_go_away(go_away.left(), now);
        }
    }

    fn handle_content(&mut self, content: Content<'_>, now: Micros) {
        // What stops the voice goes first.
        if content.interrupted {
            self.carry.clear();
            self.turns.interrupted(now);
            self.out.tell(FromAgent::Interrupted);
        }
        if let Some(piece) = content.input_transcription {
            let text = piece.text.map(|text| text.0).unwrap_or_default();
            if !text.is_empty() || piece.finished {
                let line = self.turns.said(&text, true, piece.finished);
                self.transcribe(line);
            }
        }
        if let Some(text) = content.output_transcription.and_then(|piece| piece.text) {
            let (begun, line) = self.turns.text(&text.0, now);
            if let Some(item) = begun {
                self.begin(item);
            }
            self.transcribe(line);
        }
        for part in content.model_turn.into_iter().flat_map(|turn| turn.parts) {
            match part.inline_data {
                Some(blob) => self.handle_audio(blob, now),
                None if part.text.is_some() && !part.thought => self.ignored += 1,
                None => {}
            }
        }
        if content.generation_complete {
            let closed = self.turns.generated();
            self.close_answer(closed);
        }
        if content.turn_complete {
            self.losses = 0;
            let closed = self.turns.complete();
            self.close_answer(closed);
            if self.leave_by.is_some() {
                self.redial(now);
            }
        }
    }

    fn begin(&mut self, item: crate::ids::ItemId) {
        if let Some(line) = self.turns.answered() {
            self.transcribe(line);
        }
        self.out.tell(FromAgent::TurnStarted(Some(item)));
    }

    fn close_answer(&mut self, (was_open, line): (bool, Option<AgentTranscript>)) {
        if was_open {
            self.carry.clear();
            self.out.tell(FromAgent::TurnEnded);
        }
        if let Some(line) = line {
            self.transcribe(line);
        }
    }

    fn transcribe(&mut self, line: AgentTranscript) {
        self.said.note(&line);
        self.out.tell(FromAgent::Transcript(line));
    }

    fn handle_audio(&mut self, blob: wire::Blob<'_>, now: Micros) {
        let kind = blob.mime_type.map(|kind| kind.0).unwrap_or_default();
        let rate = kind.split(';').find_map(|part| part.trim().strip_prefix("rate=")?.parse().ok());
        let audio = kind.is_empty() || kind.starts_with("audio/pcm");
        let Some(payload) = wire::decode(&blob.data.0).filter(|_| audio) else {
            self.ignored += 1;
            return;
        };
        if let Some(rate) = rate.filter(|&rate| rate != self.downlink.rate) {
            self.downlink = Format::pcm16(rate);
            self.out.tell(FromAgent::Ready(Ready { uplink: UPLINK, downlink: self.downlink, delay: None }));
        }
        let payload = self.carry.align(2, payload);
        if payload.is_empty() {
            return;
        }
        let item = match self.turns.audio(now) {
            Place::Present(item) | Place::Stale(item) => item,
            Place::New(item) => {
                self.begin(item.clone());
                item
            }
        };
        self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item: Some(item), rtp: None, payload }));
    }

    fn call(&mut self, id: String, name: String, arguments: String) {
        self.calls.open(id.clone(), name.clone());
        self.out.tell(FromAgent::ToolCall(ToolCall { call_id: id.into(), name, arguments }));
    }

    fn answer_call(&mut self, result: &ToolResult) {
        let Some(name) = self.calls.close(result.call_id.as_str()) else { return };
        let response = match serde_json::from_str::<Value>(&result.output) {
            _ if result.is_error => json!({ "error": result.output }),
            Ok(object @ Value::Object(_)) => object,
            _ => json!({ "output": result.output }),
        };
        let response = json!({ "id": result.call_id, "name": name, "response": response });
        self.say(&json!({ "toolResponse": { "functionResponses": [response] } }));
    }

    fn hear(&mut self, audio: AgentAudioOut) {
        match self.stage {
            Stage::Ready => match &mut self.onset {
                // What is between two turns is of none.
                Some(onset) => {
                    onset.push(audio);
                }
                None => self.send(&audio),
            },
            Stage::Resuming { .. } => {
                let dropped = self.kept.push(audio);
                if !dropped.is_zero() {
                    self.out.tell(FromAgent::Dropped(dropped));
                }
            }
            Stage::Opening | Stage::Ended => {}
        }
    }

    fn send(&mut self, audio: &AgentAudioOut) {
        const BEFORE: &str = r#"{"realtimeInput":{"audio":{"mimeType":"audio/pcm;rate=16000","data":""#;
        let wire = Wire::Text(audio_json::encode(BEFORE, &audio.payload, "\"}}}"));
        self.out.send_audio(wire, audio.ready);
    }

    fn input(&mut self, input: Input) {
        let mark = match input.action {
            InputAction::Start => "activityStart",
            // What was said cannot be taken back.
            InputAction::Commit | InputAction::Clear => "activityEnd",
        };
        let Some(manual) = self.manual else {
            self.ignored += 1;
            return;
        };
        self.say(&json!({ "realtimeInput": { mark: {} } }));
        if input.action != InputAction::Start {
            self.onset = (manual == TurnDetection::Relay).then(|| Kept::new(keep::ONSET));
        } else if let Some(mut onset) = self.onset.take() {
            // What the vendor is not told to listen to, it does not hear.
            while let Some(audio) = onset.pop() {
                self.hear(audio);
            }
        }
    }

    fn end(&mut self, failure: Option<AgentError>) {
        let closed = self.turns.complete();
        // An answer that a failure breaks off is not complete.
        if failure.is_none() {
            self.close_answer(closed);
        }
        self.stage = Stage::Ended;
        self.out.end(failure);
    }

    fn deadline(&self) -> Option<Micros> {
        match self.stage {
            Stage::Resuming { by, .. } => Some(by),
            Stage::Ready => self.leave_by,
            Stage::Opening | Stage::Ended => None,
        }
    }
}

impl Agent for Gemini {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            // It interrupts itself, but does not tell when the caller begins and stops to speak.
            server_vad: false,
            truncation: false,
            playout: false,
            tools: true,
            text: true,
            manual_turns: true,
            context: true,
            ..Capabilities::default()
        }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        Some(Endpoint::of_vendor(&self.settings, &[]))
    }

    fn handle_open(&mut self, _now: Micros) {
        if matches!(self.stage, Stage::Resuming { .. }) {
            self.set_up();
        }
    }

    fn handle_session(&mut self, message: ToAgent, _now: Micros) {
        match message {
            ToAgent::Audio(audio) => self.hear(audio),
            ToAgent::Start(start) => {
                self.start = Some(start);
                self.set_up();
            }
            ToAgent::Message(message) => self.say(&json!({ "realtimeInput": { "text": message.text } })),
            ToAgent::Prompt(text) => self.say(&json!({ "realtimeInput": { "text": text } })),
            ToAgent::Input(input) => self.input(input),
            ToAgent::ToolResult(result) => self.answer_call(&result),
            ToAgent::History(items) => self.say(&opening::history(&items, false)),
            ToAgent::Update(setup) => self.out.refuse(Setup::set_fields(&setup)),
            // Nothing stops an answer: what comes of it is dropped by its item.
            ToAgent::Cancel(_)
            | ToAgent::Typing(_)
            | ToAgent::Dtmf(_)
            | ToAgent::Truncate(_)
            | ToAgent::App(_)
            | ToAgent::Playout(_)
            | ToAgent::End => {}
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        let text = match &wire {
            Wire::Close(code, reason) => return self.handle_close(*code, reason, now),
            _ if self.stage == Stage::Ended => return,
            Wire::Text(text) => Ok(text.as_str()),
            Wire::Binary(payload) => std::str::from_utf8(payload),
        };
        match text.map_err(|error| error.to_string()).and_then(wire::read) {
            Ok(said) => self.handle_message(said, now),
            Err(error) => self.out.tell_error(FailureClass::Protocol, "bad_message", &error),
        }
    }

    fn handle_deadline(&mut self, now: Micros) {
        match self.stage {
            Stage::Resuming { by, with_handle } if by <= now => {
                if with_handle {
                    return self.begin_anew(now);
                }
                let message = "the conversation could not go on over a new connection".to_owned();
                self.end(Some(AgentError { class: FailureClass::Timeout, code: None, message }));
            }
            Stage::Ready if self.leave_by.is_some_and(|by| by <= now) => self.redial(now),
            _ => {}
        }
    }

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        let deadline = self.deadline();
        self.out.poll(deadline)
    }
}
