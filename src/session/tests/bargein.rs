//! How the caller interrupts: who finds it, what goes first, and how it is taken back.

use super::*;
use crate::agent::Capabilities;
use crate::ids::TurnId;
use crate::media::clip::Clip;
use crate::media::format::Format;
use crate::message::{
    AgentTranscript, Basis, FromClient, Input, InputAction, Interrupt, InterruptAction, Role, SpeechEvent, ToAgent,
    TurnDetection, TurnPhase, Turns,
};
use crate::route::plan::Reversible;
use crate::session::{Carriage, Ignored, Interrupter, Measure};
use crate::testkit::{ClientKind, Impairment, Rng, WorldBuilder};

const RATE: u32 = 24_000;
const FRAME: usize = RATE as usize / 50;

/// The recording that `antiphon call` speaks: two sentences, 20 ms a frame.
fn recording() -> Vec<i16> {
    let clip = Clip::parse(crate::cli::call::SPEECH).and_then(|clip| clip.resampled(RATE)).unwrap();
    clip.samples
}

/// `samples` at this level, as the mean power of the loud parts in dBov.
fn at_level(samples: &[i16], dbov: f64) -> Vec<i16> {
    let loud: Vec<f64> =
        samples.iter().map(|&sample| f64::from(sample)).filter(|sample| sample.abs() > 500.0).collect();
    let power = loud.iter().map(|sample| sample * sample).sum::<f64>() / loud.len() as f64;
    let gain = 32_768.0 * 10f64.powf(dbov / 20.0) / power.sqrt();
    samples.iter().map(|&sample| (f64::from(sample) * gain) as i16).collect()
}

fn bytes(samples: &[i16]) -> bytes::Bytes {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>().into()
}

/// A route whose relay listens, and a network of 30 ms each way.
fn listening() -> WorldBuilder {
    let mut build = WorldBuilder {
        network: Impairment { delay: ms(30), ordered: true, ..Impairment::default() },
        capabilities: Capabilities { server_vad: true, ..WorldBuilder::default().capabilities },
        ..WorldBuilder::default()
    };
    build.policy.barge_in.relay = true;
    build
}

/// The agent says `samples` at once, as one turn with a text.
fn agent_says(world: &mut World, samples: &[i16], item: &str) {
    world.agent_says(FromAgent::TurnStarted(Some(item.into())));
    for chunk in samples.chunks(FRAME * 5) {
        let audio = crate::message::AgentAudio {
            arrival: world.now,
            item: Some(item.into()),
            rtp: None,
            payload: bytes(chunk),
        };
        world.agent_says(FromAgent::Audio(audio));
    }
    let text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen".into();
    let line = AgentTranscript { item: Some(item.into()), role: Role::Agent, text, append: false, is_final: true };
    world.agent_says(FromAgent::Transcript(line));
    world.agent_says(FromAgent::TurnEnded);
}

/// What the client's speaker plays from sample `from` of its positions on, as far as it has.
fn played(world: &World, from: i64, length: usize) -> Vec<i16> {
    let end = world.client.played().as_millis() as i64 * i64::from(RATE) / 1000;
    let mut samples = vec![0; length];
    for (pos, audio) in world.client.frames.iter().rev().skip_while(|(pos, _)| *pos as i64 >= from + length as i64) {
        let offset = *pos as i64 - from;
        if offset + (audio.ticks as i64) < 0 {
            break;
        }
        for (n, sample) in audio.payload.chunks_exact(2).enumerate() {
            let at = offset + n as i64;
            if (0..length as i64).contains(&at) && from + at < end {
                samples[at as usize] = i16::from_le_bytes([sample[0], sample[1]]);
            }
        }
    }
    samples
}

/// For `span` the client sends frames: what its speaker has played `late` ago, `db` lower, and `near` on top of it.
fn microphone(world: &mut World, span: Duration, echo: Option<(Duration, f64)>, near: &[i16]) {
    let frames = span.as_millis() as usize / 20;
    for frame in 0..frames {
        world.run(ms(20));
        let mut pcm = vec![0f64; FRAME];
        if let Some((late, db)) = echo {
            let now = world.client.played().saturating_sub(late).as_millis() as i64 * i64::from(RATE) / 1000;
            for (slot, sample) in pcm.iter_mut().zip(played(world, now - FRAME as i64, FRAME)) {
                *slot += f64::from(sample) * 10f64.powf(db / 20.0);
            }
        }
        for (n, slot) in pcm.iter_mut().enumerate() {
            *slot += near.get(frame * FRAME + n).copied().map_or(0.0, f64::from);
        }
        let pcm: Vec<i16> = pcm.into_iter().map(|sample| sample as i16).collect();
        world.client_sends(None, bytes(&pcm));
    }
}

fn flushes(world: &World) -> Vec<crate::message::Flush> {
    let flush = |message: &ToClient| match message {
        ToClient::Flush(flush) => Some(*flush),
        _ => None,
    };
    world.client.messages.iter().filter_map(flush).collect()
}

fn inputs(world: &World) -> Vec<InputAction> {
    let input = |(_, message): &(_, ToAgent)| match message {
        ToAgent::Input(Input { action }) => Some(*action),
        _ => None,
    };
    world.told_agent.iter().filter_map(input).collect()
}

fn starts(world: &World) -> Vec<(TurnId, u32)> {
    let start = |message: &ToClient| match message {
        ToClient::Turn(turn) if turn.phase == TurnPhase::Start => Some((turn.turn, turn.generation.0)),
        _ => None,
    };
    world.client.messages.iter().filter_map(start).collect()
}

fn interrupted_by(world: &World) -> Vec<Interrupter> {
    let by = |measure: &Measure| match measure {
        Measure::Interruption { by } => Some(*by),
        _ => None,
    };
    world.measures.iter().filter_map(by).collect()
}

fn cut_line(world: &World) -> Option<crate::message::Transcript> {
    world.client.messages.iter().rev().find_map(|message| match message {
        ToClient::Transcript(line) if line.cut.is_some() => Some(line.clone()),
        _ => None,
    })
}

#[test]
fn the_agents_own_echo_at_minus_20_db_and_150_ms_late_does_not_interrupt_it() {
    let agent = at_level(&recording(), -20.0);
    for (seed, db) in [(1, -20.0), (2, -20.0), (3, -26.0), (4, -16.0)] {
        let mut world = WorldBuilder { seed, ..listening() }.start();
        world.run(ms(200));
        agent_says(&mut world, &agent, "a");
        microphone(&mut world, ms(6_000), Some((ms(150), db)), &[]);
        assert_eq!(flushes(&world), [], "{db} dB");
        assert!(interrupted_by(&world).is_empty());
        world.client_says(FromClient::End);
        world.run(ms(100));
        let record = &world.ended.as_ref().unwrap().1;
        assert_eq!((record.interruptions, record.barge_in.by_relay), (0, 0));
        if db == -20.0 {
            assert!(record.barge_in.ignored_echo > 0, "it was heard: {:?}", record.barge_in);
        }
    }
}

#[test]
fn without_the_guard_the_same_echo_would_interrupt() {
    let mut build = listening();
    build.policy.barge_in.echo_guard_db = -60;
    let mut world = build.start();
    world.run(ms(200));
    agent_says(&mut world, &at_level(&recording(), -20.0), "a");
    microphone(&mut world, ms(6_000), Some((ms(150), -20.0)), &[]);
    assert_eq!(interrupted_by(&world), [Interrupter::Relay]);
}

#[test]
fn a_voice_over_the_echo_interrupts_in_time() {
    let agent = at_level(&recording(), -20.0);
    for level in [-18.0, -22.0, -26.0] {
        let near = at_level(&recording(), level);
        // Where the recording begins to be loud.
        let begins = near.iter().position(|sample| sample.unsigned_abs() > 1_000).unwrap() * 1000 / RATE as usize;
        for wait in [1_300, 2_000, 2_900] {
            let mut world = listening().start();
            world.run(ms(200));
            agent_says(&mut world, &agent, "a");
            microphone(&mut world, ms(wait), Some((ms(150), -20.0)), &[]);
            assert_eq!(flushes(&world), []);
            let spoke = world.now + ms(begins as u64);
            let mut took = None;
            for frame in 0..75 {
                let from = frame * FRAME;
                microphone(&mut world, ms(20), Some((ms(150), -20.0)), &near[from..from + FRAME]);
                if took.is_none() && !flushes(&world).is_empty() {
                    took = Some(world.now - spoke);
                }
            }
            let took = took.unwrap_or_else(|| panic!("{level} dBov after {wait} ms: never interrupted"));
            assert!(took <= ms(500), "{level} dBov after {wait} ms: {took:?}");
            assert_eq!(interrupted_by(&world), [Interrupter::Relay]);
            assert_eq!(truncations(&world).len(), 1);
        }
    }
}

#[test]
fn in_the_warm_up_of_the_agents_first_speech_a_voice_does_not_interrupt_it() {
    let mut build = listening();
    build.policy.barge_in.warmup = ms(2_000);
    let mut world = build.start();
    world.run(ms(200));
    agent_says(&mut world, &at_level(&recording(), -20.0), "a");
    let near = at_level(&recording(), -20.0);
    let began = world.now;
    microphone(&mut world, ms(1_900), None, &near);
    assert_eq!(flushes(&world), []);
    microphone(&mut world, ms(1_000), None, &near[FRAME * 95..]);
    assert_eq!(flushes(&world).len(), 1, "whoever speaks on is heard then");
    assert!(world.now - began < ms(3_000));
    // The next answer has none.
    world.run(ms(1_000));
    agent_says(&mut world, &at_level(&recording(), -20.0), "b");
    microphone(&mut world, ms(1_500), None, &near);
    assert_eq!(flushes(&world).len(), 2);
}

#[test]
fn whoever_finds_the_interruption_the_flush_goes_first_and_the_rest_follows_in_one_way() {
    for by in [Interrupter::Agent, Interrupter::Client, Interrupter::Relay] {
        let mut world = listening().start();
        world.run(ms(200));
        agent_says(&mut world, &at_level(&recording(), -20.0), "a");
        microphone(&mut world, ms(1_500), None, &[]);
        let (said, told) = (world.client.messages.len(), world.told_agent.len());
        match by {
            Interrupter::Agent => {
                world.agent_says(FromAgent::Interrupted);
                world.agent_says(FromAgent::Speech(SpeechEvent::Started));
            }
            Interrupter::Client => world.client_says(FromClient::Interrupt(Interrupt::default())),
            Interrupter::Relay => microphone(&mut world, ms(600), None, &at_level(&recording(), -20.0)[FRAME * 20..]),
        }
        world.run(ms(500));
        let after = &world.client.messages[said..];
        let flush = after.iter().position(|message| matches!(message, ToClient::Flush(_))).expect("a flush");
        assert_eq!(flush, 0, "{by:?}: {after:?}");
        let frames = &world.client.frames;
        let ToClient::Flush(flush) = &after[0] else { unreachable!() };
        assert!(frames.iter().all(|(pos, _)| *pos < u64::from(flush.valid_from)), "{by:?}: nothing comes after it");
        let (figure, truncate) = (heard(&world), truncations(&world));
        assert_eq!((figure.len(), truncate.len()), (1, 1), "{by:?}");
        assert_eq!((figure[0].basis, truncate[0].heard.as_millis() as u64), (Basis::Reported, figure[0].ms));
        let line = cut_line(&world).expect("the text is cut");
        assert_eq!(line.heard.map(|heard| heard.ms), Some(figure[0].ms));
        assert!(line.text.is_some_and(|text| text.starts_with("one") && !text.ends_with("fourteen")));
        let told: Vec<_> = world.told_agent[told..]
            .iter()
            .filter(|(_, message)| matches!(message, ToAgent::Cancel(_) | ToAgent::Truncate(_)))
            .map(|(_, message)| matches!(message, ToAgent::Cancel(_)))
            .collect();
        let expected: &[bool] = if by == Interrupter::Agent { &[false] } else { &[true, false] };
        assert_eq!(told, expected, "{by:?}: stop, then what was heard");
        assert_eq!(interrupted_by(&world), [by]);
        assert_eq!(states(&world).last(), Some(&State::Listening));
    }
}

fn reversible() -> WorldBuilder {
    let mut build = listening();
    build.policy.barge_in.reversible = Some(Reversible::default());
    build
}

/// An answer in which every 20 ms have a value of their own, so that one hears what is left out and what is repeated.
fn counting(world: &mut World, frames: i16) {
    world.agent_says(FromAgent::TurnStarted(Some("a".into())));
    for value in 0..frames {
        world.agent_speaks(ms(20), value, Some("a"));
    }
    world.agent_says(FromAgent::TurnEnded);
}

fn interrupt(action: InterruptAction) -> FromClient {
    FromClient::Interrupt(Interrupt { action: Some(action), ..Interrupt::default() })
}

#[test]
fn a_pause_that_is_taken_back_goes_on_from_the_heard_position() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let build = WorldBuilder {
            seed,
            client: ClientKind { reports: rng.percent(70), buffer: ms(rng.below(100)) },
            network: Impairment { delay: ms(rng.below(100)), jitter: ms(5), ordered: true, ..Impairment::default() },
            ..reversible()
        };
        let reports = build.client.reports;
        let mut world = build.start();
        world.run(ms(200));
        counting(&mut world, 200);
        world.run(ms(700 + rng.below(1_500)));
        let pauses = 1 + rng.below(3);
        for _ in 0..pauses {
            world.client_says(interrupt(InterruptAction::Pause));
            world.run(ms(rng.below(700)));
            world.client_says(interrupt(InterruptAction::Resume));
            world.run(ms(300 + rng.below(400)));
        }
        world.run(ms(9_000));
        let told = flushes(&world);
        assert_eq!(told.len() as u64, pauses, "seed {seed}");
        assert!(told.iter().all(|flush| flush.pause), "seed {seed}");
        let values = heard_values(&world);
        assert_eq!(values.last(), Some(&199), "seed {seed}: to the end");
        let steps: Vec<i16> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
        if reports {
            // A frame that a flush cuts is begun and then heard again from where it was cut.
            assert!(steps.iter().all(|step| (0..=1).contains(step)), "seed {seed}: {values:?}");
        }
        assert!(heard(&world).is_empty() && truncations(&world).is_empty(), "seed {seed}: it was no interruption");
        assert!(
            !world.told_agent.iter().any(|(_, m)| matches!(m, ToAgent::Cancel(_))),
            "the agent knows nothing of it"
        );
        let started = starts(&world);
        assert_eq!(started.len() as u64, pauses + 1, "seed {seed}: `turn start` again: {started:?}");
        assert!(started.iter().all(|(turn, _)| *turn == TurnId(1)));
        assert!(started.windows(2).all(|pair| pair[0].1 < pair[1].1), "seed {seed}: each of a new generation");
        assert_eq!(states(&world).last(), Some(&State::WaitingForUser), "seed {seed}");
    }
}

#[test]
fn a_pause_that_is_confirmed_is_an_interruption_like_any_other() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let build = WorldBuilder {
            seed,
            client: ClientKind { reports: true, buffer: ms(rng.below(100)) },
            network: Impairment { delay: ms(rng.below(100)), jitter: ms(5), ordered: true, ..Impairment::default() },
            ..reversible()
        };
        let mut world = build.start();
        world.run(ms(200));
        counting(&mut world, 200);
        world.run(ms(1_000 + rng.below(1_500)));
        world.client_says(interrupt(InterruptAction::Pause));
        world.run(ms(120 + rng.below(500)));
        match rng.below(3) {
            0 => world.client_says(interrupt(InterruptAction::Confirm)),
            1 => world.client_says(FromClient::Interrupt(Interrupt::default())),
            _ => world.agent_says(FromAgent::Interrupted),
        }
        world.run(ms(800));
        let (figures, truths) = (heard(&world), world.client.truths.clone());
        let flushed = flushes(&world);
        assert!(flushed[0].pause, "seed {seed}");
        assert_eq!(figures.len(), 1, "seed {seed}");
        let truth = truths.last().unwrap().1.as_millis() as u64;
        let truth = if flushed.len() == 1 { truths[0].1.as_millis() as u64 } else { truth };
        assert!(figures[0].ms.abs_diff(truth) <= 1, "seed {seed}: {figures:?}, but {truths:?}");
        let truncated = truncations(&world);
        assert_eq!(truncated.len(), 1);
        assert_eq!(truncated[0].heard.as_millis() as u64, figures[0].ms);
        // The next answer is heard, and nothing of the old one after it.
        world.agent_speaks(ms(200), 5, Some("a"));
        answer(&mut world, ms(400), 1_000, Some("b"));
        world.run(ms(2_000));
        let values = heard_values(&world);
        let first = values.iter().position(|value| *value == 1_000).expect("the new answer is heard");
        assert_eq!(values.len() - first, 20, "seed {seed}: whole, and nothing else");
        let ended: Vec<_> = world.measures.iter().filter(|m| matches!(m, Measure::PauseEnded { .. })).collect();
        assert_eq!(ended, [&Measure::PauseEnded { confirmed: true }]);
    }
}

#[test]
fn a_pause_that_the_client_leaves_open_is_taken_back() {
    let mut world = reversible().start();
    world.run(ms(200));
    counting(&mut world, 100);
    world.run(ms(800));
    world.client_says(interrupt(InterruptAction::Pause));
    world.run(ms(6_000));
    assert_eq!(heard_values(&world).last(), Some(&99));
}

#[test]
fn a_short_sound_pauses_the_agent_and_a_sentence_interrupts_it() {
    let agent = at_level(&recording(), -20.0);
    let near = at_level(&recording(), -20.0);
    let loud = near.iter().position(|sample| sample.unsigned_abs() > 1_500).unwrap() / FRAME * FRAME;
    let sounds = |frames: usize| near[loud..loud + frames * FRAME].to_vec();
    // A syllable, then silence: a pause that is taken back.
    let mut world = reversible().start();
    world.run(ms(200));
    agent_says(&mut world, &agent, "a");
    microphone(&mut world, ms(1_500), None, &[]);
    microphone(&mut world, ms(400), None, &sounds(18));
    microphone(&mut world, ms(1_500), None, &[]);
    assert_eq!(flushes(&world).iter().map(|flush| flush.pause).collect::<Vec<_>>(), [true]);
    assert!(heard(&world).is_empty());
    assert_eq!(starts(&world).len(), 2, "it goes on");
    // A sentence.
    microphone(&mut world, ms(1_500), None, &sounds(75));
    assert_eq!(heard(&world).len(), 1, "{:?}", flushes(&world));
    assert_eq!(interrupted_by(&world), [Interrupter::Relay]);
    world.client_says(FromClient::End);
    world.run(ms(100));
    let barge_in = world.ended.as_ref().unwrap().1.barge_in;
    assert_eq!((barge_in.paused, barge_in.resumed, barge_in.by_relay), (2, 1, 1));
}

#[test]
fn on_a_route_without_reversal_a_pause_is_an_interruption() {
    let mut world = listening().start();
    world.run(ms(200));
    counting(&mut world, 100);
    world.run(ms(800));
    world.client_says(interrupt(InterruptAction::Pause));
    world.run(ms(500));
    assert_eq!(heard(&world).len(), 1);
    assert!(!flushes(&world)[0].pause);
}

#[test]
fn an_agent_that_goes_on_speaking_while_it_is_paused_is_heard_whole() {
    let mut world = reversible().start();
    world.run(ms(200));
    world.agent_says(FromAgent::TurnStarted(Some("a".into())));
    for value in 0..50 {
        world.agent_speaks(ms(20), value, Some("a"));
    }
    world.run(ms(600));
    world.client_says(interrupt(InterruptAction::Pause));
    world.run(ms(300));
    for value in 50..100 {
        world.agent_speaks(ms(20), value, Some("a"));
    }
    world.agent_says(FromAgent::TurnEnded);
    answer(&mut world, ms(200), 500, Some("b"));
    world.run(ms(300));
    world.client_says(interrupt(InterruptAction::Resume));
    world.run(ms(4_000));
    let values = heard_values(&world);
    assert!(values.windows(2).all(|pair| (0..=1).contains(&(pair[1] - pair[0])) || pair == [99, 500]), "{values:?}");
    assert_eq!(values.last(), Some(&500));
}

#[test]
fn a_client_that_comes_back_during_a_pause_hears_the_answer_go_on() {
    let mut world = reversible().start();
    world.run(ms(200));
    counting(&mut world, 100);
    world.run(ms(800));
    world.client_says(interrupt(InterruptAction::Pause));
    world.run(ms(200));
    let before = heard_values(&world);
    world.lose_link();
    world.run(ms(500));
    world.resume(Some(0));
    world.run(ms(4_000));
    let values = heard_values(&world);
    let (last, first) = (before[before.len() - 1], values[0]);
    assert!((last - 1..=last + 1).contains(&first), "heard up to {last}, then from {first}");
    assert_eq!(values.last(), Some(&99));
}

fn relay_turns(capabilities: Capabilities) -> WorldBuilder {
    let mut build = WorldBuilder { capabilities, ..listening() };
    build.policy.barge_in.relay = false;
    build.setup.turns = Some(Turns { detect: TurnDetection::Relay });
    build
}

#[test]
fn where_the_relay_decides_it_tells_the_agent_when_the_caller_begins_and_has_finished() {
    let capabilities = WorldBuilder::default().capabilities;
    for server_vad in [false, true] {
        let mut world = relay_turns(Capabilities { server_vad, ..capabilities }).start();
        world.run(ms(200));
        let speech = at_level(&recording(), -22.0);
        let spoken = ms(speech.len() as u64 * 1000 / u64::from(RATE));
        microphone(&mut world, spoken + ms(1_200), None, &speech);
        // What it finds by itself does not count.
        world.agent_says(FromAgent::Speech(SpeechEvent::Started));
        let inputs = inputs(&world);
        assert_eq!((inputs.first(), inputs.last()), (Some(&InputAction::Start), Some(&InputAction::Commit)));
        assert!(inputs.chunks(2).all(|pair| pair == [InputAction::Start, InputAction::Commit]), "{inputs:?}");
        let speech: Vec<_> = world.client.messages.iter().filter(|m| matches!(m, ToClient::Speech(_))).collect();
        assert_eq!(speech.len(), inputs.len(), "the client is told the same");
        // The answer is interrupted the same way, and the flush goes before the word about speech.
        agent_says(&mut world, &at_level(&recording(), -22.0), "a");
        microphone(&mut world, ms(1_200), None, &[]);
        let said = world.client.messages.len();
        microphone(&mut world, ms(900), None, &at_level(&recording(), -20.0)[FRAME * 10..]);
        assert!(matches!(world.client.messages[said], ToClient::Flush(_)), "{:?}", &world.client.messages[said..]);
        assert_eq!(self::inputs(&world).len(), inputs.len() + 1);
    }
}

#[test]
fn an_agent_that_takes_no_input_is_told_nothing_and_interrupted_all_the_same() {
    let capabilities = Capabilities { manual_turns: false, ..WorldBuilder::default().capabilities };
    let mut world = relay_turns(capabilities).start();
    world.run(ms(200));
    agent_says(&mut world, &at_level(&recording(), -22.0), "a");
    microphone(&mut world, ms(2_500), None, &[&vec![0; FRAME * 60], &at_level(&recording(), -20.0)[..]].concat());
    assert_eq!((inputs(&world), interrupted_by(&world)), (vec![], vec![Interrupter::Relay]));
}

#[test]
fn a_caller_who_sends_nothing_any_more_has_finished() {
    let mut world = relay_turns(WorldBuilder::default().capabilities).start();
    world.run(ms(200));
    microphone(&mut world, ms(1_000), None, &at_level(&recording(), -22.0)[FRAME * 10..]);
    world.client_says(FromClient::Mic(crate::message::Mic { on: false }));
    world.run(ms(1_500));
    assert_eq!(inputs(&world), [InputAction::Start, InputAction::Commit]);
}

#[test]
fn the_guard_knows_what_is_audible_over_every_path_of_audio() {
    let pcm = Format::pcm16(RATE);
    let speech = at_level(&recording(), -20.0);
    for carriage in [Carriage::Ordered, Carriage::Rtp] {
        for reports in [true, false] {
            let client = ClientKind { reports, buffer: ms(60) };
            let mut world = WorldBuilder { carriage, client, formats: (pcm, pcm), ..listening() }.start();
            world.run(ms(200));
            agent_says(&mut world, &speech, "a");
            microphone(&mut world, ms(4_500), Some((ms(150), -20.0)), &[]);
            assert_eq!(flushes(&world), [], "{carriage:?}, reports: {reports}");
            let ignored = world.measures.contains(&Measure::BargeInIgnored(Ignored::Echo));
            microphone(&mut world, ms(1_200), None, &[]);
            let later = world.measures.contains(&Measure::BargeInIgnored(Ignored::Echo));
            assert!(ignored || later, "{carriage:?}, reports: {reports}: the echo was heard");
        }
    }
}

#[test]
fn the_relay_does_not_listen_where_nobody_asks_for_it() {
    let mut build = listening();
    build.policy.barge_in.relay = false;
    let mut world = build.start();
    world.run(ms(200));
    agent_says(&mut world, &at_level(&recording(), -20.0), "a");
    microphone(&mut world, ms(3_000), None, &at_level(&recording(), -20.0));
    assert!(interrupted_by(&world).is_empty());
}
