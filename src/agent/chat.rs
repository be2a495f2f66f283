//! OpenAI-compatible chat completions over HTTP, with streaming; text only.
//!
//! Nothing is kept at the other end: each request carries the instructions and the last messages of the conversation.
//! One request runs at a time; what the user writes meanwhile is answered after it.

mod history;
mod stream;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::agent::native::merge;
use crate::agent::outbox::{Outbox, reported};
use crate::agent::setup::SetupRow;
use crate::agent::{Agent, AgentOutput, Capabilities, HttpEvent, HttpRequest};
use crate::config::vendor::{VendorAgent, VendorAuth};
use crate::ids::MessageId;
use crate::media::format::Format;
use crate::message::{
    AgentError, AgentStart, ContextItem, Delta, FailureClass, FromAgent, Greeting, Ready, Role, Setup, TextMessage,
    ToAgent, ToolCall, ToolResult,
};
use crate::time::Micros;

use history::History;
use stream::{Event, Events};

/// Written with if nobody says otherwise.
const MODEL: &str = "gpt-4o-mini";
/// An answer has to be complete within this time.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest answer, in bytes of its stream.
const MAX_ANSWER: usize = 1 << 20;
/// Messages that wait for an answer to be complete; more are dropped.
const MAX_LATER: usize = 32;
/// Tool calls of one answer; more are ignored.
const MAX_CALLS: usize = 16;

/// What each field of a set-up becomes in a request.
pub const SETUP: &[SetupRow] = &[
    ("instructions", Some("messages[0]")),
    ("voice", None),
    ("language", None),
    ("model", Some("model")),
    ("greeting", Some("the first message")),
    ("transcribe", None),
    ("turns", None),
    ("tools", Some("tools")),
];

/// One conversation with a chat model.
#[derive(Debug)]
pub struct Chat {
    settings: VendorAgent,
    vendor: Value,
    setup: Setup,
    history: History,
    requests: u32,
    running: Option<Running>,
    /// Something was said that no request has carried so far.
    unanswered: bool,
    /// What was written while an answer was on its way: it comes after that.
    later: Vec<String>,
    /// Results that are still to come.
    waits_for: Vec<String>,
    answered: bool,
    out: Outbox,
}

/// The request that runs.
#[derive(Debug)]
struct Running {
    id: u32,
    events: Events,
    text: String,
    calls: Vec<Call>,
}

/// A tool call as it is pieced together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Chat {
    /// An agent that has not been asked yet. `vendor` is merged into each request.
    pub fn new(settings: &VendorAgent, vendor: Value) -> Chat {
        Chat {
            history: History::new(settings.history),
            settings: settings.clone(),
            vendor,
            setup: Setup::default(),
            requests: 0,
            running: None,
            unanswered: false,
            later: Vec::new(),
            waits_for: Vec::new(),
            answered: false,
            out: Outbox::default(),
        }
    }

    fn start(&mut self, start: AgentStart) {
        // Nothing is heard and nothing spoken: any format will do.
        let format = Format::pcm16(16_000);
        self.out.tell(FromAgent::Ready(Ready { uplink: format, downlink: format, delay: None }));
        self.remember(&start.context);
        let greeting = start.setup.greeting.clone().filter(|_| start.greet);
        self.update(start.setup);
        match greeting {
            Some(Greeting::Say(text)) => {
                self.history.push(json!({ "role": "assistant", "content": text }));
                let id = MessageId::from("greeting");
                self.out.tell(FromAgent::Message(TextMessage { id, text, role: Some(Role::Agent) }));
            }
            Some(Greeting::Prompt(prompt)) => self.prompt(&prompt),
            Some(Greeting::Clip(_) | Greeting::Agent | Greeting::None) | None => {}
        }
    }

    fn prompt(&mut self, prompt: &str) {
        self.history.push(json!({ "role": "system", "content": prompt }));
        self.unanswered = true;
        self.ask();
    }

    fn remember(&mut self, items: &[ContextItem]) {
        for item in items {
            let role = if item.role == Role::User { "user" } else { "assistant" };
            self.history.push(json!({ "role": role, "content": item.text }));
        }
    }

    /// Changes take effect with the next request.
    fn update(&mut self, setup: Setup) {
        let Setup { instructions, voice, language, model, greeting, transcribe, turns, tools } = setup;
        let mut missing: Vec<String> = Vec::new();
        let lacks = [
            ("greeting", matches!(greeting, Some(Greeting::Clip(_)))),
            ("voice", voice.is_some()),
            ("language", language.is_some()),
            ("transcribe", transcribe.is_some()),
            ("turns", turns.is_some()),
        ];
        missing.extend(lacks.iter().filter(|(_, set)| *set).map(|(name, _)| (*name).to_owned()));
        self.setup.instructions = instructions.or(self.setup.instructions.take());
        self.setup.model = model.or(self.setup.model.take());
        if let Some(tools) = tools {
            let wanted = tools.len();
            self.setup.tools = Some(tools);
            if self.settings.tools(&self.setup).len() < wanted {
                missing.push("tools".to_owned());
            }
        }
        self.out.not_apply(missing);
    }

    /// Asks for an answer, unless one is on its way or results of tools are waited for.
    fn ask(&mut self) {
        if self.running.is_none() {
            for text in std::mem::take(&mut self.later) {
                self.history.push(json!({ "role": "user", "content": text }));
                self.unanswered = true;
            }
        }
        if self.running.is_some() || !self.waits_for.is_empty() || !self.unanswered {
            return;
        }
        self.unanswered = false;
        self.requests += 1;
        let id = self.requests;
        let request = HttpRequest {
            id,
            url: self.settings.url_with(&[]),
            headers: self.settings.headers.iter().cloned().chain(self.settings.key_header()).collect(),
            token: match &self.settings.auth {
                VendorAuth::Token(command) => Some(command.clone()),
                VendorAuth::Usual | VendorAuth::Bearer | VendorAuth::ApiKey => None,
            },
            body: Bytes::from(self.body().to_string()),
            connect_timeout: self.settings.connect_timeout,
            deadline: DEADLINE,
            most: MAX_ANSWER,
        };
        self.running = Some(Running { id, events: Events::default(), text: String::new(), calls: Vec::new() });
        self.out.tell(FromAgent::Thinking);
        self.out.tell(FromAgent::Typing(true));
        self.out.push(AgentOutput::Request(request));
    }

    fn body(&self) -> Value {
        let instructions = self.setup.instructions.iter().map(|text| json!({ "role": "system", "content": text }));
        let messages: Vec<Value> = instructions.chain(self.history.messages().cloned()).collect();
        let mut body = json!({
            "model": self.setup.model.as_deref().unwrap_or(MODEL),
            "messages": messages,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let tool = |tool: crate::message::ToolDefinition| {
            let mut function = json!({ "name": tool.name, "description": tool.description });
            if !tool.parameters.is_null() {
                function["parameters"] = tool.parameters;
            }
            json!({ "type": "function", "function": function })
        };
        let tools: Vec<Value> = self.settings.tools(&self.setup).into_iter().map(tool).collect();
        if !tools.is_empty() {
            body["tools"] = tools.into();
        }
        if self.vendor.is_object() {
            merge(&mut body, &self.vendor);
        }
        body
    }

    fn handle_message(&mut self, text: String) {
        if self.running.is_some() {
            if self.later.len() < MAX_LATER {
                self.later.push(text);
            } else {
                let message = format!("more than {MAX_LATER} messages wait for an answer: this one is not answered");
                self.out.tell_error(FailureClass::Limit, "too_many_messages", &message);
            }
            return;
        }
        self.unanswered = true;
        // Whoever writes on does not wait for a tool.
        for call in std::mem::take(&mut self.waits_for) {
            self.history.push(json!({ "role": "tool", "tool_call_id": call, "content": "cancelled" }));
            self.out.tell(FromAgent::ToolCancelled(vec![call.into()]));
        }
        self.history.push(json!({ "role": "user", "content": text }));
        self.ask();
    }

    fn handle_event(&mut self, event: Event) {
        let Some(running) = &mut self.running else { return };
        match event {
            Event::Text(text) => {
                running.text.push_str(&text);
                let message_id = message_id(running.id);
                self.out.tell(FromAgent::Delta(Delta { message_id, text }));
            }
            Event::Call { index, id, name, arguments } => {
                if index >= MAX_CALLS {
                    return;
                }
                if running.calls.len() <= index {
                    running.calls.resize(index + 1, Call::default());
                }
                let call = &mut running.calls[index];
                call.id.push_str(&id);
                call.name.push_str(&name);
                call.arguments.push_str(&arguments);
            }
            Event::Usage(usage) => self.out.tell(FromAgent::Usage(usage)),
            Event::Error { code, message } => {
                self.fail(reported(class_of(&code), code.as_str(), &message));
            }
            Event::Done => self.finish(),
        }
    }

    /// The answer is complete.
    fn finish(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.answered = true;
        self.out.tell(FromAgent::Typing(false));
        let calls: Vec<Call> = running.calls.into_iter().filter(|call| !call.id.is_empty()).collect();
        let shown = |call: &Call| {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            json!({ "id": call.id, "type": "function", "function": function })
        };
        let mut said = json!({ "role": "assistant", "content": running.text });
        if !calls.is_empty() {
            said["tool_calls"] = calls.iter().map(shown).collect();
        }
        if !running.text.is_empty() || !calls.is_empty() {
            self.history.push(said);
        }
        if !running.text.is_empty() {
            let (id, role) = (message_id(running.id), Some(Role::Agent));
            self.out.tell(FromAgent::Message(TextMessage { id, text: running.text, role }));
        }
        for call in calls {
            self.waits_for.push(call.id.clone());
            let Call { id, name, arguments } = call;
            self.out.tell(FromAgent::ToolCall(ToolCall { call_id: id.into(), name, arguments }));
        }
        self.ask();
    }

    fn answer_call(&mut self, result: &ToolResult) {
        let Some(at) = self.waits_for.iter().position(|id| id == result.call_id.as_str()) else { return };
        let id = self.waits_for.remove(at);
        let content = if result.is_error { format!("error: {}", result.output) } else { result.output.clone() };
        self.history.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
        self.unanswered = true;
        self.ask();
    }

    /// A refusal that another try cannot mend ends the conversation here, so that another agent may take over.
    fn fail(&mut self, error: AgentError) {
        if self.running.take().is_some() {
            self.out.tell(FromAgent::Typing(false));
        }
        let lasting = matches!(error.class, FailureClass::Auth | FailureClass::BadRequest | FailureClass::Unreachable);
        if lasting && !self.answered {
            self.out.end(Some(error));
        } else {
            self.out.tell(FromAgent::Error(error));
            self.ask();
        }
    }

    /// Breaks the present answer off; what was written of it stays.
    fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.out.push(AgentOutput::Abort(running.id));
        self.out.tell(FromAgent::Typing(false));
        if !running.text.is_empty() {
            self.history.push(json!({ "role": "assistant", "content": running.text }));
            let (id, role) = (message_id(running.id), Some(Role::Agent));
            self.out.tell(FromAgent::Message(TextMessage { id, text: running.text, role }));
        }
        self.ask();
    }
}

fn message_id(request: u32) -> MessageId {
    MessageId::from(format!("answer-{request}"))
}

/// The class of an error in a stream, by its code or type.
fn class_of(code: &str) -> FailureClass {
    match code {
        "invalid_api_key" | "authentication_error" | "permission_error" => FailureClass::Auth,
        "rate_limit_exceeded" | "insufficient_quota" | "rate_limit_error" => FailureClass::Limit,
        "invalid_request_error" | "model_not_found" | "context_length_exceeded" => FailureClass::BadRequest,
        _ => FailureClass::Internal,
    }
}

impl Agent for Chat {
    fn capabilities(&self) -> Capabilities {
        Capabilities { tools: true, text: true, context: true, ..Capabilities::default() }
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, _now: Micros) {
        match message {
            ToAgent::Start(start) => self.start(start),
            ToAgent::Message(message) => self.handle_message(message.text),
            ToAgent::Prompt(prompt) => self.prompt(&prompt),
            ToAgent::ToolResult(result) => self.answer_call(&result),
            ToAgent::Update(setup) => self.update(setup),
            ToAgent::History(items) => self.remember(&items),
            ToAgent::Cancel(_) => self.stop(),
            ToAgent::End => {
                // Nobody waits for an answer any more.
                self.later.clear();
                self.unanswered = false;
                self.stop();
            }
            ToAgent::Audio(_)
            | ToAgent::Typing(_)
            | ToAgent::Input(_)
            | ToAgent::Dtmf(_)
            | ToAgent::Truncate(_)
            | ToAgent::App(_)
            | ToAgent::Playout(_) => {}
        }
    }

    fn handle_http(&mut self, id: u32, event: HttpEvent, _now: Micros) {
        let Some(running) = self.running.as_mut().filter(|running| running.id == id) else { return };
        match event {
            HttpEvent::Data(bytes) => {
                let found = running.events.read(&bytes);
                let done = found.contains(&Event::Done);
                for event in found {
                    self.handle_event(event);
                }
                if done {
                    self.out.push(AgentOutput::Abort(id));
                }
            }
            HttpEvent::End => {
                // Some servers end the stream without saying so.
                if running.text.is_empty() && running.calls.is_empty() {
                    let message = "the answer is empty".to_owned();
                    return self.fail(AgentError { class: FailureClass::Protocol, code: None, message });
                }
                self.finish();
            }
            HttpEvent::Failed(error) => self.fail(error),
        }
    }

    fn handle_deadline(&mut self, _now: Micros) {}

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        self.out.poll(None)
    }
}
