//! What sessions do without while their worker has more to do than it can.

use super::*;
use crate::media::format::Format;
use crate::message::{AgentTranscript, CloseReason, Role};
use crate::session::Measure;
use crate::testkit::WorldBuilder;

fn complexities(world: &World) -> Vec<u8> {
    let set = |measure: &Measure| match measure {
        Measure::EncoderComplexity(complexity) => Some(*complexity),
        _ => None,
    };
    world.measures.iter().filter_map(set).collect()
}

#[test]
fn the_encoder_of_a_running_call_follows_the_load_down_and_up_and_no_audio_is_lost() {
    let mut build = WorldBuilder { formats: (Format::OPUS, Format::OPUS), ..WorldBuilder::default() };
    build.policy.opus.complexity = 7;
    let mut world = build.start();
    answer(&mut world, ms(3_000), 1_000, None);
    world.run(ms(500));
    world.load.set_max_complexity(2);
    world.run(ms(500));
    world.load.set_max_complexity(10);
    world.run(ms(3_000));
    assert_eq!(complexities(&world), [7, 2, 7]);
    assert_eq!(world.client.frames.len(), 150);
}

#[test]
fn nothing_raises_the_complexity_above_what_the_route_says() {
    let mut build = WorldBuilder { formats: (Format::OPUS, Format::OPUS), ..WorldBuilder::default() };
    build.policy.opus.complexity = 1;
    let mut world = build.start();
    world.load.set_max_complexity(5);
    answer(&mut world, ms(200), 1_000, None);
    world.run(ms(1_000));
    assert_eq!(complexities(&world), [1]);
}

#[test]
fn under_load_a_call_in_which_nobody_speaks_ends_after_a_quarter_of_its_idle_time() {
    let mut build = WorldBuilder::default();
    (build.policy.idle.after, build.policy.idle.grace) = (ms(8_000), ms(1_000));
    let reason = |world: &World| world.ended.as_ref().map(|(reason, _)| *reason);
    let mut world = build.clone().start();
    world.run(ms(1_000));
    world.load.set_short_idle(true);
    world.run(ms(2_100));
    assert_eq!(reason(&world), Some(CloseReason::Idle));

    let mut world = build.start();
    world.load.set_short_idle(true);
    world.run(ms(1_900));
    world.load.set_short_idle(false);
    world.run(ms(7_000));
    assert_eq!(reason(&world), None, "the load went in time");
    world.run(ms(200));
    assert_eq!(reason(&world), Some(CloseReason::Idle));
}

#[test]
fn under_load_interim_transcripts_are_left_out_and_final_ones_come() {
    let mut world = WorldBuilder::default().start();
    world.run(ms(100));
    world.load.set_spares_optional(true);
    for (text, is_final) in [("hel", false), ("hello", false), ("hello there", true)] {
        world.agent_says(FromAgent::Transcript(AgentTranscript {
            item: Some("i".into()),
            role: Role::User,
            text: text.into(),
            append: false,
            is_final,
        }));
    }
    world.run(ms(100));
    let texts = world.client.messages.iter().filter_map(|message| match message {
        ToClient::Transcript(line) => line.text.as_deref(),
        _ => None,
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["hello there"]);
    assert_eq!(world.measures.iter().filter(|measure| **measure == Measure::InterimSkipped).count(), 2);
}
