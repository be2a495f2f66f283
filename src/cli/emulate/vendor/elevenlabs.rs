//! The wire of ElevenLabs Conversational AI.

use serde_json::{Value, json};

use super::actor::{Heard, Says};
use super::{Answered, Outbox, VendorArgs, Wiring, json_answer, not_found};
use crate::agent::{Wire, audio_json};
use crate::media::format::{Codec, Format};

const CONVERSATION: &str = "/v1/convai/conversation";
/// A `ping` after so many milliseconds of the caller's audio.
const PING_EVERY: u64 = 500;

/// Answers a request: the URL of a conversation, or the conversation.
pub(super) fn connect(request: &http::request::Parts, origin: &str, args: &VendorArgs) -> Answered {
    let query = request.uri.query().unwrap_or_default();
    let asks = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let path = request.uri.path();
    if path.strip_prefix(CONVERSATION).is_some_and(|rest| matches!(rest, "/get-signed-url" | "/get_signed_url")) {
        if !request.headers.contains_key("xi-api-key") {
            return Answered::Http(json_answer(401, &json!({ "detail": { "status": "needs_authorization" } })));
        }
        let signature = args.key.as_deref().unwrap_or("signed");
        let url =
            format!("{}{CONVERSATION}?{query}&conversation_signature={signature}", origin.replacen("http", "ws", 1));
        return Answered::Http(json_answer(200, &json!({ "signed_url": url })));
    }
    if path != CONVERSATION {
        return Answered::Http(not_found());
    }
    if !asks("agent_id") {
        return Answered::Http(json_answer(400, &json!({ "detail": { "status": "missing_agent_id" } })));
    }
    let offered = request.headers.get(http::header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let convai = offered.is_some_and(|offered| offered.split(',').any(|name| name.trim() == "convai"));
    let format = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
    let usual = Format::pcm16(16_000);
    let wiring = ElevenLabs {
        uplink: format(&args.plays.audio_in).unwrap_or(usual),
        downlink: format(&args.plays.audio_out).unwrap_or(usual),
        ..ElevenLabs::default()
    };
    Answered::WebSocket(Box::new(wiring), convai.then_some("convai"))
}

/// One conversation.
struct ElevenLabs {
    uplink: Format,
    downlink: Format,
    begun: bool,
    event: u64,
    ping: u64,
    heard_bytes: usize,
    answer: Answer,
}

/// The last answer.
#[derive(Default)]
struct Answer {
    turn: u32,
    event: u64,
    text: String,
    /// Of its text, what was spoken so far, and what the audio to come is about.
    spoken: String,
    words: String,
    /// What of the caller's audio had been heard when it began, and what was sent of it, in milliseconds.
    began_ms: u64,
    sent_ms: u64,
    interrupted: bool,
}

impl Default for ElevenLabs {
    fn default() -> ElevenLabs {
        let usual = Format::pcm16(16_000);
        ElevenLabs {
            uplink: usual,
            downlink: usual,
            begun: false,
            event: 0,
            ping: 0,
            heard_bytes: 0,
            answer: Answer::default(),
        }
    }
}

/// A format as the service names it.
fn name(format: Format) -> String {
    match format.codec {
        Codec::Pcmu => format!("ulaw_{}", format.rate),
        Codec::Pcma => format!("alaw_{}", format.rate),
        _ => format!("pcm_{}", format.rate),
    }
}

fn millis(format: Format, bytes: usize) -> u64 {
    let width = format.bytes_per_sample().unwrap_or(1);
    (bytes / width) as u64 * 1000 / u64::from(format.rate)
}

impl ElevenLabs {
    fn next_event(&mut self) -> u64 {
        self.event += 1;
        self.event
    }

    fn send_ping(&mut self, out: &mut Outbox) {
        self.ping += 1;
        out.json(&json!({ "type": "ping", "ping_event": { "event_id": self.ping, "ping_ms": 30 } }));
    }

    fn begin(&mut self, message: &Value, out: &mut Outbox) -> Vec<Heard> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        out.json(&json!({
            "type": "conversation_initiation_metadata",
            "conversation_initiation_metadata_event": {
                "conversation_id": "conv_emulated",
                "agent_output_audio_format": name(self.downlink),
                "user_input_audio_format": name(self.uplink),
            },
        }));
        self.send_ping(out);
        let first = message.pointer("/conversation_config_override/agent/first_message");
        let greet = first.and_then(Value::as_str) != Some("");
        vec![Heard::Begin { uplink: self.uplink, downlink: self.downlink, greet, listens: true, yields: true }]
    }

    /// The caller speaks into an answer that should be playing still.
    fn interrupt(&mut self, at_ms: u64, out: &mut Outbox) {
        let answer = &mut self.answer;
        let played = at_ms.saturating_sub(answer.began_ms).min(answer.sent_ms);
        if answer.event == 0 || std::mem::replace(&mut answer.interrupted, true) {
            return;
        }
        out.json(&json!({ "type": "interruption", "interruption_event": { "event_id": answer.event } }));
        let spoken = &answer.spoken;
        let share = (spoken.len() * played as usize / (answer.sent_ms as usize).max(1)).min(spoken.len());
        let share = (0..=share).rev().find(|&at| spoken.is_char_boundary(at)).unwrap_or(0);
        let heard = spoken[..share].rsplit_once(' ').map_or("", |(heard, _)| heard);
        out.json(&json!({
            "type": "agent_response_correction",
            "agent_response_correction_event": {
                "original_agent_response": answer.text,
                "corrected_agent_response": format!("{heard}..."),
                "event_id": answer.event,
            },
        }));
    }

    fn is_playing(&self, at_ms: u64) -> bool {
        at_ms < self.answer.began_ms + self.answer.sent_ms
    }

    fn audio(&mut self, turn: u32, payload: &[u8], out: &mut Outbox) {
        let answer = &mut self.answer;
        let length = millis(self.downlink, payload.len());
        if turn == answer.turn {
            answer.sent_ms += length;
        }
        let words: Vec<char> = std::mem::take(&mut answer.words).chars().collect();
        let each = length as f64 / words.len().max(1) as f64;
        let alignment = json!({
            "chars": words,
            "char_start_times_ms": (0..words.len()).map(|n| (n as f64 * each).round()).collect::<Vec<_>>(),
            "char_durations_ms": words.iter().map(|_| each.round()).collect::<Vec<_>>(),
        });
        let after = format!(r#"","event_id":{},"alignment":{alignment}}}}}"#, answer.event);
        let text = audio_json::encode(r#"{"type":"audio","audio_event":{"audio_base_64":""#, payload, &after);
        out.audio(Wire::Text(text));
    }
}

impl Wiring for ElevenLabs {
    fn handle(&mut self, wire: Wire, out: &mut Outbox) -> Vec<Heard> {
        let Wire::Text(text) = wire else { return Vec::new() };
        let message: Value = serde_json::from_str(&text).unwrap_or_default();
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        if let Some(audio) = message["user_audio_chunk"].as_str() {
            let Some(payload) = audio_json::decode(audio).filter(|_| self.begun) else { return Vec::new() };
            let pings = |bytes| millis(self.uplink, bytes) / PING_EVERY;
            let due = pings(self.heard_bytes + payload.len()) > pings(self.heard_bytes);
            self.heard_bytes += payload.len();
            if due {
                self.send_ping(out);
            }
            return vec![Heard::Audio(payload)];
        }
        match message["type"].as_str().unwrap_or_default() {
            "conversation_initiation_client_data" => self.begin(&message, out),
            "user_message" => {
                if self.is_playing(millis(self.uplink, self.heard_bytes)) {
                    self.interrupt(millis(self.uplink, self.heard_bytes), out);
                }
                vec![Heard::Text { text: text("text"), answer: true }]
            }
            "client_tool_result" => {
                vec![Heard::ToolResult { call_id: text("tool_call_id"), output: text("result"), answer: true }]
            }
            "pong" => {
                let known = message["event_id"].as_u64().is_some_and(|id| (1..=self.ping).contains(&id));
                out.log(json!({ "event": "pong", "known": known }));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn announce(&mut self, turn: u32, text: &str) {
        let event = self.next_event();
        let began_ms = millis(self.uplink, self.heard_bytes);
        self.answer = Answer { turn, event, text: text.to_owned(), began_ms, ..Answer::default() };
    }

    fn say(&mut self, says: &Says, out: &mut Outbox) {
        match says {
            Says::TurnStarted { .. } => {
                let Answer { text, event, .. } = &self.answer;
                let response = json!({ "agent_response": text, "event_id": event });
                out.json(&json!({ "type": "agent_response", "agent_response_event": response }));
            }
            Says::Text { text, .. } => {
                self.answer.spoken.push_str(text);
                self.answer.words.push_str(text);
            }
            Says::Audio { turn, payload } => self.audio(*turn, payload, out),
            Says::SpeechStarted { at, interrupts } => {
                let at = at.as_millis() as u64;
                if *interrupts || self.is_playing(at) {
                    self.interrupt(at, out);
                }
            }
            Says::Understood { text } => {
                let event = self.next_event();
                let said = json!({ "user_transcript": text, "event_id": event });
                out.json(&json!({ "type": "user_transcript", "user_transcription_event": said }));
            }
            Says::ToolCall { call_id, name, arguments, .. } => {
                let parameters: Value = serde_json::from_str(arguments).unwrap_or_default();
                let event = self.next_event();
                out.json(&json!({ "type": "client_tool_call", "client_tool_call": {
                    "tool_name": name, "tool_call_id": call_id, "parameters": parameters, "event_id": event } }));
            }
            Says::Error { message } => {
                let event = json!({ "code": 1011, "error_type": "llm_error", "message": message });
                out.json(&json!({ "type": "error", "error_event": event }));
            }
            Says::Expired => {
                let event = json!({ "code": 1008, "error_type": "max_duration_exceeded", "message": "the longest time is over" });
                out.json(&json!({ "type": "error", "error_event": event }));
            }
            Says::TurnEnded { .. }
            | Says::SpeechStopped { .. }
            | Says::ToolCancelled { .. }
            | Says::GoAway { .. }
            | Says::Stall(_)
            | Says::Close(_) => {}
        }
    }
}
