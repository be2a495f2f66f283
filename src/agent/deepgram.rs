//! Deepgram Voice Agent v1 over WebSocket (`/v1/agent/converse`); this side is its client.
//!
//! Audio is binary both ways, in formats that this side chooses. The service names no answers, so this side does: an
//! answer begins with its text or its audio and ends with `AgentAudioDone`, or when the caller speaks.

mod prompts;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::agent::carry::Carry;
use crate::agent::closing::closed;
use crate::agent::open_calls::OpenCalls;
use crate::agent::outbox::{Outbox, reported};
use crate::agent::setup::SetupRow;
use crate::agent::{Agent, AgentOutput, Capabilities, Endpoint, Wire};
use crate::config::vendor::VendorAgent;
use crate::dialect::native::codec;
use crate::ids::ItemId;
use crate::media::format::Format;
use crate::message::{
    AgentAudio, AgentAudioOut, AgentError, AgentStart, AgentTranscript, Alert, AudioFormats, FailureClass, FromAgent,
    Greeting, Ready, Role, SpeechEvent, ToAgent, ToolCall, ToolResult,
};
use crate::time::Micros;

use prompts::Prompts;
use wire::{Function, Said, Trouble};

/// The longest session of the service.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// The service gives up after ten seconds without a message.
const KEEP_ALIVE: Duration = Duration::from_secs(8);
/// Silence that was made up is sent for so long, as the service finds the end of speech by it; then `KeepAlive` does.
const SILENCE: Duration = Duration::from_secs(3);
/// Audio that follows an interruption without a pause of this length is of the answer that was interrupted.
const STALE_PAUSE: Duration = Duration::from_millis(500);

/// What each field of a set-up becomes in `Settings`, below `agent`.
pub const SETUP: &[SetupRow] = &[
    ("instructions", Some("think.prompt")),
    ("voice", Some("speak.provider.model")),
    ("language", Some("listen.provider.language")),
    ("model", Some("think.provider.model")),
    ("greeting", Some("greeting")),
    ("transcribe", Some("always")),
    ("turns", Some("always `server`")),
    ("tools", Some("think.functions")),
];

/// An answer of the agent.
#[derive(Debug)]
struct Answer {
    item: ItemId,
    /// No more audio of it will come.
    over: bool,
    /// The session wants no more of it.
    cancelled: bool,
    has_text: bool,
}

/// One conversation with a Deepgram agent.
#[derive(Debug)]
pub struct Deepgram {
    settings: VendorAgent,
    vendor: Value,
    audio: Option<AudioFormats>,
    ready: bool,
    carry: Carry,
    answer: Option<Answer>,
    answers: u32,
    /// Audio still belongs to an answer that was interrupted: when it was last heard.
    stale: Option<Micros>,
    user_speaks: bool,
    /// When audio was last sent, or a keep-alive.
    sent: Micros,
    /// Silence that was made up and sent since the caller's last audio.
    silence: Duration,
    /// Their names.
    calls: OpenCalls<String>,
    /// What it is asked for when it is ready.
    prompt: Option<String>,
    prompts: Prompts,
    /// The last text frame, if no other came since.
    last: String,
    ignored: u64,
    out: Outbox,
}

impl Deepgram {
    /// An agent that is not connected yet. `vendor` is merged into `Settings`.
    pub fn new(settings: &VendorAgent, vendor: Value) -> Deepgram {
        Deepgram {
            settings: settings.clone(),
            vendor,
            audio: None,
            ready: false,
            carry: Carry::default(),
            answer: None,
            answers: 0,
            stale: None,
            user_speaks: false,
            sent: Micros::ZERO,
            silence: Duration::ZERO,
            calls: OpenCalls::default(),
            prompt: None,
            prompts: Prompts::default(),
            last: String::new(),
            ignored: 0,
            out: Outbox::default(),
        }
    }

    /// Messages that were of no use or unknown, so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn start(&mut self, start: &AgentStart) {
        let audio = settings::formats(&self.settings, start.client);
        let (message, missing) = settings::opening(&self.settings, start, &audio, &self.vendor);
        self.audio = Some(audio);
        self.prompt = match &start.setup.greeting {
            Some(Greeting::Prompt(prompt)) if start.greet => Some(prompt.clone()),
            _ => None,
        };
        self.prompts.instructions = start.setup.instructions.clone().unwrap_or_default();
        self.out.say(&message);
        self.out.refuse(missing);
    }

    fn handle_said(&mut self, said: Said, now: Micros) {
        match said {
            Said::SettingsApplied => self.handle_applied(now),
            Said::ConversationText { role, content } if role == "user" => {
                if !self.prompts.is_echo(&content) {
                    self.handle_user(content);
                }
            }
            Said::ConversationText { content, .. } => self.handle_text(&content),
            Said::UserStartedSpeaking => self.handle_speech(now),
            Said::AgentThinking => {
                self.stale = None;
                self.out.tell(FromAgent::Thinking);
            }
            Said::AgentStartedSpeaking => self.stale = None,
            Said::AgentAudioDone => self.end_answer(),
            Said::FunctionCallRequest { functions } => functions.into_iter().for_each(|call| self.call(call)),
            Said::FunctionCallCancelled { functions } => {
                for function in &functions {
                    self.calls.close(&function.id);
                }
                let calls = functions.into_iter().map(|function| function.id.into()).collect();
                self.out.tell(FromAgent::ToolCancelled(calls));
            }
            Said::InjectionRefused { message } => {
                self.out.tell_error(FailureClass::BadRequest, "injection_refused", &message);
            }
            Said::FrustrationDetected => self.alert("frustration_detected", "info", Value::Null),
            Said::Warning(Trouble { code, description }) => {
                let data = json!({ "code": code, "description": codec::shortened(&description, 512) });
                self.alert("agent_warning", "warning", data);
            }
            Said::Error(Trouble { code, description }) => {
                let class = wire::class_of(&code, &description);
                self.end(Some(reported(class, code.as_str(), &description)));
            }
            Said::Welcome
            | Said::History
            | Said::FunctionCallResponse
            | Said::PromptUpdated
            | Said::SpeakUpdated
            | Said::LatencyReport => {}
            Said::Unknown => self.ignored += 1,
        }
    }

    fn handle_applied(&mut self, now: Micros) {
        if let Some(AudioFormats { uplink, downlink, .. }) = self.audio.filter(|_| !self.ready) {
            self.ready = true;
            self.sent = now;
            self.out.tell(FromAgent::Ready(Ready { uplink, downlink, delay: None }));
            if let Some(prompt) = self.prompt.take() {
                self.ask(prompt);
            }
        }
    }

    fn handle_user(&mut self, text: String) {
        self.end_speech();
        let (item, append) = (None, false);
        self.out.tell(FromAgent::Transcript(AgentTranscript { item, role: Role::User, text, append, is_final: true }));
        self.out.tell(FromAgent::Thinking);
    }

    fn end_speech(&mut self) {
        if std::mem::take(&mut self.user_speaks) {
            self.out.tell(FromAgent::Speech(SpeechEvent::Stopped));
        }
    }

    fn handle_speech(&mut self, now: Micros) {
        self.end_speech();
        self.user_speaks = true;
        if self.answer.as_ref().is_some_and(|answer| !answer.over) {
            self.stale = Some(now);
        }
        if let Some(answer) = &mut self.answer {
            answer.over = true;
        }
        self.carry.clear();
        // What stops the voice goes first.
        self.out.tell(FromAgent::Interrupted);
        self.out.tell(FromAgent::Speech(SpeechEvent::Started));
    }

    /// The answer that is being given, which begins here if there is none.
    fn open_answer(&mut self) -> ItemId {
        if let Some(answer) = self.answer.as_ref().filter(|answer| !answer.over) {
            return answer.item.clone();
        }
        self.answers += 1;
        let item = ItemId::from(format!("answer-{}", self.answers));
        self.answer = Some(Answer { item: item.clone(), over: false, cancelled: false, has_text: false });
        self.out.tell(FromAgent::TurnStarted(Some(item.clone())));
        item
    }

    /// A sentence of the agent: of the answer that is given, or of the one before if that has none yet.
    fn handle_text(&mut self, text: &str) {
        self.stale = None;
        let late = self.answer.as_ref().filter(|answer| answer.over && !answer.has_text);
        let item = late.map(|answer| answer.item.clone()).unwrap_or_else(|| self.open_answer());
        let append = self.answer.as_mut().is_some_and(|answer| std::mem::replace(&mut answer.has_text, true));
        let over = self.answer.as_ref().is_some_and(|answer| answer.over);
        let text = if append { format!(" {text}") } else { text.to_owned() };
        let role = Role::Agent;
        self.out.tell(FromAgent::Transcript(AgentTranscript { item: Some(item), role, text, append, is_final: over }));
    }

    fn end_answer(&mut self) {
        let Some(answer) = self.answer.as_mut().filter(|answer| !answer.over) else { return };
        answer.over = true;
        let whole = answer.has_text.then(|| AgentTranscript {
            item: Some(answer.item.clone()),
            role: Role::Agent,
            text: String::new(),
            append: true,
            is_final: true,
        });
        self.out.tell(FromAgent::TurnEnded);
        if let Some(whole) = whole {
            self.out.tell(FromAgent::Transcript(whole));
        }
    }

    fn handle_audio(&mut self, payload: Bytes, now: Micros) {
        let Some((format, sample)) = self.audio.and_then(|audio| {
            let format: Format = audio.downlink;
            Some((format, format.bytes_per_sample()?))
        }) else {
            self.ignored += 1;
            return;
        };
        if self.stale.is_some_and(|last| now - last < STALE_PAUSE) {
            self.stale = Some(now);
            let micros = payload.len() as u64 * 1_000_000 / (u64::from(format.rate) * sample as u64);
            return self.out.tell(FromAgent::Discarded(Duration::from_micros(micros)));
        }
        self.stale = None;
        let payload = self.carry.align(sample, payload);
        if payload.is_empty() {
            return;
        }
        let item = Some(self.open_answer());
        self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item, rtp: None, payload }));
    }

    /// Only functions that this side is to run are its business.
    fn call(&mut self, function: Function) {
        let Function { id, name, arguments, client_side } = function;
        if !client_side {
            return;
        }
        self.calls.open(id.clone(), name.clone());
        self.out.tell(FromAgent::ToolCall(ToolCall { call_id: id.into(), name, arguments }));
    }

    /// What the service says next is of another answer than the one that was cancelled.
    fn leave_cancelled(&mut self, now: Micros) {
        if let Some(answer) = self.answer.as_mut().filter(|answer| answer.cancelled && !answer.over) {
            answer.over = true;
            self.stale = Some(now);
        }
    }

    fn answer_call(&mut self, result: &ToolResult) {
        let Some(name) = self.calls.close(result.call_id.as_str()) else { return };
        let content = if result.is_error { format!("error: {}", result.output) } else { result.output.clone() };
        self.out
            .say(&json!({ "type": "FunctionCallResponse", "id": result.call_id, "name": name, "content": content }));
    }

    fn hear(&mut self, audio: AgentAudioOut, now: Micros) {
        if audio.filled {
            let rate = self.audio.map_or(24_000, |audio| audio.uplink.clock());
            self.silence += Duration::from_micros(u64::from(audio.ticks) * 1_000_000 / u64::from(rate.max(1)));
            if self.silence > SILENCE {
                return;
            }
        } else {
            self.silence = Duration::ZERO;
        }
        self.sent = now;
        self.out.send_audio(Wire::Binary(audio.payload), audio.ready);
    }

    fn alert(&mut self, name: &str, severity: &str, data: Value) {
        self.out.tell(FromAgent::Alert(Alert { name: name.to_owned(), severity: severity.to_owned(), data }));
    }

    fn end(&mut self, failure: Option<AgentError>) {
        // An answer that a failure breaks off is not complete.
        if failure.is_none() && !self.out.has_ended() {
            self.end_answer();
        }
        self.out.end(failure);
    }

    fn keep_alive_at(&self) -> Option<Micros> {
        (self.ready && !self.out.has_ended()).then(|| self.sent + KEEP_ALIVE)
    }
}

impl Agent for Deepgram {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            server_vad: true,
            truncation: false,
            playout: false,
            tools: true,
            text: true,
            manual_turns: false,
            context: true,
            longest: Some(LONGEST),
            ..Capabilities::default()
        }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        Some(Endpoint::of_vendor(&self.settings, &[]))
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, now: Micros) {
        match message {
            ToAgent::Audio(audio) => self.hear(audio, now),
            ToAgent::Start(start) => self.start(&start),
            ToAgent::Message(message) => {
                self.leave_cancelled(now);
                self.out.say(&json!({ "type": "InjectUserMessage", "content": message.text }));
            }
            // Nothing stops an answer: what comes of it is dropped by its item.
            ToAgent::Cancel(_) => {
                if let Some(answer) = &mut self.answer {
                    answer.cancelled = true;
                }
            }
            ToAgent::ToolResult(result) => self.answer_call(&result),
            ToAgent::Update(setup) => self.update(setup),
            ToAgent::Prompt(text) => {
                self.leave_cancelled(now);
                self.ask(text);
            }
            ToAgent::History(items) => self.remember(&items),
            ToAgent::Typing(_)
            | ToAgent::Input(_)
            | ToAgent::Dtmf(_)
            | ToAgent::Truncate(_)
            | ToAgent::App(_)
            | ToAgent::Playout(_)
            | ToAgent::End => {}
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        match wire {
            Wire::Close(1000, _) if self.ready => self.end(None),
            Wire::Close(code, reason) => self.end(Some(closed(wire::class_of_close(code, &reason), code, &reason))),
            _ if self.out.has_ended() => {}
            Wire::Binary(payload) => {
                self.last.clear();
                self.handle_audio(payload, now);
            }
            // Sentences have no ids: the same frame twice in a row is one that was sent twice.
            Wire::Text(text) if text == self.last => self.ignored += 1,
            Wire::Text(text) => {
                match serde_json::from_str(&text) {
                    Ok(said) => self.handle_said(said, now),
                    Err(error) => self.out.tell_error(FailureClass::Protocol, "bad_message", &error.to_string()),
                }
                self.last = text;
            }
        }
    }

    fn handle_deadline(&mut self, now: Micros) {
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.sent = now;
            self.out.say(&json!({ "type": "KeepAlive" }));
        }
    }

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        let deadline = self.keep_alive_at();
        self.out.poll(deadline)
    }
}
