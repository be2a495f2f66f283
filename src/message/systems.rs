//! What existing voice and chat front ends and their agents say, and the neutral word for each: the vocabulary is
//! complete if every row has a word or a stated reason to be outside of it.

use std::collections::BTreeSet;

use serde_json::Value;

/// Whose word it is, and so which enum has the neutral one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Client to relay.
    Client,
    /// Relay to client.
    Relay,
    /// Agent to relay.
    Agent,
    /// Relay to agent.
    ToAgent,
}

/// The neutral word, or why there is none.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// `start`.
    Start,
    /// The named message.
    Is(&'static str),
    /// Outside of the vocabulary.
    Gap(&'static str),
}
use Side::{Agent, Client, Relay, ToAgent};
use Word::{Gap, Is, Start};

const ROOMS: &str = "rooms and presence: the conversation's own events, over all its clients";
const STORE: &str = "stored conversations: the REST surface";
const DESK: &str = "the operators' desk: alerts that outlive a session";

#[rustfmt::skip]
const TABLE: &[(&str, Side, &str, Word)] = &[
    // Interpreters by voice, Socket.IO.
    ("jung", Client, "conversation:start", Start),
    ("jung", Client, "conversation:audio", Is("audio")),
    ("jung", Client, "conversation:end", Is("end")),
    ("jung", Relay, "conversation:started", Is("started")),
    ("jung", Relay, "conversation:message", Is("message")),
    ("jung", Relay, "audio_chunk", Is("audio")),
    ("jung", Relay, "transcript", Is("transcript")),
    ("jung", Relay, "conversation:ended", Is("ended")),
    ("jung", Relay, "conversation:error", Is("error")),
    ("jung", Relay, "connect_error", Is("error")),
    // Synchronised conversation state, plain WebSocket and REST.
    ("improvtoday", Client, "state_update", Is("state")),
    ("improvtoday", Client, "transcript_update", Is("transcript")),
    ("improvtoday", Client, "speech_event", Is("input")),
    ("improvtoday", Client, "heartbeat", Is("ping")),
    ("improvtoday", Relay, "state_update", Is("state")),
    ("improvtoday", Relay, "transcript_update", Is("transcript")),
    ("improvtoday", Relay, "ai_response", Is("message")),
    ("improvtoday", Relay, "speech_event", Is("speech")),
    ("improvtoday", Relay, "error", Is("error")),
    ("improvtoday", Relay, "connection_status", Is("agent")),
    ("improvtoday", Relay, "heartbeat", Is("pong")),
    ("improvtoday", ToAgent, "chat completion request", Is("message")),
    ("improvtoday", Agent, "chat completion chunk", Is("delta")),
    ("improvtoday", Agent, "chat completion", Is("message")),
    // Voice with a safety desk, Socket.IO and an HTTP agent.
    ("ezri", Client, "conversation:start", Start),
    ("ezri", Client, "conversation:message", Is("message")),
    ("ezri", Client, "conversation:end", Is("end")),
    ("ezri", Client, "voice:data", Is("audio")),
    ("ezri", Client, "admin:assign_crisis", Gap(DESK)),
    ("ezri", Client, "admin:resolve_crisis", Gap(DESK)),
    ("ezri", Relay, "conversation:started", Is("started")),
    ("ezri", Relay, "conversation:ended", Is("ended")),
    ("ezri", Relay, "ai:response", Is("message")),
    ("ezri", Relay, "voice:transcription", Is("transcript")),
    ("ezri", Relay, "voice:audio", Is("audio")),
    ("ezri", Relay, "safety:state_change", Is("alert")),
    ("ezri", Relay, "notification:new", Gap(ROOMS)),
    ("ezri", Relay, "notification:read", Gap(ROOMS)),
    ("ezri", Relay, "error", Is("error")),
    ("ezri", Relay, "session:started", Gap(DESK)),
    ("ezri", Relay, "session:ended", Gap(DESK)),
    ("ezri", Relay, "session:update", Gap(DESK)),
    ("ezri", Relay, "crisis:alert", Is("alert")),
    ("ezri", Relay, "crisis:assigned", Gap(DESK)),
    ("ezri", Relay, "crisis:resolved", Gap(DESK)),
    ("ezri", ToAgent, "POST conversation", Is("message")),
    ("ezri", ToAgent, "POST voice/process", Is("audio")),
    ("ezri", Agent, "transcription", Is("transcript")),
    ("ezri", Agent, "audioResponse", Is("audio")),
    ("ezri", Agent, "crisis_detected", Is("alert")),
    // Chat over one multiplexed connection.
    ("avai", Client, "send_message", Is("message")),
    ("avai", Client, "typing", Is("typing")),
    ("avai", Relay, "message_sent", Gap(STORE)),
    ("avai", Relay, "ai_typing", Is("typing")),
    ("avai", Relay, "ai_response", Is("delta")),
    ("avai", Relay, "ai_unavailable", Is("agent")),
    ("avai", Relay, "ai_error", Is("error")),
    ("avai", Relay, "ai status", Is("agent")),
    ("avai", ToAgent, "process", Is("message")),
    ("avai", Agent, "response", Is("message")),
    // Chat in several tabs, Socket.IO.
    ("chatbot", Client, "join:conversation", Start),
    ("chatbot", Client, "leave:conversation", Is("end")),
    ("chatbot", Client, "message:send", Is("message")),
    ("chatbot", Client, "typing:start", Is("typing")),
    ("chatbot", Client, "typing:stop", Is("typing")),
    ("chatbot", Client, "ping", Is("ping")),
    ("chatbot", Client, "conversation:create", Gap(STORE)),
    ("chatbot", Client, "conversation:update", Gap(STORE)),
    ("chatbot", Client, "conversation:delete", Gap(STORE)),
    ("chatbot", Relay, "message:chunk", Is("delta")),
    ("chatbot", Relay, "message:complete", Is("message")),
    ("chatbot", Relay, "ai:typing:start", Is("typing")),
    ("chatbot", Relay, "ai:typing:stop", Is("typing")),
    ("chatbot", Relay, "typing:start", Gap(ROOMS)),
    ("chatbot", Relay, "typing:stop", Gap(ROOMS)),
    ("chatbot", Relay, "pong", Is("pong")),
    ("chatbot", Relay, "conversation events", Gap(STORE)),
    ("chatbot", Relay, "presence", Gap(ROOMS)),
    ("chatbot", ToAgent, "chat completion request", Is("message")),
    ("chatbot", Agent, "chat completion chunk", Is("delta")),
];

/// The `type` of every message of an enum, from its schema, and `audio`, which is no JSON.
fn words<T: schemars::JsonSchema>() -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(name) = map.get("properties").and_then(|p| p.get("type")).and_then(|t| t.get("const")) {
                    found.extend(name.as_str().map(str::to_owned));
                }
                map.values().for_each(|value| collect(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::from(["audio".to_owned()]);
    collect(schemars::schema_for!(T).as_value(), &mut found);
    found
}

/// The words between session and agent, as they would be written.
fn agent_words() -> BTreeSet<String> {
    ["audio", "message", "delta", "transcript", "alert", "typing", "usage"].map(str::to_owned).into()
}

#[test]
fn every_word_of_the_five_systems_has_a_neutral_one_or_a_stated_gap() {
    let (client, relay) = (words::<super::FromClient>(), words::<super::ToClient>());
    assert!(client.len() > 15 && relay.len() > 20, "the schemas name their messages: {client:?} {relay:?}");
    for (system, side, event, word) in TABLE {
        let known = match side {
            Client => &client,
            Relay => &relay,
            Agent | ToAgent => &agent_words(),
        };
        match word {
            Start => assert_eq!(*side, Client, "{system}: {event}"),
            Is(name) => assert!(known.contains(*name), "{system}: {event}: there is no `{name}`"),
            Gap(reason) => assert!(!reason.is_empty(), "{system}: {event}"),
        }
    }
    for system in ["jung", "improvtoday", "ezri", "avai", "chatbot"] {
        assert!(TABLE.iter().filter(|(name, ..)| *name == system).count() >= 10, "{system} is in the table");
    }
}

#[test]
fn the_words_of_agents_are_those_of_the_vocabulary() {
    use super::{AgentTranscript, Delta, FromAgent, Role, TextMessage};
    let samples = [
        FromAgent::Delta(Delta { message_id: "m".into(), text: String::new() }),
        FromAgent::Message(TextMessage { id: "m".into(), text: String::new(), role: None }),
        FromAgent::Typing(true),
        FromAgent::Transcript(AgentTranscript {
            item: None,
            role: Role::User,
            text: String::new(),
            append: false,
            is_final: true,
        }),
    ];
    let word = |sample: &FromAgent| format!("{sample:?}").split(['(', ' ']).next().unwrap().to_lowercase();
    assert!(samples.iter().all(|sample| agent_words().contains(&word(sample))));
}
