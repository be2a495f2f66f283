//! OpenAI Live (GPT-Live) over its primary WebSocket: this side is its client.
//!
//! The model listens and speaks at the same time, and decides itself when to do what. Its voice is one stream without
//! end, silence included, at the pace of speech; nothing on the wire tells turns or interruptions, and nothing takes
//! back what was sent. Turns are found here: an answer begins where the stream has a voice in it and ends with a pause.
//! Facts: the events in the library `openai` 3.51.0 (`types/live`), and the guides that it points to.

pub mod delegations;
mod handover;
pub mod lines;
pub mod opening;
#[cfg(test)]
mod tests;
mod usage;

use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::audio_json::{self, Fields};
use crate::agent::carry::Carry;
use crate::agent::closing::failure_of_close;
use crate::agent::openai::failures::{class_of, code_of};
use crate::agent::outbox::{Outbox, reported};
use crate::agent::{Agent, AgentOutput, Capabilities, Endpoint, Wire, openai};
use crate::config::vendor::VendorAgent;
use crate::ids::ItemId;
use crate::media::format::{Codec, Format};
use crate::media::g711::Law;
use crate::media::level::{SpeechDetector, level};
use crate::media::pcm;
use crate::message::{
    AgentAudio, AgentStart, AgentTranscript, FailureClass, FromAgent, Ready, Role, Setup, SpeechEvent, TextMessage,
    ToAgent,
};
use crate::time::Micros;
use delegations::Delegations;
use lines::{Lines, PAUSE};
use usage::Cumulative;

/// What stands before and after the audio of an uplink frame.
const APPEND: (&str, &str) = (r#"{"type":"session.input_audio.append","audio":""#, "\"}");
/// Marks `session.start`.
const OPENING: &str = "antiphon_start";
/// A pause of this length ends an answer that was stopped: what comes then is another one.
const BREATH: Duration = Duration::from_millis(200);
/// What is below this level, in dBov, is silence between words or answers.
const VOICED_DBOV: i8 = -55;

/// The client's side of one Live session.
#[derive(Debug)]
pub struct LiveAgent {
    settings: VendorAgent,
    vendor: Value,
    model: Option<String>,
    format: Format,
    ready: bool,
    start: Option<AgentStart>,
    /// A model behind the session does the work that is handed over, and calls the tools.
    backend: bool,
    carry: Carry,
    /// Of the voice, on the clock of its stream.
    voice: SpeechDetector,
    streamed: Micros,
    agent: Lines,
    caller: Lines,
    /// Whether the present answer is dropped: it was stopped.
    silenced: bool,
    /// When the present answer is over if nothing more comes; the same of the caller's utterance.
    quiet_at: [Option<Micros>; 2],
    /// Whether the set-up has a tool that takes what the model hands over to the application.
    delegates: bool,
    delegations: Delegations,
    used: Cumulative,
    pcm: Vec<i16>,
    last_event: Option<String>,
    ignored: u64,
    out: Outbox,
}

impl LiveAgent {
    /// An agent that is not connected yet. `vendor` is merged into the `session` of `session.start`, `model` is the
    /// set-up's.
    pub fn new(settings: &VendorAgent, vendor: Value, model: Option<String>) -> LiveAgent {
        let backend = vendor["delegation"]["type"] == "responses";
        LiveAgent {
            settings: settings.clone(),
            vendor,
            model,
            format: settings.downlink.or(settings.uplink).unwrap_or(Format::pcm16(24_000)),
            ready: false,
            start: None,
            backend,
            carry: Carry::default(),
            voice: SpeechDetector::new(VOICED_DBOV, PAUSE),
            streamed: Micros(0),
            agent: Lines::new(Role::Agent),
            caller: Lines::new(Role::User),
            silenced: false,
            quiet_at: [None, None],
            delegates: false,
            delegations: Delegations::default(),
            used: Cumulative::default(),
            pcm: Vec::new(),
            last_event: None,
            ignored: 0,
            out: Outbox::default(),
        }
    }

    /// Events that are not known or of no use here, so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn append(&mut self, channel: &str, delegation: Option<&str>, text: &str) {
        for event in opening::append(channel, delegation, text) {
            self.out.say(&event);
        }
    }

    // ------------------------------------------------------------------------------------------- from the session

    fn handle_start(&mut self, start: AgentStart) {
        if let Some(client) = start.client.filter(|client| client.uplink == client.downlink) {
            // Where the client speaks G.711 both ways and the operator has not decided, it passes through untouched.
            let decided = self.settings.downlink.or(self.settings.uplink);
            let is_g711 = matches!(client.downlink.codec, Codec::Pcmu | Codec::Pcma) && client.downlink.channels == 1;
            self.format = decided.or(Some(client.downlink).filter(|_| is_g711)).unwrap_or(self.format);
        }
        self.delegates = start.setup.tools.iter().flatten().any(|tool| tool.name() == delegations::DELEGATE);
        let tools = if self.backend { opening::tools(&self.settings.tools(&start.setup)) } else { Vec::new() };
        let session = opening::session(self.format, &start, self.model.as_deref(), &tools, &self.vendor);
        self.out.say(&json!({"type": "session.start", "event_id": OPENING, "session": session}));
        self.out.not_apply(opening::not_applied(&start.setup, self.backend));
        self.start = Some(start);
    }

    /// The session has cut the present answer off: what comes of it is dropped up to the next pause.
    fn handle_cancel(&mut self, now: Micros) {
        if self.agent.present().is_some() {
            self.silenced = true;
            self.voice = SpeechDetector::new(VOICED_DBOV, BREATH);
            self.voice.on_frame(0, Duration::ZERO, self.streamed);
            self.quiet_at[0] = Some(now + PAUSE);
            self.append("instructions", None, "The caller has interrupted you: stop speaking, and listen.");
        }
    }

    fn handle_message(&mut self, message: &TextMessage) {
        let text = format!("The caller has typed this message, answer it: {}", message.text);
        self.append("commentary", None, &text);
    }

    fn handle_update(&mut self, setup: &Setup) {
        if let Some(instructions) = &setup.instructions {
            self.append("instructions", None, instructions);
        }
        if setup.tools.is_some() && self.backend {
            let tools = opening::tools(&self.settings.tools(setup));
            let delegation = json!({"type": "responses", "responses": {"tools": tools}});
            self.out.say(&json!({"type": "session.update", "session": {"delegation": delegation}}));
        }
        let mut fields = setup.set_fields();
        fields.retain(|field| field != "instructions" && !(field == "tools" && self.backend));
        self.out.not_apply(fields);
    }

    // --------------------------------------------------------------------------------------------- from the vendor

    fn handle_text(&mut self, text: &str, now: Micros) {
        if let Some(Fields { kind, audio: Some(audio), .. }) = Fields::read(text)
            && kind == "session.output_audio.delta"
        {
            return self.handle_audio(&audio, now);
        }
        let Ok(event) = serde_json::from_str::<Value>(text) else {
            return self.out.tell_error(FailureClass::Protocol, "bad_message", "a message is not JSON");
        };
        if self.told_before(&event) {
            return;
        }
        match event["type"].as_str().unwrap_or_default() {
            "session.started" => self.handle_started(&event["session"]),
            "session.output_transcript.delta" => self.handle_fragment(Role::Agent, &event, now),
            "session.input_transcript.delta" => self.handle_fragment(Role::User, &event, now),
            "session.delegation.created" => self.handle_delegation(&event["delegation"]),
            "response.event" => self.handle_response(&event),
            "session.usage.updated" => self.count(&event["usage"]),
            "session.closed" => {
                self.count(&event["usage"]);
                self.handle_closed(event["reason"].as_str().unwrap_or_default());
            }
            "error" => self.handle_error(&event["error"]),
            _ => self.ignored += 1,
        }
    }

    /// Whether the same event has just come.
    fn told_before(&mut self, event: &Value) -> bool {
        let id = event["event_id"].as_str().map(str::to_owned);
        let again = id.is_some() && id == self.last_event;
        self.ignored += u64::from(again);
        self.last_event = id;
        again
    }

    fn handle_started(&mut self, session: &Value) {
        if self.ready {
            return;
        }
        self.format = openai::opening::format_of(&session["audio"]["format"]).unwrap_or(self.format);
        self.ready = true;
        self.out.tell(FromAgent::Ready(Ready { uplink: self.format, downlink: self.format, delay: None }));
        let greeting = self.start.take().and_then(|start| opening::greeting(&start));
        if let Some(greeting) = greeting {
            self.append("commentary", None, &greeting);
        }
    }

    fn handle_audio(&mut self, audio: &str, now: Micros) {
        if !self.ready {
            return;
        }
        let Some(payload) = audio_json::decode(audio) else {
            return self.out.tell_error(FailureClass::Protocol, "bad_audio", "an audio delta is not base64");
        };
        let width = self.format.bytes_per_sample().unwrap_or(1);
        let payload = self.carry.align(width, payload);
        if payload.is_empty() {
            return;
        }
        self.pcm.clear();
        match self.format.codec {
            Codec::Pcmu => Law::Mu.decode(&payload, &mut self.pcm),
            Codec::Pcma => Law::A.decode(&payload, &mut self.pcm),
            _ => pcm::decode(&payload, 1, &mut self.pcm),
        }
        let span = self.format.ticks_to_time(self.pcm.len() as u64);
        self.streamed = self.streamed + span;
        let change = self.voice.on_frame(level(&self.pcm), span, self.streamed);
        if self.voice.is_speaking() {
            if self.agent.present().is_none() {
                self.begin_answer();
            }
            self.quiet_at[0] = Some(now + PAUSE);
            if !self.silenced {
                let item = self.agent.present().cloned();
                self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item, rtp: None, payload }));
            }
        }
        if change.is_some_and(|change| change.event == SpeechEvent::Stopped) {
            self.end_answer();
        }
    }

    fn begin_answer(&mut self) -> ItemId {
        if let Some(line) = self.caller.finish() {
            self.out.tell(FromAgent::Transcript(line));
        }
        let item = self.agent.begin();
        self.out.tell(FromAgent::TurnStarted(Some(item.clone())));
        item
    }

    fn end_answer(&mut self) {
        self.quiet_at[0] = None;
        self.silenced = false;
        self.voice = SpeechDetector::new(VOICED_DBOV, PAUSE);
        if let Some(line) = self.agent.finish() {
            self.out.tell(FromAgent::TurnEnded);
            self.out.tell(FromAgent::Transcript(line));
        }
    }

    fn handle_fragment(&mut self, role: Role, event: &Value, now: Micros) {
        let Some(text) = event["delta"].as_str().filter(|text| !text.is_empty()) else { return };
        let (start, end) = (event["start_ms"].as_u64(), event["end_ms"].as_u64());
        let line = match role {
            Role::Agent => {
                if self.agent.present().is_none() && self.agent.is_new(start) {
                    self.begin_answer();
                }
                if self.agent.present().is_some() {
                    self.quiet_at[0] = Some(now + PAUSE);
                }
                self.agent.piece(text, end)
            }
            Role::User => {
                if self.caller.is_new(start) {
                    if let Some(line) = self.caller.finish() {
                        self.out.tell(FromAgent::Transcript(line));
                    }
                    self.caller.begin();
                }
                self.quiet_at[1] = Some(now + PAUSE);
                self.caller.piece(text, end)
            }
        };
        self.transcribe(line);
    }

    fn transcribe(&mut self, line: AgentTranscript) {
        if self.silenced && line.role == Role::Agent {
            return; // It was not heard.
        }
        self.delegations.note(&line);
        self.out.tell(FromAgent::Transcript(line));
    }

    fn count(&mut self, usage: &Value) {
        if let Some(usage) = self.used.add(usage) {
            self.out.tell(FromAgent::Usage(usage));
        }
    }

    fn handle_closed(&mut self, reason: &str) {
        self.end_answer();
        let failure = match reason {
            "expired" => Some(reported(FailureClass::Expired, reason, "the session has reached its longest time")),
            "connection_lost" => Some(reported(FailureClass::Lost, reason, "the agent has lost its connection")),
            "content" => {
                self.out.tell_error(FailureClass::BadRequest, reason, "the vendor's safety filter ended the session");
                None
            }
            _ => None,
        };
        self.out.end(failure);
    }

    fn handle_error(&mut self, error: &Value) {
        let message = error["message"].as_str().unwrap_or("the agent reports an error");
        if !self.ready {
            // Without `session.started` there is no session that could go on.
            return self.out.end(Some(reported(class_of(error), code_of(error), message)));
        }
        self.out.tell_error(class_of(error), code_of(error), message);
    }
}

impl Agent for LiveAgent {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            server_vad: false,
            truncation: false,
            playout: false,
            tools: true,
            text: true,
            manual_turns: false,
            context: true,
            endless: false,
            longest: None,
        }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        Some(Endpoint::of_vendor(&self.settings, &[]))
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, now: Micros) {
        match message {
            ToAgent::Audio(audio) => {
                let text = audio_json::encode(APPEND.0, &audio.payload, APPEND.1);
                self.out.send_audio(Wire::Text(text), audio.ready);
            }
            ToAgent::Start(start) => self.handle_start(start),
            ToAgent::Message(message) => self.handle_message(&message),
            ToAgent::Prompt(prompt) => self.append("commentary", None, &prompt),
            ToAgent::Cancel(_) => self.handle_cancel(now),
            ToAgent::ToolResult(result) => self.handle_tool_result(&result),
            ToAgent::Update(setup) => self.handle_update(&setup),
            ToAgent::History(items) => {
                for item in items {
                    let who = if item.role == Role::User { "The caller" } else { "You" };
                    self.append("thinking", None, &format!("{who} said meanwhile: {}", item.text));
                }
            }
            ToAgent::End => self.out.say(&json!({"type": "session.close"})),
            ToAgent::Truncate(_)
            | ToAgent::Input(_)
            | ToAgent::Typing(_)
            | ToAgent::Dtmf(_)
            | ToAgent::App(_)
            | ToAgent::Playout(_) => {}
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        match wire {
            Wire::Close(code, reason) => self.out.end(failure_of_close(code, &reason, self.ready)),
            _ if self.out.has_ended() => {}
            Wire::Text(text) => self.handle_text(&text, now),
            Wire::Binary(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.handle_text(text, now),
                Err(_) => self.out.tell_error(FailureClass::Protocol, "bad_message", "a message is not text"),
            },
        }
    }

    fn handle_deadline(&mut self, now: Micros) {
        if self.quiet_at[0].is_some_and(|at| at <= now) {
            self.end_answer();
        }
        if self.quiet_at[1].take_if(|at| *at <= now).is_some()
            && let Some(line) = self.caller.finish()
        {
            self.out.tell(FromAgent::Transcript(line));
        }
    }

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        let deadline = self.quiet_at.iter().flatten().min().copied();
        self.out.poll(deadline)
    }
}
