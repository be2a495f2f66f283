//! Recorded conversations with an agent, replayed: what goes in is read from a file, and what comes out must be what
//! stands there. `WRITE_FIXTURES=1` writes the files anew.
//!
//! Each line is one of: `< TEXT`, `< bytes N` (zeros), `< hex BYTES`, `< close CODE REASON` from the wire (`BASE64(N)`: N
//! zero bytes, `VOICE(N)`: N bytes of a loud tone);
//! `@ WORD …` from the session; `> …` onto the wire; `= …` to the session; `# …` a comment.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::agent::*;
use crate::message::{
    AgentAudioOut, AgentStart, App, AudioFormats, Basis, ContextItem, Setup, TextMessage, ToolResult, Truncate, Typing,
};

struct Replay<'a> {
    agent: &'a mut dyn Agent,
    now: Micros,
    pos: u64,
    lines: Vec<String>,
}

/// Replays `src/agent/fixtures/NAME`.
pub fn replay(name: &str, agent: &mut dyn Agent) {
    let file = format!("{}/src/agent/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let recorded = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut replay = Replay { agent, now: Micros::from_millis(1000), pos: 0, lines: Vec::new() };
    for line in recorded.lines().filter(|line| !line.starts_with(['>', '='])) {
        replay.lines.push(line.to_owned());
        match line.split_once(' ') {
            Some(("<", text)) => replay.arrive(text),
            Some(("@", text)) => replay.say(text),
            _ => {}
        }
        replay.drain();
    }
    let played = replay.lines.join("\n") + "\n";
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        std::fs::write(&file, played).unwrap();
    } else {
        for (number, (played, recorded)) in played.lines().zip(recorded.lines()).enumerate() {
            assert_eq!(played, recorded, "{file}:{}", number + 1);
        }
        assert_eq!(played.lines().count(), recorded.lines().count(), "{file}");
    }
}

impl Replay<'_> {
    fn arrive(&mut self, text: &str) {
        let mut words = text.splitn(3, ' ');
        if let Some(event) = text.strip_prefix("http ") {
            return self.answer(event);
        }
        if let Some(digits) = text.strip_prefix("hex ") {
            let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(digit).collect();
            return self.agent.handle_wire(Wire::Binary(bytes.into()), self.now);
        }
        let wire = match (words.next(), words.next().and_then(|word| word.parse::<usize>().ok())) {
            (Some("bytes"), Some(count)) => Wire::Binary(vec![0; count].into()),
            (Some("close"), Some(code)) => Wire::Close(code as u16, words.next().unwrap_or_default().to_owned()),
            _ => Wire::Text(with_audio(text)),
        };
        self.agent.handle_wire(wire, self.now);
    }

    /// `http ID data TEXT`, `http ID end`, `http ID failed CLASS` (a line of data; what stands in it).
    fn answer(&mut self, text: &str) {
        let mut words = text.splitn(3, ' ');
        let id = words.next().and_then(|word| word.parse().ok()).unwrap();
        let event = match (words.next(), words.next().unwrap_or_default()) {
            (Some("data"), text) => HttpEvent::Data(format!("{text}\n").into()),
            (Some("end"), _) => HttpEvent::End,
            (Some("failed"), class) => HttpEvent::Failed(AgentError {
                class: serde_json::from_value(class.into()).unwrap(),
                code: None,
                message: "as recorded".to_owned(),
            }),
            other => panic!("{other:?}"),
        };
        self.agent.handle_http(id, event, self.now);
    }

    fn say(&mut self, text: &str) {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let json = || serde_json::from_str::<Value>(rest).unwrap_or_else(|error| panic!("{rest}: {error}"));
        let message = match word {
            "open" => return self.agent.handle_open(self.now),
            "wait" => return self.wait(Duration::from_millis(rest.parse().unwrap())),
            "start" => ToAgent::Start(start(&json())),
            "audio" | "silence" => {
                let payload = Bytes::from(vec![0; rest.parse().unwrap()]);
                let ticks = payload.len() as u32 / 2;
                let (pos, filled) = (self.pos, word == "silence");
                self.pos += u64::from(ticks);
                ToAgent::Audio(AgentAudioOut { pos, ticks, ready: self.now, filled, payload })
            }
            "message" => ToAgent::Message(TextMessage { id: "m-1".into(), text: rest.into(), role: None }),
            "prompt" => ToAgent::Prompt(rest.into()),
            "history" => ToAgent::History(serde_json::from_value(json()).unwrap()),
            "typing" => ToAgent::Typing(Typing { on: true, who: None }),
            "tool_result" => ToAgent::ToolResult(serde_json::from_value::<ToolResult>(json()).unwrap()),
            "app" => ToAgent::App(serde_json::from_value::<App>(json()).unwrap()),
            "update" => ToAgent::Update(serde_json::from_value::<Setup>(json()).unwrap()),
            "truncate" => ToAgent::Truncate(truncate(&json())),
            "input" => ToAgent::Input(serde_json::from_value(serde_json::json!({ "action": rest })).unwrap()),
            "cancel" => ToAgent::Cancel(crate::ids::TurnId(1)),
            "end" => ToAgent::End,
            other => panic!("the session says no `{other}`"),
        };
        self.agent.handle_session(message, self.now);
    }

    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(deadline) = self.drain().filter(|deadline| *deadline <= until) {
            self.now = deadline;
            self.agent.handle_deadline(deadline);
        }
        self.now = until;
    }

    fn drain(&mut self) -> Option<Micros> {
        loop {
            let line = match self.agent.poll(self.now) {
                AgentOutput::Idle { deadline } => return deadline,
                AgentOutput::Wire(wire) | AgentOutput::Audio { wire, .. } => match wire {
                    Wire::Text(text) => format!("> {}", without_audio(&text)),
                    Wire::Binary(bytes) if bytes.iter().any(|byte| *byte != 0) => {
                        format!("> hex {}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
                    }
                    Wire::Binary(bytes) => format!("> bytes {}", bytes.len()),
                    Wire::Close(code, reason) => format!("> close {code} {reason}"),
                },
                AgentOutput::Event(FromAgent::Audio(audio)) => {
                    format!(
                        "= Audio({} bytes, item {:?})",
                        audio.payload.len(),
                        audio.item.map(|item| item.to_string())
                    )
                }
                AgentOutput::Event(event) => format!("= {event:?}"),
                AgentOutput::Redial => "> redial".to_owned(),
                AgentOutput::Request(request) => {
                    format!("> POST {} {}", request.id, String::from_utf8_lossy(&request.body))
                }
                AgentOutput::Abort(request) => format!("> abort {request}"),
            };
            self.lines.push(line);
        }
    }
}

fn truncate(json: &Value) -> Truncate {
    let ms = |key: &str| Duration::from_millis(json[key].as_u64().unwrap());
    Truncate {
        turn: crate::ids::TurnId(1),
        item: json["item"].as_str().map(Into::into),
        heard: ms("heard"),
        of: ms("of"),
        basis: Basis::Reported,
        error: Duration::ZERO,
    }
}

fn start(json: &Value) -> AgentStart {
    let part = |key: &str| json.get(key).cloned().unwrap_or_default();
    let setup = part("setup");
    AgentStart {
        setup: if setup.is_null() { Setup::default() } else { serde_json::from_value(setup).unwrap() },
        context: serde_json::from_value::<Option<Vec<ContextItem>>>(part("context")).unwrap().unwrap_or_default(),
        session_id: "s-1".into(),
        conversation_id: "c-1".into(),
        client_context: None,
        metadata: None,
        greet: part("greet").as_bool().unwrap_or(true),
        client: serde_json::from_value::<Option<AudioFormats>>(part("client")).unwrap(),
    }
}

fn with_audio(text: &str) -> String {
    let audio = |mark: &str, byte: u8| {
        let (before, rest) = text.split_once(mark)?;
        let (count, after) = rest.split_once(')').unwrap();
        Some(format!("{before}{}{after}", STANDARD.encode(vec![byte; count.parse().unwrap()])))
    };
    audio("BASE64(", 0).or_else(|| audio("VOICE(", 0x20)).unwrap_or_else(|| text.to_owned())
}

fn without_audio(text: &str) -> String {
    let (Some(begin), Some(_)) = (text.find("AAAA"), text.find("\"}")) else { return text.to_owned() };
    let end = text[begin..].find('"').map_or(text.len(), |length| begin + length);
    let bytes = STANDARD.decode(&text[begin..end]).unwrap();
    format!("{}BASE64({}){}", &text[..begin], bytes.len(), &text[end..])
}
