//! Scenarios in virtual time.

mod bargein;
mod conversation;
mod failover;
mod heard;
mod in_force;
mod ladder;
mod lifetime;
mod limits;
mod load;
mod rollover;
mod taps;
mod tools;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use crate::media::announcement::Announcement;
use crate::media::clip::Clip;
use crate::message::{AgentTranscript, FromAgent, Heard, Role, State, ToAgent, ToClient, Truncate};
use crate::testkit::World;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The states that the client was told of.
fn states(world: &World) -> Vec<State> {
    let to = |message: &ToClient| match message {
        ToClient::State(change) => Some(change.to),
        _ => None,
    };
    world.client.messages.iter().filter_map(to).collect()
}

/// A whole text of what was said.
fn text(role: Role, text: &str) -> FromAgent {
    FromAgent::Transcript(AgentTranscript { item: None, role, text: text.into(), append: false, is_final: true })
}

/// The texts that agents were given to answer.
fn messages(world: &World) -> Vec<&str> {
    let told = world.told_agent.iter().map(|(_, message)| message);
    told.filter_map(|message| if let ToAgent::Message(message) = message { Some(&*message.text) } else { None })
        .collect()
}

/// What the client was told that its user heard.
fn heard(world: &World) -> Vec<Heard> {
    let heard = |message: &ToClient| match message {
        ToClient::Heard(heard) => Some(*heard),
        _ => None,
    };
    world.client.messages.iter().filter_map(heard).collect()
}

/// What agents were told that the user heard.
fn truncations(world: &World) -> Vec<Truncate> {
    let truncate = |(_, message): &(_, ToAgent)| match message {
        ToAgent::Truncate(truncate) => Some(truncate.clone()),
        _ => None,
    };
    world.told_agent.iter().filter_map(truncate).collect()
}

/// A spoken answer of `span`, whose samples all are `value`.
fn answer(world: &mut World, span: Duration, value: i16, item: Option<&str>) {
    world.agent_says(FromAgent::TurnStarted(item.map(Into::into)));
    world.agent_speaks(span, value, item);
    world.agent_says(FromAgent::TurnEnded);
}

/// An announcement of `span`, whose samples all are `value`.
fn announcement(span: Duration, value: i16) -> Arc<Announcement> {
    let samples = vec![value; (span.as_millis() * 24) as usize];
    Arc::new(Announcement::parse(&Clip { rate: 24_000, samples }.to_wav()).unwrap())
}

/// The samples that the client received, frame by frame: the value of the first sample of each.
fn heard_values(world: &World) -> Vec<i16> {
    world.client.frames.iter().map(|(_, frame)| i16::from_le_bytes([frame.payload[0], frame.payload[1]])).collect()
}
