//! Whatever a vendor's server says, the agent's side of it survives, and what it keeps does not grow without end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use antiphon::agent::{self, Agent, AgentOutput, HttpEvent};
use antiphon::config::settings::Settings;
use antiphon::config::{FileText, check};
use antiphon::ids::TurnId;
use antiphon::media::format::Format;
use antiphon::message::{
    AgentAudioOut, AgentError, AgentStart, Basis, ContextItem, FailureClass, FromAgent, Role, Setup, TextMessage,
    ToAgent, ToolResult, Truncate,
};
use antiphon::time::Micros;

use super::frames::{Framed, frames};

/// One agent of each kind, and of each wire of a kind.
pub const AGENTS: [&str; 9] =
    ["chat", "deepgram", "elevenlabs", "gemini", "live", "openai", "pipecat", "rtvi", "delegating"];

struct Nothing;

impl antiphon::config::Lookup for Nothing {
    fn env(&self, _: &str) -> Option<String> {
        None
    }
    fn read(&self, _: &Path) -> Result<String, String> {
        Err("no file is read".to_owned())
    }
    fn exists(&self, _: &Path) -> bool {
        false
    }
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let mut text = String::from("[tool.look]\ndescription = \"Looks\"\n[tool.delegate]\ndescription = \"Does\"\n");
        for name in AGENTS {
            let (kind, more) = match name {
                "elevenlabs" => ("elevenlabs", "agent_id = \"a\"\n"),
                "pipecat" => ("pipecat", "url = \"ws://h/\"\n"),
                "rtvi" => ("pipecat", "url = \"ws://h/\"\nprotocol = \"rtvi\"\n"),
                "delegating" => ("live", "vendor.delegation = { type = \"responses\", responses = { model = \"m\" } }\n"),
                kind => (kind, ""),
            };
            text += &format!(
                "[agent.{name}]\nkind = \"{kind}\"\n{more}setup = {{ greeting = {{ prompt = \"Greet.\" }}, tools = [\"look\", \"delegate\"] }}\n"
            );
        }
        let file = FileText { name: "fuzz".to_owned(), dir: ".".into(), text };
        check(&[file], &BTreeMap::new(), &Nothing).unwrap_or_else(|errors| panic!("{errors}"))
    })
}

/// What the session says, by a frame whose kind is from 128 on.
fn to_agent(frame: &Framed) -> ToAgent {
    let ms = |index: usize| Duration::from_millis(u64::from(frame.payload.get(index).copied().unwrap_or(0)) * 10);
    match frame.kind % 8 {
        0 => ToAgent::Audio(AgentAudioOut {
            pos: 0,
            ticks: frame.payload.len() as u32 / 2,
            ready: Micros::ZERO,
            filled: false,
            payload: frame.payload.clone(),
        }),
        1 => ToAgent::Cancel(TurnId(1)),
        2 => ToAgent::Message(TextMessage { id: "m".into(), text: frame.text(), role: None }),
        3 => ToAgent::ToolResult(ToolResult { call_id: frame.text().into(), output: frame.text(), is_error: false }),
        4 => ToAgent::Truncate(Truncate {
            turn: TurnId(1),
            item: Some(frame.text().into()),
            heard: ms(0),
            of: ms(1),
            basis: Basis::Paced,
            error: Duration::ZERO,
        }),
        5 => ToAgent::History(vec![ContextItem { role: Role::User, text: frame.text() }]),
        6 => ToAgent::Update(Setup { instructions: Some(frame.text()), ..Setup::default() }),
        _ => ToAgent::End,
    }
}

/// Polls until the agent has nothing more to say; what it asks of HTTP is failed at once where the input says so.
fn drain(agent: &mut dyn Agent, now: Micros) {
    for _ in 0..10_000 {
        match agent.poll(now) {
            AgentOutput::Idle { .. } => return,
            AgentOutput::Event(FromAgent::Audio(audio)) => assert!(!audio.payload.is_empty(), "audio without a sample"),
            AgentOutput::Event(FromAgent::Ready(ready)) => {
                // The session refuses formats that it cannot serve; naming one must do no harm.
                let _ = (ready.uplink.check(), ready.downlink.check());
            }
            AgentOutput::Event(FromAgent::Usage(usage)) => assert!(!usage.amounts.is_empty()),
            _ => {}
        }
    }
    panic!("it never comes to an end");
}

/// The first byte chooses the agent; then frames: from the vendor, or (kinds from 128 on) from the session.
pub fn run(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    let settings = settings();
    let name = AGENTS[usize::from(which) % AGENTS.len()];
    let settings = settings.agent(name).expect("an agent of this name");
    let mut agent = agent::build(settings, &settings.setup, 0).expect("it can be made");
    let now = Micros::from_millis(1);
    agent.handle_open(now);
    agent.handle_session(
        ToAgent::Start(AgentStart {
            setup: settings.setup.clone(),
            context: vec![ContextItem { role: Role::Agent, text: "Hello.".into() }],
            session_id: "s".into(),
            conversation_id: "c".into(),
            client_context: None,
            metadata: None,
            greet: which >= 128,
            client: Some(antiphon::message::AudioFormats { uplink: Format::PCMU, downlink: Format::OPUS, flow: None }),
        }),
        now,
    );
    drain(agent.as_mut(), now);
    for (at, frame) in frames(data).into_iter().enumerate() {
        let now = Micros::from_millis(10 + at as u64 * 70);
        match frame.kind {
            ..96 => agent.handle_wire(frame.wire(), now),
            96..112 => agent.handle_http(u32::from(frame.kind % 4), HttpEvent::Data(frame.payload.clone()), now),
            112..120 => agent.handle_http(u32::from(frame.kind % 4), HttpEvent::End, now),
            120..128 => {
                let error = AgentError { class: FailureClass::Lost, code: None, message: frame.text() };
                agent.handle_http(u32::from(frame.kind % 4), HttpEvent::Failed(error), now);
            }
            128.. => agent.handle_session(to_agent(&frame), now),
        }
        agent.handle_deadline(now);
        drain(agent.as_mut(), now);
    }
}
