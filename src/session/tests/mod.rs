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
use crate::message::{FromAgent, State, ToClient};
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
