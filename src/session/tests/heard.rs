//! What the caller heard, and what is never heard.

use super::*;
use crate::ids::TurnId;
use crate::message::{Basis, FromClient, Heard, Interrupt, ToAgent};
use crate::session::{Carriage, Measure, Queue};
use crate::testkit::{ClientKind, Impairment, Rng, WorldBuilder};

fn world(seed: u64, reports: bool, delay: u64, buffer: u64) -> World {
    WorldBuilder {
        seed,
        client: ClientKind { reports, buffer: ms(buffer) },
        network: Impairment { delay: ms(delay), jitter: ms(10), ordered: true, ..Impairment::default() },
        ..WorldBuilder::default()
    }
    .start()
}

/// Interrupts an answer after a random time and returns what the relay said was heard beside the truth.
fn interrupted(seed: u64, reports: bool, delay: u64, buffer: u64) -> (Heard, Duration) {
    let mut rng = Rng::new(seed);
    let mut world = world(seed, reports, delay, buffer);
    world.run(ms(500 + rng.below(500)));
    answer(&mut world, ms(8_000), 1, Some("a"));
    world.run(ms(2 * delay + buffer + 200 + rng.below(4_000)));
    if rng.percent(50) {
        world.client_says(FromClient::Interrupt(Interrupt::default()));
        world.run(ms(delay + 20));
    } else {
        world.agent_says(FromAgent::Interrupted);
    }
    world.run(ms(2 * delay + 400));
    let (figure, truth) = (heard(&world), world.client.truths.clone());
    assert_eq!((figure.len(), truth.len()), (1, 1), "seed {seed}: one interruption, one figure");
    let truncate = truncations(&world);
    assert_eq!(truncate.len(), 1, "seed {seed}: the agent is told once");
    assert_eq!(truncate[0].heard.as_millis() as u64, figure[0].ms);
    let before = world.told_agent.iter().map_while(|(_, message)| match message {
        ToAgent::Truncate(_) => None,
        ToAgent::Playout(playout) => Some(playout.played),
        _ => Some(Duration::ZERO),
    });
    let (told, error) = (before.max().unwrap_or_default(), ms(figure[0].error_ms.into()));
    assert!(told <= truncate[0].heard + error, "seed {seed}: the agent was told that {told:?} was heard, then less");
    assert!(truncate[0].heard <= truncate[0].of && figure[0].of_ms == 8_000);
    (figure[0], truth[0].1)
}

#[test]
fn an_interruption_of_a_reporting_client_is_exact_to_one_frame() {
    for seed in 0..500 {
        let mut rng = Rng::new(seed ^ 0xabcd);
        let (delay, buffer) = (rng.below(151), rng.below(301));
        let (figure, truth) = interrupted(seed, true, delay, buffer);
        assert_eq!(figure.basis, Basis::Reported, "seed {seed}");
        let off = (figure.ms as i64 - truth.as_millis() as i64).abs();
        assert!(off <= 1, "seed {seed}, delay {delay}, buffer {buffer}: {figure:?} but {truth:?} was heard");
        assert_eq!(figure.error_ms, 20);
    }
}

#[test]
fn an_interruption_of_a_silent_client_is_right_within_its_stated_error() {
    for seed in 0..500 {
        let mut rng = Rng::new(seed ^ 0x1234);
        let (delay, buffer) = (rng.below(151), rng.below(301));
        let (figure, truth) = interrupted(seed, false, delay, buffer);
        assert_eq!(figure.basis, Basis::Acked, "seed {seed}");
        let off = (figure.ms as i64 - truth.as_millis() as i64).unsigned_abs();
        assert!(
            off <= figure.error_ms.into(),
            "seed {seed}, delay {delay}, buffer {buffer}: {figure:?}, truth {truth:?}"
        );
    }
}

#[test]
fn after_a_flush_nothing_of_the_old_generation_is_sent() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let by_item = rng.percent(50).then_some("old");
        let mut world = world(seed, rng.percent(70), rng.below(100), rng.below(200));
        world.run(ms(300));
        world.agent_says(FromAgent::TurnStarted(by_item.map(Into::into)));
        world.agent_speaks(ms(3_000), 1, by_item);
        world.run(ms(200 + rng.below(2_000)));
        world.client_says(FromClient::Interrupt(Interrupt::default()));
        world.run(ms(110));
        let old_frames = world.client.frames.len();
        // The agent has not heard of it yet and goes on with the old answer.
        for _ in 0..5 {
            world.agent_speaks(ms(200), 1, by_item);
            world.run(ms(30));
        }
        world.agent_says(FromAgent::TurnEnded);
        answer(&mut world, ms(500), 2, Some("new"));
        world.run(ms(3_000));
        let values = heard_values(&world);
        let first_new = values.iter().position(|&value| value == 2).expect("the new answer is heard");
        assert!(values[first_new..].iter().all(|&value| value == 2), "seed {seed}: old audio after the new");
        assert!(values.len() - first_new == 25, "seed {seed}: the new answer is whole");
        assert!(first_new <= old_frames, "seed {seed}: old audio came after the flush");
        let stale = |m: &Measure| matches!(m, Measure::Dropped { queue: Queue::Stale, .. });
        assert!(world.measures.iter().any(stale), "seed {seed}: late audio is counted");
    }
}

#[test]
fn the_next_answer_waits_until_the_flush_is_answered_so_that_a_stalled_client_gets_none_of_it() {
    let mut world = world(5, true, 80, 40);
    world.run(ms(300));
    answer(&mut world, ms(5_000), 1, None);
    world.run(ms(1_000));
    world.agent_says(FromAgent::Interrupted);
    answer(&mut world, ms(1_000), 2, None);
    world.run(ms(150));
    assert!(!heard_values(&world).contains(&2), "the answer to the flush is still under way");
    world.run(ms(200));
    assert!(heard_values(&world).contains(&2));
}

#[test]
fn an_answer_that_is_not_interrupted_is_heard_whole_and_in_real_time() {
    for (reports, delay, buffer) in [(true, 0, 0), (true, 150, 300), (false, 50, 100)] {
        let mut world = world(3, reports, delay, buffer);
        world.run(ms(200));
        answer(&mut world, ms(10_000), 7, None);
        world.run(ms(10_000 + 2 * delay + buffer + 1_000));
        assert_eq!(world.client.played(), ms(10_000), "reports: {reports}");
        assert_eq!(states(&world).last(), Some(&State::WaitingForUser), "reports: {reports}");
        assert!(heard(&world).is_empty() && truncations(&world).is_empty());
    }
}

#[test]
fn a_stalled_client_that_is_interrupted_gets_little_old_audio_before_the_flush() {
    for reports in [true, false] {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut world = world(seed, reports, rng.below(60), 40);
            world.run(ms(300));
            answer(&mut world, ms(20_000), 1, None);
            world.run(ms(1_000 + rng.below(1_000)));
            world.stall_client(ms(5_000));
            world.run(ms(3_000));
            world.agent_says(FromAgent::Interrupted);
            world.run(ms(4_000));
            let got = world.client.received_since_stall / 24;
            let flushed = world.client.truths.len();
            assert_eq!(flushed, 1);
            assert!(got <= 200 + 500, "seed {seed}, reports {reports}: {got} ms of old audio");
        }
    }
}

#[test]
fn rtp_goes_out_at_the_pace_of_the_ear_and_the_estimate_states_its_error() {
    let opus = crate::media::format::Format::OPUS;
    let build = WorldBuilder {
        carriage: Carriage::Rtp,
        formats: (opus, opus),
        client: ClientKind { reports: false, buffer: ms(60) },
        network: Impairment { delay: ms(30), ..Impairment::default() },
        ..WorldBuilder::default()
    };
    let mut world = build.start();
    world.run(ms(200));
    answer(&mut world, ms(5_000), 900, None);
    world.run(ms(1_030));
    let frames = world.client.frames.len();
    assert!((50..=52).contains(&frames), "20 ms a frame, none ahead: {frames}");
    world.agent_says(FromAgent::Interrupted);
    world.run(ms(500));
    let (figure, truth) = (heard(&world)[0], world.client.truths[0].1);
    assert_eq!(figure.basis, Basis::Paced);
    assert!(figure.ms.abs_diff(truth.as_millis() as u64) <= figure.error_ms.into(), "{figure:?} {truth:?}");
}

#[test]
fn a_burst_of_a_minute_is_kept_played_in_real_time_and_cut_exactly() {
    let mut world = world(9, true, 20, 40);
    world.run(ms(100));
    for _ in 0..10 {
        world.agent_speaks(ms(6_000), 1, Some("long"));
        world.run(ms(100));
    }
    world.run(ms(4_000));
    world.agent_says(FromAgent::Interrupted);
    world.run(ms(500));
    let (figure, truth) = (heard(&world)[0], world.client.truths[0].1);
    assert_eq!(figure.of_ms, 60_000, "nothing was lost");
    assert!(figure.ms.abs_diff(truth.as_millis() as u64) <= 20 && (4_500..5_500).contains(&figure.ms), "{figure:?}");
}

#[test]
fn beyond_the_bound_the_tail_of_a_turn_is_refused_and_the_agent_is_told() {
    let mut build = WorldBuilder::default();
    build.policy.playout_max = ms(2_000);
    let mut world = build.start();
    world.run(ms(100));
    world.agent_speaks(ms(5_000), 1, Some("a"));
    world.agent_says(FromAgent::TurnEnded);
    world.run(ms(4_000));
    assert_eq!(world.client.played(), ms(2_000));
    assert!(world.told_agent.iter().any(|(_, m)| matches!(m, ToAgent::Cancel(TurnId(1)))));
    assert!(world.client.messages.iter().any(|m| matches!(m, ToClient::Alert(_))));
}

#[test]
fn a_resumed_client_hears_the_answer_from_where_it_lost_it() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let mut world = world(seed, true, rng.below(80), 40);
        world.run(ms(200));
        // Each 20 ms of the answer has a value of its own.
        world.agent_says(FromAgent::TurnStarted(None));
        for value in 0..250 {
            world.agent_speaks(ms(20), value, None);
        }
        world.agent_says(FromAgent::TurnEnded);
        world.run(ms(1_000 + rng.below(2_000)));
        let before = world.client.played();
        world.lose_link();
        world.run(ms(1_000 + rng.below(5_000)));
        world.resume(Some(0));
        world.run(ms(8_000));
        let values = heard_values(&world);
        assert_eq!(values.last(), Some(&249), "seed {seed}: to the end");
        assert!(values.windows(2).all(|pair| pair[1] - pair[0] <= 1), "seed {seed}: nothing is left out");
        let lost_at = (before.as_millis() / 20) as i16;
        let first = values[0];
        assert!(first <= lost_at && lost_at - first <= 20, "seed {seed}: from {first}, was at {lost_at}");
        let starts = world.told_agent.iter().filter(|(_, m)| matches!(m, ToAgent::Start(_))).count();
        assert_eq!(starts, 1, "no second greeting");
    }
}

#[test]
fn on_rtp_an_agent_that_speaks_live_does_not_wait_because_its_first_frames_came_together() {
    let mut world = WorldBuilder { carriage: Carriage::Rtp, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(60), 1, None);
    for _ in 0..100 {
        world.run(ms(20));
        world.agent_speaks(ms(20), 1, None);
    }
    let waits: Vec<Duration> = world.measures.iter().filter_map(playout_wait).collect();
    assert!(waits.len() >= 8 && waits[1..].iter().all(|wait| *wait <= ms(1)), "{waits:?}");
}

#[test]
fn on_rtp_an_agent_that_speaks_in_bursts_is_paced_to_its_last_frames() {
    let mut world = WorldBuilder { carriage: Carriage::Rtp, ..WorldBuilder::default() }.start();
    world.run(ms(100));
    world.agent_says(FromAgent::TurnStarted(None));
    world.agent_speaks(ms(2_000), 1, None);
    for (after, sent) in [(500, 26), (1_000, 51), (1_800, 91), (1_900, 96)] {
        world.run(ms(100 + after) - ms(world.elapsed_ms()) + ms(20));
        let frames = world.client.frames.len();
        assert!((sent..=sent + 2).contains(&frames), "{frames} frames after {after} ms");
    }
}

fn playout_wait(measure: &Measure) -> Option<Duration> {
    match measure {
        Measure::PlayoutWait(wait) => Some(*wait),
        _ => None,
    }
}
