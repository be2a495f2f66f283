//! Every agent that hears and speaks, behind a real session: its conversation stays in spoken order, however late its
//! texts come, where one never comes, and around a tool.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Call, speech};
use crate::agent::Wire;
use crate::agent::pipecat::frame::{self, AudioRawFrame, Kind, MessageFrame};
use crate::config::settings::AgentKind;
use crate::config::vendor::{PipecatWire, VendorAgent, VendorKind};
use crate::media::format::Format;
use crate::message::{FromClient, Role, ToClient, ToolResult};

/// What happens at the vendor.
#[derive(Clone, Copy, Debug)]
enum Event<'a> {
    /// It is ready.
    Opens,
    /// It notices that the caller begins to speak, and stops.
    CallerSpeaks,
    CallerStops,
    /// It has understood the caller.
    Hears(&'a str),
    /// It has not.
    HearsNothing,
    /// It gives 400 ms of its answer.
    Speaks,
    /// The words of its answer.
    Says(&'a str),
    /// Its answer is complete.
    Finishes,
    /// It calls a tool.
    Calls,
}

/// One vendor's server; answers and utterances are numbered.
#[derive(Debug)]
struct Server {
    kind: VendorKind,
    wire: PipecatWire,
    answer: u64,
    utterance: u64,
}

fn voice(rate: usize) -> Vec<u8> {
    [0x00, 0x20].repeat(rate * 2 / 5)
}

fn text(value: serde_json::Value) -> Vec<Wire> {
    vec![Wire::Text(value.to_string())]
}

impl Server {
    fn wires(&mut self, event: Event<'_>) -> Vec<Wire> {
        match event {
            Event::Speaks => self.answer += 1,
            Event::CallerSpeaks => self.utterance += 1,
            _ => {}
        }
        match self.kind {
            VendorKind::Openai => self.openai(event),
            VendorKind::Live => self.live(event),
            VendorKind::Deepgram => self.deepgram(event),
            VendorKind::Elevenlabs => self.elevenlabs(event),
            VendorKind::Gemini => self.gemini(event),
            VendorKind::Pipecat => self.pipecat(event),
            VendorKind::Chat => Vec::new(),
        }
    }

    fn openai(&self, event: Event<'_>) -> Vec<Wire> {
        let (spoken, said) = (format!("a{}", self.answer), format!("u{}", self.utterance));
        let done = json!({ "type": "response.done", "response": { "status": "completed" } });
        let created = json!({ "type": "response.created", "response": {} });
        let events = match event {
            Event::Opens => vec![json!({ "type": "session.updated", "session": {} })],
            Event::CallerSpeaks => vec![json!({ "type": "input_audio_buffer.speech_started", "item_id": said })],
            Event::CallerStops => vec![json!({ "type": "input_audio_buffer.speech_stopped", "item_id": said })],
            Event::Hears(text) => vec![json!({
                "type": "conversation.item.input_audio_transcription.completed", "item_id": said, "transcript": text,
            })],
            Event::HearsNothing => vec![json!({
                "type": "conversation.item.input_audio_transcription.failed", "item_id": said, "error": {},
            })],
            Event::Speaks => vec![
                created,
                json!({
                    "type": "response.output_audio.delta", "item_id": spoken, "delta": STANDARD.encode(voice(24_000)),
                }),
            ],
            Event::Says(text) => vec![json!({
                "type": "response.output_audio_transcript.done", "item_id": spoken, "transcript": text,
            })],
            Event::Finishes => vec![done],
            Event::Calls => vec![
                created,
                json!({
                    "type": "response.function_call_arguments.done", "call_id": "c1", "name": "look", "arguments": "{}",
                }),
                done,
            ],
        };
        events.into_iter().flat_map(text).collect()
    }

    fn live(&self, event: Event<'_>) -> Vec<Wire> {
        let audio =
            |audio: Vec<u8>| text(json!({ "type": "session.output_audio.delta", "delta": STANDARD.encode(audio) }));
        let words = |whose: &str, number: u64, words: &str| {
            let start = number * 10_000;
            text(json!({
                "type": format!("session.{whose}_transcript.delta"), "delta": words,
                "start_ms": start, "end_ms": start + 400,
            }))
        };
        match event {
            Event::Opens => text(json!({ "type": "session.started", "session": {} })),
            Event::CallerSpeaks | Event::CallerStops | Event::HearsNothing => Vec::new(),
            Event::Hears(said) => words("input", self.utterance, said),
            Event::Speaks => audio(voice(24_000)),
            Event::Says(said) => words("output", self.answer, said),
            Event::Finishes => audio(vec![0; 48_000]),
            Event::Calls => [
                json!({ "type": "session.delegation.created", "delegation": {
                    "id": "d1", "type": "delegation", "target": "responses", "response_id": "r1",
                } }),
                json!({ "type": "response.event", "delegation_id": "d1", "event": {
                    "type": "response.output_item.done",
                    "item": { "type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}" },
                } }),
            ]
            .into_iter()
            .flat_map(text)
            .collect(),
        }
    }

    fn deepgram(&self, event: Event<'_>) -> Vec<Wire> {
        let words =
            |role: &str, words: &str| text(json!({ "type": "ConversationText", "role": role, "content": words }));
        match event {
            Event::Opens => text(json!({ "type": "SettingsApplied" })),
            Event::CallerSpeaks => text(json!({ "type": "UserStartedSpeaking" })),
            Event::CallerStops | Event::HearsNothing => Vec::new(),
            Event::Hears(said) => words("user", said),
            Event::Speaks => {
                let mut wires = text(json!({ "type": "AgentStartedSpeaking" }));
                wires.push(Wire::Binary(voice(24_000).into()));
                wires
            }
            Event::Says(said) => words("assistant", said),
            Event::Finishes => text(json!({ "type": "AgentAudioDone" })),
            Event::Calls => text(json!({ "type": "FunctionCallRequest", "functions": [
                { "id": "c1", "name": "look", "arguments": "{}", "client_side": true },
            ] })),
        }
    }

    fn elevenlabs(&self, event: Event<'_>) -> Vec<Wire> {
        let event_id = self.answer;
        match event {
            Event::Opens => text(json!({
                "type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": {
                    "conversation_id": "c", "agent_output_audio_format": "pcm_24000",
                    "user_input_audio_format": "pcm_16000",
                },
            })),
            Event::CallerSpeaks | Event::CallerStops | Event::HearsNothing | Event::Finishes => Vec::new(),
            Event::Hears(said) => text(json!({
                "type": "user_transcript",
                "user_transcription_event": { "user_transcript": said, "event_id": event_id },
            })),
            Event::Speaks => text(json!({
                "type": "audio",
                "audio_event": { "audio_base_64": STANDARD.encode(voice(24_000)), "event_id": event_id },
            })),
            Event::Says(said) => text(json!({
                "type": "agent_response",
                "agent_response_event": { "agent_response": said, "event_id": event_id },
            })),
            Event::Calls => text(json!({ "type": "client_tool_call", "client_tool_call": {
                "tool_name": "look", "tool_call_id": "c1", "parameters": {}, "event_id": event_id,
            } })),
        }
    }

    fn gemini(&self, event: Event<'_>) -> Vec<Wire> {
        let content = |content: serde_json::Value| text(json!({ "serverContent": content }));
        match event {
            Event::Opens => text(json!({ "setupComplete": {} })),
            Event::CallerSpeaks | Event::CallerStops | Event::HearsNothing => Vec::new(),
            Event::Hears(said) => content(json!({ "inputTranscription": { "text": said } })),
            Event::Speaks => content(json!({ "modelTurn": { "parts": [
                { "inlineData": { "mimeType": "audio/pcm;rate=24000", "data": STANDARD.encode(voice(24_000)) } },
            ] } })),
            Event::Says(said) => content(json!({ "outputTranscription": { "text": said } })),
            Event::Finishes => {
                let mut wires = content(json!({ "generationComplete": true }));
                wires.extend(content(json!({ "turnComplete": true })));
                wires
            }
            Event::Calls => text(json!({ "toolCall": { "functionCalls": [
                { "id": "c1", "name": "look", "args": {} },
            ] } })),
        }
    }

    fn pipecat(&self, event: Event<'_>) -> Vec<Wire> {
        let protobuf = self.wire == PipecatWire::Protobuf;
        let message = |kind: &str, data: serde_json::Value| {
            let data = json!({ "label": "rtvi-ai", "type": kind, "id": "1", "data": data }).to_string();
            match protobuf {
                true => Wire::Binary(frame::encode(Kind::Message(MessageFrame { data }))),
                false => Wire::Text(data),
            }
        };
        match event {
            Event::Opens => vec![message("bot-ready", json!({ "version": "2.2.0" }))],
            Event::CallerSpeaks | Event::CallerStops | Event::HearsNothing => Vec::new(),
            Event::Hears(said) => vec![message(
                "user-transcription",
                json!({ "text": said, "user_id": "", "timestamp": "t", "final": true }),
            )],
            Event::Speaks => {
                let (audio, rate) = (voice(24_000), 24_000);
                let audio = match protobuf {
                    true => Wire::Binary(frame::encode(Kind::Audio(AudioRawFrame {
                        audio: audio.into(),
                        sample_rate: rate,
                        num_channels: 1,
                        ..AudioRawFrame::default()
                    }))),
                    false => message(
                        "bot-tts-audio",
                        json!({ "audio": STANDARD.encode(audio), "sample_rate": rate, "num_channels": 1 }),
                    ),
                };
                vec![message("bot-started-speaking", json!({})), audio]
            }
            Event::Says(said) => vec![message("bot-tts-text", json!({ "text": said }))],
            Event::Finishes => vec![message("bot-stopped-speaking", json!({}))],
            Event::Calls => vec![message(
                "llm-function-call-in-progress",
                json!({ "tool_call_id": "c1", "function_name": "look", "arguments": {} }),
            )],
        }
    }
}

/// A call with a vendor.
struct Conversation {
    call: Call,
    server: Server,
}

const CALLER: Format = Format::pcm16(16_000);

impl Conversation {
    fn new(kind: VendorKind, wire: PipecatWire) -> Conversation {
        let agent = AgentKind::Vendor(VendorAgent { wire, ..VendorAgent::example(kind) });
        let server = Server { kind, wire, answer: 0, utterance: 0 };
        let mut conversation = Conversation { call: Call::new(agent, CALLER), server };
        conversation.happens(&[Event::Opens]);
        conversation
    }

    fn happens(&mut self, events: &[Event<'_>]) {
        for event in events {
            for wire in self.server.wires(*event) {
                self.call.arrive(wire);
            }
            self.call.run(Duration::from_millis(20));
        }
    }

    /// The caller is silent.
    fn wait(&mut self, ms: u32) {
        (0..ms / 20).for_each(|_| self.call.say(vec![0; 640].into()));
    }

    /// The caller says something.
    fn speak(&mut self) {
        self.happens(&[Event::CallerSpeaks]);
        speech(CALLER).into_iter().take(60).for_each(|frame| self.call.say(frame));
        self.wait(1_000);
        self.happens(&[Event::CallerStops]);
    }

    /// What a client ends up with, in the order of its times.
    fn lines(&self) -> Vec<String> {
        let mut lines = BTreeMap::new();
        for message in &self.call.told {
            if let ToClient::Transcript(line) = message {
                let text = line.text.as_deref().unwrap_or("-").trim();
                let who = if line.role == Role::User { "user" } else { "agent" };
                lines.insert((line.start_ms, line.item.to_string()), format!("{who}: {text}"));
            }
        }
        lines.into_values().collect()
    }
}

const WIRES: [(VendorKind, PipecatWire); 7] = [
    (VendorKind::Deepgram, PipecatWire::Protobuf),
    (VendorKind::Elevenlabs, PipecatWire::Protobuf),
    (VendorKind::Gemini, PipecatWire::Protobuf),
    (VendorKind::Live, PipecatWire::Protobuf),
    (VendorKind::Openai, PipecatWire::Protobuf),
    (VendorKind::Pipecat, PipecatWire::Protobuf),
    (VendorKind::Pipecat, PipecatWire::Rtvi),
];

#[test]
fn every_transcript_stays_in_spoken_order_with_late_and_missing_texts_and_around_a_tool() {
    for (kind, wire) in WIRES {
        let mut talk = Conversation::new(kind, wire);
        talk.happens(&[Event::Speaks, Event::Says("Hello."), Event::Finishes]);
        talk.wait(1_500);
        // The caller's words come late: the answer to them is being spoken already.
        talk.speak();
        talk.happens(&[Event::Speaks, Event::Says("It is noon."), Event::Hears("What time is it?"), Event::Finishes]);
        talk.wait(1_500);
        // They never come.
        talk.speak();
        talk.happens(&[Event::HearsNothing, Event::Speaks, Event::Says("Pardon?"), Event::Finishes]);
        talk.wait(1_500);
        // A tool stands between question and answer.
        talk.speak();
        talk.happens(&[Event::Hears("Where is my order?"), Event::Calls]);
        let result = ToolResult { call_id: "c1".into(), output: "sent".into(), is_error: false };
        talk.call.tell(FromClient::ToolResult(result));
        talk.wait(300);
        talk.happens(&[Event::Speaks, Event::Says("On Friday."), Event::Finishes]);
        talk.wait(1_500);
        let expected = [
            "agent: Hello.",
            "user: What time is it?",
            "agent: It is noon.",
            "user: -",
            "agent: Pardon?",
            "user: Where is my order?",
            "agent: On Friday.",
        ];
        assert_eq!(talk.lines(), expected, "{kind:?} {wire:?}: {:#?}", talk.call.told);
        let called = talk.call.told.iter().filter(|message| matches!(message, ToClient::ToolCall(_))).count();
        assert_eq!(called, 1, "{kind:?}");
    }
}

/// Where a vendor names the utterances, their texts may come in any order.
#[test]
fn texts_of_two_utterances_that_come_in_the_wrong_order_find_their_places_by_name() {
    let mut talk = Conversation::new(VendorKind::Openai, PipecatWire::Protobuf);
    talk.speak();
    talk.speak();
    talk.happens(&[Event::Hears("Hello?")]);
    talk.server.utterance = 1;
    talk.happens(&[Event::Hears("Good morning.")]);
    talk.wait(100);
    assert_eq!(talk.lines(), ["user: Good morning.", "user: Hello?"]);
}
