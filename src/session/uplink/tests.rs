//! In virtual time: nothing sleeps, every random choice comes from a seed that a failure prints.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::media::fixture::speech;
use crate::media::g711::Law;
use crate::media::transcode::{Encoder, has_lbrr};
use crate::message::RtpMeta;
use crate::route::plan::{GapMode, OpusSettings};

const MS: u64 = 1000;
const PCM8: Format = Format::pcm16(8_000);
const PCM24: Format = Format::pcm16(24_000);

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// An uplink in virtual time that starts at 100 s, with everything that came out and when.
struct Rig {
    uplink: Uplink,
    now: u64,
    seq: u64,
    frames: Vec<(u64, AgentAudioOut)>,
    events: Vec<(u64, UplinkOutput)>,
    next_pos: u64,
}

impl Rig {
    const START: u64 = 100_000 * MS;

    /// Not connected to anything yet.
    fn bare(policy: &Policy) -> Rig {
        let uplink = Uplink::new(policy, Micros(Rig::START));
        Rig { uplink, now: Rig::START, seq: 0, frames: Vec::new(), events: Vec::new(), next_pos: 0 }
    }

    /// A client that is attached and a continuous agent that is ready.
    fn new(client: Format, carriage: Carriage, agent: Format) -> Rig {
        let mut rig = Rig::bare(&Policy::default());
        rig.link(client, carriage);
        rig.agent(agent);
        rig
    }

    fn link(&mut self, client: Format, carriage: Carriage) {
        self.uplink.set_link(Some((client, carriage)), Micros(self.now));
        self.collect();
    }

    fn agent(&mut self, agent: Format) {
        self.next_pos = 0;
        self.uplink.set_agent(Some((agent, true)), Micros(self.now));
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(output) = self.uplink.poll() {
            match output {
                UplinkOutput::Audio(frame) => {
                    assert_eq!(frame.pos, self.next_pos, "positions have no seam");
                    assert!(frame.ready.0 <= self.now, "made of what has arrived");
                    self.next_pos += u64::from(frame.ticks);
                    self.frames.push((self.now, frame));
                }
                other => self.events.push((self.now, other)),
            }
        }
    }

    /// Lets time pass to `at` (after the start), with every deadline on its way.
    fn run(&mut self, at: u64) {
        let at = Rig::START + at;
        while let Some(deadline) = self.uplink.deadline().filter(|deadline| deadline.0 <= at) {
            self.now = self.now.max(deadline.0);
            self.uplink.on_deadline(Micros(self.now));
            self.collect();
            assert!(self.uplink.deadline() > Some(deadline) || self.uplink.deadline().is_none(), "work is done once");
        }
        self.now = self.now.max(at);
    }

    fn audio(&mut self, at: u64, rtp: Option<RtpMeta>, payload: Bytes) {
        self.run(at);
        self.uplink.on_audio(AudioIn { arrival: Micros(self.now), rtp, payload }, Micros(self.now));
        self.collect();
    }

    /// A frame on ordered carriage.
    fn ordered(&mut self, at: u64, payload: Bytes) {
        self.audio(at, None, payload);
    }

    /// A packet with the next number.
    fn rtp(&mut self, at: u64, timestamp: u32, payload: Bytes) {
        let seq = self.seq;
        self.seq += 1;
        self.audio(at, Some(RtpMeta { seq, timestamp, marker: false, level: None }), payload);
    }

    /// A mu-law frame whose samples tell its number.
    fn numbered(&mut self, carriage: Carriage, at: u64, number: u64) {
        match carriage {
            Carriage::Ordered => self.ordered(at, mulaw(number)),
            Carriage::Rtp => self.rtp(at, number as u32 * 160, mulaw(number)),
        }
    }

    fn sent(&self, format: Format) -> u64 {
        format.ticks_to_time(self.next_pos).as_micros() as u64
    }

    fn filled(&self) -> u64 {
        self.uplink.totals().2.as_micros() as u64
    }

    /// Everything the agent got, as samples.
    fn samples(&self) -> Vec<i16> {
        let bytes = self.frames.iter().flat_map(|(_, frame)| frame.payload.iter().copied()).collect::<Vec<u8>>();
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    fn bad(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|(_, event)| match event {
                UplinkOutput::BadAudio(reason) => Some(reason.as_str()),
                _ => None,
            })
            .collect()
    }

    fn dropped(&self, of: Queue) -> Duration {
        let audio = |event: &UplinkOutput| match *event {
            UplinkOutput::Measure(Measure::Dropped { queue, audio }) if queue == of => audio,
            _ => Duration::ZERO,
        };
        self.events.iter().map(|(_, event)| audio(event)).sum()
    }

    fn most_skew(&self) -> Duration {
        let skew = |event: &UplinkOutput| match *event {
            UplinkOutput::Measure(Measure::UplinkSkew(skew)) => skew,
            _ => Duration::ZERO,
        };
        self.events.iter().map(|(_, event)| skew(event)).max().unwrap_or_default()
    }

    fn speech(&self) -> Vec<(SpeechEvent, i64)> {
        let speech = |event: &UplinkOutput| match *event {
            UplinkOutput::Speech(event, at) => Some((event, (at.0 as i64 - Rig::START as i64) / MS as i64)),
            _ => None,
        };
        self.events.iter().filter_map(|(_, event)| speech(event)).collect()
    }
}

/// 20 ms of µ-law that can be told from others: loud, and the same for every 60th number only.
fn mulaw(number: u64) -> Bytes {
    Bytes::from(vec![(number % 60) as u8; 160])
}

/// The numbers of [`mulaw`] frames in PCM at 8 kHz, each once per 160 samples, and the silence before each in samples.
fn numbers(samples: &[i16]) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    let (mut silence, mut run) = (0, 0);
    for &sample in samples {
        if sample == 0 {
            assert_eq!(run, 0, "silence falls between frames only");
            silence += 1;
            continue;
        }
        let number = (0..60).find(|&code| Law::Mu.expand(code) == sample).unwrap();
        if run == 0 {
            found.push((u64::from(number), silence));
        }
        assert_eq!(found[found.len() - 1].0, u64::from(number), "a frame is whole");
        silence = 0;
        run = (run + 1) % 160;
    }
    assert_eq!(run, 0, "the last frame is whole");
    found
}

fn opus_frames(seconds: u64, fec: bool) -> Vec<Bytes> {
    let settings = OpusSettings { fec, ..OpusSettings::default() };
    let mut encoder = Encoder::new(Format::OPUS, 48_000, &settings).unwrap();
    encoder.set_expected_loss(if fec { 15 } else { 0 });
    let mut buffer = BytesMut::new();
    let pcm = speech(48_000, seconds as usize * 48_000);
    pcm.chunks_exact(960).map(|frame| encoder.encode(frame, &mut buffer).unwrap()).collect()
}

// ------------------------------------------------------------------------------------------- loss and jitter

/// What a network with 5 % loss, 30 ms jitter and 2 % duplication delivers: number and arrival in microseconds.
fn network(random: &mut Random, packets: u64) -> Vec<(u64, u64)> {
    let mut arrivals = Vec::new();
    for seq in 0..packets {
        if seq > 0 && random.below(100) < 5 {
            continue;
        }
        let at = seq * 20 * MS + if seq == 0 { 0 } else { random.below(30 * MS) };
        arrivals.push((at, seq));
        if random.below(100) < 2 {
            arrivals.push((at + random.below(60 * MS), seq));
        }
    }
    arrivals.sort_unstable();
    arrivals
}

#[test]
fn under_loss_and_jitter_agent_time_runs_on_and_what_is_lost_is_concealed_and_nothing_else() {
    let packets = opus_frames(60, true);
    for seed in 1..=6 {
        let mut random = Random::new(seed);
        let mut rig = Rig::new(Format::OPUS, Carriage::Rtp, PCM24);
        let network = network(&mut random, 3000);
        let came: std::collections::BTreeSet<u64> = network.iter().map(|&(_, seq)| seq).collect();
        let run = came.iter().zip(came.iter().skip(1)).map(|(one, next)| next - one - 1).max().unwrap();
        let most = ((run + 1) * 20 + 30 + 40) as i64 * 1000;
        for (at, seq) in network {
            let rtp = RtpMeta { seq, timestamp: (seq as u32).wrapping_mul(960), marker: false, level: None };
            rig.audio(at, Some(rtp), packets[seq as usize].clone());
            let lag = (rig.now - Rig::START) as i64 - rig.sent(PCM24) as i64;
            assert!((-30_000..=most).contains(&lag), "seed {seed}: agent time is {lag} us behind at {at}");
        }
        rig.run(60_100 * MS);
        let order = rig.uplink.path.as_ref().unwrap().order.as_ref().unwrap().counters();
        let (lost, concealed, filled) = rig.uplink.totals();
        assert_eq!(lost, order.given_up - order.late, "seed {seed}");
        assert!(order.recovered > 50, "seed {seed}: recovered {}", order.recovered);
        assert_eq!(concealed, Duration::from_millis(20) * (order.given_up - order.recovered) as u32, "seed {seed}");
        assert_eq!(filled, Duration::ZERO, "seed {seed}: loss is no pause");
        let waits = rig.frames.iter().map(|(at, frame)| at - frame.ready.0);
        assert!(waits.clone().all(|wait| wait <= 40 * MS), "seed {seed}: no gap waits longer");
        let at_once = waits.filter(|&wait| wait == 0).count();
        assert!(at_once > 2300, "seed {seed}: only {at_once} of 3000 did not wait; what is in order never does");
        assert!(rig.sent(PCM24) >= 59_900 * MS, "seed {seed}: sent {}", rig.sent(PCM24));
    }
}

#[test]
fn the_chain_under_loss_gives_what_libopus_gives_for_the_same_trace() {
    let packets = opus_frames(20, true);
    for seed in 1..=3 {
        let mut random = Random::new(seed);
        let lost: Vec<bool> = (0..packets.len()).map(|at| at > 0 && random.below(100) < 10).collect();
        let mut rig = Rig::new(Format::OPUS, Carriage::Rtp, PCM24);
        let mut last = 0;
        for (seq, packet) in packets.iter().enumerate().filter(|&(seq, _)| !lost[seq]) {
            let rtp = RtpMeta { seq: seq as u64, timestamp: seq as u32 * 960, marker: false, level: None };
            rig.audio(seq as u64 * 20 * MS, Some(rtp), packet.clone());
            last = seq;
        }
        rig.run(last as u64 * 20 * MS + 50 * MS);

        let mut decoder = opus::Decoder::new(24_000, opus::Channels::Mono).unwrap();
        let mut expected = Vec::new();
        let mut frame = [0; 480];
        for seq in 0..=last {
            let next_carries = seq < last && !lost[seq + 1] && has_lbrr(&packets[seq + 1]);
            let (packet, fec): (&[u8], bool) = match (lost[seq], next_carries) {
                (false, _) => (&packets[seq], false),
                (true, true) => (&packets[seq + 1], true),
                (true, false) => (&[], false),
            };
            assert_eq!(decoder.decode(packet, &mut frame, fec).unwrap(), 480);
            expected.extend_from_slice(&frame);
        }
        assert!(rig.samples() == expected, "seed {seed}: not the same samples");
    }
}

#[test]
fn accurate_mode_waits_longer_and_loses_less() {
    let packets = opus_frames(5, false);
    let policy = Policy { gap: GapMode::Accurate, ..Policy::default() };
    let mut rig = Rig::bare(&policy);
    rig.link(Format::OPUS, Carriage::Rtp);
    rig.agent(PCM24);
    for seq in (0..100_u64).filter(|&seq| seq != 50) {
        let rtp = |seq| Some(RtpMeta { seq, timestamp: seq as u32 * 960, marker: false, level: None });
        rig.audio(seq * 20 * MS, rtp(seq), packets[seq as usize].clone());
        if seq == 58 {
            rig.audio(seq * 20 * MS + 5 * MS, rtp(50), packets[50].clone());
        }
    }
    assert_eq!(rig.uplink.totals(), (0, Duration::ZERO, Duration::ZERO));
    assert_eq!(rig.frames.len(), 100);
}

// -------------------------------------------------------------------------------- pauses, stalls, late speech

#[test]
fn dtx_loss_and_a_stall_are_told_apart() {
    // DTX: a tiny packet, then nothing for 400 ms, and a timestamp that says so.
    let opus = opus_frames(2, false);
    let mut rig = Rig::new(Format::OPUS, Carriage::Rtp, PCM24);
    for n in 0..10 {
        rig.rtp(n * 20 * MS, n as u32 * 960, opus[n as usize].clone());
    }
    rig.rtp(200 * MS, 10 * 960, Bytes::from_static(&[0x48]));
    rig.run(215 * MS);
    assert_eq!(rig.filled(), 0);
    rig.run(220 * MS);
    assert_eq!(rig.filled(), 20 * MS, "one packet time after the DTX packet");
    rig.rtp(599 * MS, 30 * 960, opus[11].clone());
    assert_eq!((rig.filled(), rig.sent(PCM24)), (380 * MS, 620 * MS));
    assert_eq!(rig.uplink.totals().0, 0, "nothing is lost");

    // Loss: numbers are missing.
    rig.seq += 2;
    rig.rtp(660 * MS, 33 * 960, opus[14].clone());
    rig.run(700 * MS);
    assert_eq!(rig.uplink.totals(), (2, Duration::from_millis(40), Duration::from_millis(380)));
    assert_eq!(rig.sent(PCM24), 680 * MS);

    // Stall: nothing comes, and nobody said so. The last packet came at 660 ms.
    rig.run(859 * MS);
    assert_eq!(rig.filled(), 380 * MS);
    rig.run(1200 * MS);
    assert!((1200 * MS).abs_diff(rig.sent(PCM24)) <= 20 * MS, "agent time has caught up: {}", rig.sent(PCM24));
    assert!(rig.frames.iter().rev().take(20).all(|(_, frame)| frame.filled));
    assert_eq!(rig.uplink.totals().0, 2, "a stall is no loss");
}

#[test]
fn late_speech_after_a_stall_is_neither_doubled_nor_lost_and_the_surplus_is_repaid() {
    for carriage in [Carriage::Ordered, Carriage::Rtp] {
        let mut rig = Rig::new(Format::PCMU, carriage, PCM8);
        for number in 0..50 {
            rig.numbered(carriage, number * 20 * MS, number);
        }
        // Speech of two seconds comes at once, after two seconds of nothing; then all is as before.
        for number in 50..150 {
            rig.numbered(carriage, 2980 * MS, number);
        }
        for number in 150..200 {
            rig.numbered(carriage, number * 20 * MS, number);
        }
        let heard = numbers(&rig.samples());
        assert_eq!(heard.iter().map(|&(number, _)| number).collect::<Vec<_>>(), {
            (0..200).map(|number| number % 60).collect::<Vec<_>>()
        });
        let gaps: Vec<_> = heard.iter().enumerate().filter(|(_, (_, silence))| *silence > 0).collect();
        assert_eq!(gaps.len(), 1, "{carriage:?}: one pause, where the stall was: {gaps:?}");
        let surplus = rig.filled();
        assert!((1900 * MS..=2000 * MS).contains(&surplus), "{carriage:?}: {surplus}");
        assert!(rig.most_skew().abs_diff(Duration::from_micros(surplus)) <= FRAME, "{:?}", rig.most_skew());
        assert_eq!(rig.sent(PCM8), 4000 * MS + surplus);

        // Silence: its first second is kept, then none is made up until the surplus is repaid.
        rig.uplink.on_mic(false, Micros(rig.now));
        rig.run(5000 * MS);
        assert!(rig.sent(PCM8).abs_diff(5000 * MS + surplus) <= 20 * MS, "{}", rig.sent(PCM8));
        let kept = rig.sent(PCM8);
        rig.run(6900 * MS);
        assert_eq!(rig.sent(PCM8), kept, "{carriage:?}: silence is skipped while agent time is ahead");
        rig.run(10_000 * MS);
        assert!(rig.sent(PCM8).abs_diff(10_000 * MS) <= 20 * MS, "{carriage:?}: repaid: {}", rig.sent(PCM8));
    }
}

#[test]
fn speech_that_is_lost_in_a_stall_is_silence_once_and_not_concealed_again() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Rtp, PCM8);
    for number in (0..50).chain(150..200) {
        rig.seq = number;
        rig.rtp(number * 20 * MS, number as u32 * 160, mulaw(number));
    }
    rig.run(3990 * MS);
    let (lost, concealed, filled) = rig.uplink.totals();
    assert_eq!(lost, 100);
    assert!(concealed <= FRAME * 2, "{concealed:?}");
    assert!((concealed + filled).abs_diff(Duration::from_secs(2)) <= FRAME, "{filled:?}");
    assert!(rig.sent(PCM8).abs_diff(4000 * MS) <= 20 * MS, "{}", rig.sent(PCM8));
}

#[test]
fn audio_that_is_a_little_later_than_the_stall_time_gets_little_silence_before_it() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Ordered, PCM8);
    for number in 0..50 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    for number in 50..62 {
        rig.ordered(1219 * MS, mulaw(number));
    }
    assert!(rig.filled() <= 80 * MS, "two ticks of two frames: {}", rig.filled());
    assert_eq!(numbers(&rig.samples()).len(), 62);
}

#[test]
fn surplus_is_repaid_in_the_callers_own_silence_but_not_in_speech() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Ordered, PCM8);
    let quiet = Bytes::from(vec![0xff; 160]);
    for number in 0..50 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    for number in 50..100 {
        rig.ordered(1980 * MS, mulaw(number));
    }
    let surplus = rig.filled();
    for number in 100..150 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    assert_eq!(rig.uplink.shortened(), Duration::ZERO);
    for number in 150..200 {
        rig.ordered(number * 20 * MS, quiet.clone());
    }
    assert_eq!(rig.uplink.shortened(), Duration::ZERO, "the first second of silence is kept");
    for number in 200..400 {
        rig.ordered(number * 20 * MS, quiet.clone());
    }
    assert!(rig.uplink.shortened().abs_diff(Duration::from_micros(surplus)) <= FRAME, "{:?}", rig.uplink.shortened());
    assert!(rig.sent(PCM8).abs_diff(8000 * MS) <= 20 * MS);
    assert_eq!(numbers(&rig.samples()).len(), 150, "no speech was left out");
}

#[test]
fn a_caller_that_sends_faster_than_real_time_loses_nothing() {
    let mut rig = Rig::new(PCM24, Carriage::Ordered, PCM24);
    for n in 0..1000_u32 {
        rig.ordered(u64::from(n) * 100, Bytes::from(vec![if n % 200 < 20 { 0x22 } else { 0 }; 960]));
    }
    assert_eq!((rig.frames.len(), rig.filled()), (1000, 0));
    assert_eq!(rig.dropped(Queue::Uplink), Duration::ZERO);
    rig.run(1300 * MS);
    assert_eq!(rig.filled(), 0, "20 s of audio, the last 3.6 s silent: nothing needs to be made up yet");
}

#[test]
fn a_pause_that_nobody_announced_is_made_up_and_speech_follows_at_once() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Ordered, PCM8);
    for round in 0..20_u64 {
        for n in 0..50 {
            rig.ordered((round * 3000 + n * 20) * MS, mulaw(round * 50 + n));
            assert_eq!(rig.frames.last().unwrap().0, rig.now, "speech never waits");
        }
    }
    assert_eq!(numbers(&rig.samples()).len(), 1000);
    let end = 58_000 * MS;
    assert!(rig.sent(PCM8).abs_diff(end) <= 40 * MS, "agent time is real time: {} of {end}", rig.sent(PCM8));
}

#[test]
fn two_late_utterances_are_not_run_together() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Rtp, PCM8);
    for number in 0..50 {
        rig.rtp(number * 20 * MS, number as u32 * 160, mulaw(number));
    }
    // During a stall of 3 s the caller spoke 0.5 s, paused 0.4 s (sending nothing), and spoke again.
    for number in (50..75).chain(95..120) {
        rig.rtp(4000 * MS, number as u32 * 160, mulaw(number));
    }
    let heard = numbers(&rig.samples());
    assert_eq!(heard.len(), 100);
    assert_eq!(heard[75], (95 % 60, 3200), "the pause of 0.4 s is there");
}

#[test]
fn of_a_backlog_of_30_s_the_last_5_s_are_heard() {
    for carriage in [Carriage::Ordered, Carriage::Rtp] {
        let mut rig = Rig::new(Format::PCMU, carriage, PCM8);
        for number in 0..50 {
            rig.numbered(carriage, number * 20 * MS, number);
        }
        for number in 50..1550 {
            rig.numbered(carriage, 31_000 * MS + number * 100, number);
        }
        for number in 1550..1600 {
            rig.numbered(carriage, 31_160 * MS + (number - 1550) * 20 * MS, number);
        }
        rig.run(32_160 * MS);
        let heard: Vec<u64> = numbers(&rig.samples()).iter().map(|&(number, _)| number).collect();
        let dropped = rig.dropped(Queue::Uplink).as_millis() as usize / 20;
        assert!((1240..=1260).contains(&dropped), "{carriage:?}: dropped {dropped}");
        assert_eq!(heard.len(), 1600 - dropped, "{carriage:?}: what is not dropped is heard");
        let expected: Vec<u64> = (0..50).chain(50 + dropped as u64..1600).map(|number| number % 60).collect();
        assert!(heard == expected, "{carriage:?}: the oldest was dropped");
        assert_eq!(rig.uplink.totals().1, Duration::ZERO, "{carriage:?}: dropped audio is not concealed");
    }
}

#[test]
fn after_a_long_pause_live_speech_waits_at_most_60_ms_and_nothing_is_lost() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Ordered, PCM8);
    rig.ordered(0, mulaw(0));
    for number in 1..100 {
        rig.ordered(20_000 * MS + number * 20 * MS, mulaw(number));
    }
    let heard = numbers(&rig.samples());
    assert_eq!(heard.len(), 100);
    let speech = rig.frames.iter().filter(|(_, frame)| !frame.filled);
    assert!(speech.clone().all(|(at, frame)| at - frame.ready.0 <= 60 * MS));
    assert_eq!(speech.filter(|(at, frame)| at > &frame.ready.0).count(), 3);
}

#[test]
fn while_the_microphone_is_off_or_the_link_is_gone_the_agent_hears_silence() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Ordered, PCM8);
    rig.ordered(0, mulaw(0));
    rig.run(10 * MS);
    rig.uplink.on_mic(false, Micros(rig.now));
    rig.run(1000 * MS);
    assert!(rig.sent(PCM8).abs_diff(1000 * MS) <= 20 * MS);
    assert_eq!(rig.frames[1].0 - Rig::START, 20 * MS, "one packet time after the last audio");
    rig.uplink.on_mic(true, Micros(rig.now));
    for number in 50..100 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    rig.run(1990 * MS);
    rig.uplink.set_link(None, Micros(rig.now));
    rig.run(9000 * MS);
    assert!(rig.sent(PCM8).abs_diff(9000 * MS) <= 20 * MS);
    rig.link(Format::OPUS, Carriage::Rtp);
    let opus = opus_frames(1, false);
    for n in 0..50_u64 {
        rig.rtp((9020 + n * 20) * MS, 77 + n as u32 * 960, opus[n as usize].clone());
    }
    assert!(rig.sent(PCM8).abs_diff(10_020 * MS) <= 40 * MS, "another format, the same agent time");
    assert_eq!(rig.uplink.totals().0, 0);
}

#[test]
fn an_agent_that_does_not_want_continuous_time_gets_speech_only() {
    let mut rig = Rig::bare(&Policy::default());
    rig.link(Format::PCMU, Carriage::Rtp);
    rig.uplink.set_agent(Some((PCM8, false)), Micros(rig.now));
    rig.rtp(0, 0, mulaw(0));
    rig.rtp(3000 * MS, 150 * 160, mulaw(1));
    rig.run(9000 * MS);
    assert_eq!((rig.frames.len(), rig.filled()), (2, 0));
}

#[test]
fn clocks_that_drift_by_200_ppm_stay_together_over_ten_minutes() {
    for (carriage, ppm) in
        [(Carriage::Ordered, 200_i64), (Carriage::Ordered, -200), (Carriage::Rtp, 200), (Carriage::Rtp, -200)]
    {
        let mut rig = Rig::new(Format::PCMU, carriage, PCM8);
        let mut worst = 0;
        for n in 0..30_000_u64 {
            let at = (n * 20 * MS) as i64 * (1_000_000 - ppm) / 1_000_000;
            // 8 s of speech, then 4 s of digital silence.
            let payload = if n % 600 < 400 { mulaw(n) } else { Bytes::from_static(&[0xff; 160]) };
            match carriage {
                Carriage::Ordered => rig.ordered(at as u64, payload),
                Carriage::Rtp => rig.rtp(at as u64, n as u32 * 160, payload),
            }
            worst = worst.max((rig.sent(PCM8) as i64 - at).abs());
        }
        assert!(worst <= 140_000, "{carriage:?} {ppm}: {worst} us");
        assert_eq!(rig.dropped(Queue::Uplink), Duration::ZERO);
    }
}

#[test]
fn drift_is_absorbed_by_the_pauses_of_a_sender_with_dtx() {
    let opus = opus_frames(2, false);
    for ppm in [200_i64, -200] {
        let mut rig = Rig::new(Format::OPUS, Carriage::Rtp, Format::OPUS);
        let mut worst = 0;
        for n in 0..30_000_u64 {
            let at = (n * 20 * MS) as i64 * (1_000_000 - ppm) / 1_000_000;
            let payload = match n % 600 {
                0..300 => opus[n as usize % 100].clone(),
                300 | 320 | 340 => Bytes::from_static(&[0x48]),
                _ => continue,
            };
            rig.rtp(at as u64, n as u32 * 960, payload);
            worst = worst.max((rig.sent(Format::OPUS) as i64 - at).abs());
        }
        assert!(worst <= 60_000, "{ppm}: {worst} us");
    }
}

// ---------------------------------------------------------------------------------------- set-up and changes

#[test]
fn what_is_said_before_the_agent_is_ready_reaches_it_in_one_burst() {
    let mut rig = Rig::bare(&Policy::default());
    rig.link(Format::PCMU, Carriage::Ordered);
    for number in 0..50 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    rig.run(990 * MS);
    assert!(rig.frames.is_empty());
    rig.agent(PCM8);
    assert_eq!(rig.frames.len(), 50);
    assert!(rig.frames.iter().all(|(at, frame)| *at == rig.now && !frame.filled));
    for number in 50..100 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    assert_eq!(numbers(&rig.samples()).len(), 100);
    assert_eq!((rig.filled(), rig.most_skew()), (0, Duration::ZERO));
    rig.uplink.on_mic(false, Micros(rig.now));
    rig.run(5000 * MS);
    assert!(rig.sent(PCM8).abs_diff(5000 * MS) <= 20 * MS, "agent time went on from there: {}", rig.sent(PCM8));
}

#[test]
fn the_preroll_keeps_the_last_three_seconds() {
    let mut rig = Rig::bare(&Policy::default());
    rig.link(Format::PCMU, Carriage::Ordered);
    for number in 0..200 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    assert_eq!(rig.dropped(Queue::Preroll), Duration::from_secs(1));
    rig.agent(PCM8);
    let heard = numbers(&rig.samples());
    assert_eq!((heard.len(), heard[0]), (150, (50, 0)));
}

#[test]
fn the_preroll_is_put_in_order_as_it_would_have_been() {
    let mut rig = Rig::bare(&Policy::default());
    rig.link(Format::PCMU, Carriage::Rtp);
    for number in [0, 1, 3, 2, 4, 6, 7, 8, 9] {
        let rtp = RtpMeta { seq: number, timestamp: number as u32 * 160, marker: false, level: None };
        rig.audio(rig.now - Rig::START + 15 * MS, Some(rtp), mulaw(number));
    }
    rig.run(500 * MS);
    rig.agent(PCM8);
    let heard: Vec<u64> = numbers(&rig.samples()).iter().map(|&(number, _)| number).collect();
    assert_eq!(heard, [0, 1, 2, 3, 4, 6, 7, 8, 9]);
    assert_eq!(rig.uplink.totals(), (1, FRAME, Duration::ZERO));
}

#[test]
fn another_agent_takes_over_with_another_format_and_hears_what_came_meanwhile() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Ordered, PCM24);
    for number in 0..50 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    rig.uplink.set_agent(None, Micros(rig.now));
    for number in 50..75 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    let before = rig.frames.len();
    rig.run(1490 * MS);
    assert_eq!(before, 50);
    rig.frames.clear();
    rig.agent(PCM8);
    for number in 75..100 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    let heard: Vec<u64> = numbers(&rig.samples()).iter().map(|&(number, _)| number).collect();
    assert_eq!(heard, (50..100).map(|number| number % 60).collect::<Vec<_>>());
}

#[test]
fn two_links_before_the_agent_is_ready_are_both_heard() {
    let mut rig = Rig::bare(&Policy::default());
    rig.link(Format::PCMU, Carriage::Ordered);
    for number in 0..10 {
        rig.ordered(number * 20 * MS, mulaw(number));
    }
    rig.uplink.set_link(None, Micros(rig.now));
    rig.link(PCM8, Carriage::Rtp);
    for number in 10..20 {
        let sample = Law::Mu.expand(number).to_le_bytes();
        rig.rtp(u64::from(number) * 20 * MS, u32::from(number) * 160, Bytes::from(sample.repeat(160)));
    }
    rig.agent(PCM8);
    rig.rtp(400 * MS, 20 * 160, Bytes::from(Law::Mu.expand(20).to_le_bytes().repeat(160)));
    let heard: Vec<u64> = numbers(&rig.samples()).iter().map(|&(number, _)| number).collect();
    assert_eq!(heard, (0..=20).collect::<Vec<_>>());
}

// ------------------------------------------------------------------------------------------- passing through

#[test]
fn equal_wires_pass_bit_for_bit_without_a_copy() {
    let opus = opus_frames(1, false);
    for carriage in [Carriage::Ordered, Carriage::Rtp] {
        let mut rig = Rig::new(Format::OPUS, carriage, Format { rate: 16_000, ..Format::OPUS });
        for (n, packet) in opus.iter().enumerate() {
            match carriage {
                Carriage::Ordered => rig.ordered(n as u64 * 20 * MS, packet.clone()),
                Carriage::Rtp => rig.rtp(n as u64 * 20 * MS, n as u32 * 960, packet.clone()),
            }
        }
        let same = |(at, frame): &(u64, AgentAudioOut), packet: &Bytes| {
            frame.payload.as_ptr() == packet.as_ptr() && frame.payload == *packet && *at == frame.ready.0
        };
        assert!(rig.frames.iter().zip(&opus).all(|(frame, packet)| same(frame, packet)));
        assert_eq!((rig.frames.len(), rig.sent(Format::OPUS)), (50, 1000 * MS));
    }
    let mut rig = Rig::new(PCM24, Carriage::Ordered, PCM24);
    let odd = Bytes::from(vec![7; 1234]);
    rig.ordered(0, odd.clone());
    assert_eq!((&rig.frames[0].1.payload, rig.frames[0].1.ticks), (&odd, 617));
}

#[test]
fn an_opus_agent_is_told_of_lost_frames_and_gets_coded_silence_in_pauses() {
    let opus = opus_frames(1, true);
    let mut rig = Rig::new(Format::OPUS, Carriage::Rtp, Format::OPUS);
    for n in [0, 1, 2, 5, 6] {
        rig.seq = n;
        rig.rtp(n * 20 * MS, n as u32 * 960, opus[n as usize].clone());
    }
    rig.run(1000 * MS);
    let sizes: Vec<usize> = rig.frames.iter().map(|(_, frame)| frame.payload.len()).collect();
    assert_eq!(sizes[3..5], [1, 1], "two packets lost: two empty frames");
    assert_eq!(rig.frames[5].1.payload, opus[5]);
    assert!(rig.frames[7..].iter().all(|(_, frame)| frame.filled && *frame.payload == [0xf8, 0xff, 0xfe]));
    assert!(rig.sent(Format::OPUS).abs_diff(1000 * MS) <= 20 * MS);
    let mut decoder = opus::Decoder::new(16_000, opus::Channels::Mono).unwrap();
    let mut pcm = [0; 5760];
    for (_, frame) in &rig.frames {
        assert_eq!(decoder.decode(&frame.payload, &mut pcm, false).unwrap(), 320, "an ordinary decoder follows");
    }
    assert!(pcm[..320].iter().all(|sample| sample.abs() < 4), "and hears silence at the end");
}

#[test]
fn silence_for_an_opus_agent_is_not_encoded_again_and_again() {
    let mut rig = Rig::new(PCM24, Carriage::Ordered, Format::OPUS);
    let pcm: Vec<u8> = speech(24_000, 48_000).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    for (n, frame) in pcm.chunks_exact(960).enumerate() {
        rig.ordered(n as u64 * 20 * MS, Bytes::copy_from_slice(frame));
    }
    rig.run(4000 * MS);
    let fills: Vec<bool> = rig.frames[100..].iter().map(|(_, frame)| *frame.payload == [0xf8, 0xff, 0xfe]).collect();
    assert_eq!(fills.iter().filter(|&&coded| !coded).count(), 2, "the encoder fades out");
    assert!(fills.len() > 95);
}

// ------------------------------------------------------------------------------------------------ other rules

#[test]
fn added_latency_counts_from_the_arrival_of_what_begins_in_a_frame() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Ordered, PCM8);
    let bytes = |ms: usize| Bytes::from(vec![3; 8 * ms]);
    rig.ordered(0, bytes(10));
    rig.ordered(10 * MS, bytes(10));
    rig.ordered(40 * MS, bytes(60));
    rig.ordered(70 * MS, bytes(30));
    rig.ordered(90 * MS, bytes(20));
    let ready: Vec<u64> = rig.frames.iter().map(|(_, frame)| (frame.ready.0 - Rig::START) / MS).collect();
    assert_eq!(ready, [0, 40, 40, 40, 70, 90], "re-framing wait included, and only that");
}

#[test]
fn frames_of_impossible_size_are_refused_with_a_reason_and_the_rest_goes_on() {
    let mut rig = Rig::new(PCM24, Carriage::Ordered, PCM8);
    rig.ordered(0, Bytes::from(vec![1; 961]));
    rig.ordered(0, Bytes::new());
    rig.ordered(0, Bytes::from(vec![1; 24_000 / 1000 * 251 * 2]));
    rig.ordered(0, Bytes::from(vec![1; 24_000 / 1000 * 250 * 2]));
    assert_eq!(rig.bad().len(), 3, "{:?}", rig.bad());
    assert!(rig.bad()[2].contains("251 ms") && rig.bad()[2].contains("250 ms"), "{:?}", rig.bad());
    assert!(rig.frames.len() >= 11);
}

#[test]
fn a_packet_that_cannot_be_decoded_is_concealed_in_its_place() {
    let opus = opus_frames(1, false);
    let mut rig = Rig::new(Format::OPUS, Carriage::Rtp, PCM24);
    for n in 0..50_u64 {
        let payload = if n == 20 { Bytes::from_static(&[0xff; 40]) } else { opus[n as usize].clone() };
        rig.rtp(n * 20 * MS, n as u32 * 960, payload);
    }
    assert_eq!(rig.bad().len(), 1);
    assert_eq!(rig.uplink.totals(), (0, FRAME, Duration::ZERO));
    assert_eq!(rig.sent(PCM24), 1000 * MS);
}

#[test]
fn speech_ends_with_its_last_voiced_frame() {
    use SpeechEvent::{Started, Stopped};
    let mut rig = Rig::new(PCM24, Carriage::Ordered, PCM24);
    let loud: Vec<u8> = crate::media::fixture::sine(300.0, 24_000, 480).iter().flat_map(|s| s.to_le_bytes()).collect();
    for n in 0..100_u64 {
        let payload = if (10..40).contains(&n) { Bytes::from(loud.clone()) } else { Bytes::from(vec![0; 960]) };
        rig.ordered(n * 20 * MS, payload);
    }
    assert_eq!(rig.speech(), [(Started, 180), (Stopped, 780)]);

    let mut rig = Rig::new(Format::OPUS, Carriage::Rtp, Format::OPUS);
    let packet = opus_frames(1, false)[5].clone();
    for n in 0..20_u64 {
        let level = Some(if n < 10 { 20 } else { 90 });
        let rtp = RtpMeta { seq: n, timestamp: n as u32 * 960, marker: false, level };
        rig.audio(n * 20 * MS, Some(rtp), packet.clone());
    }
    rig.run(2000 * MS);
    assert_eq!(rig.speech(), [(Started, -20), (Stopped, 180)], "by the level that came with the packet");
}

#[test]
fn a_restarted_sender_and_wrapping_timestamps_leave_no_seam() {
    let mut rig = Rig::new(Format::PCMU, Carriage::Rtp, PCM8);
    let start = 0_u32.wrapping_sub(10 * 160);
    for number in 0..50_u64 {
        rig.rtp(number * 20 * MS, start.wrapping_add(number as u32 * 160), mulaw(number));
    }
    assert_eq!((rig.frames.len(), rig.filled()), (50, 0));
    rig.seq = 40_000;
    for number in 50..100_u64 {
        rig.rtp(number * 20 * MS, 0x1234_5678 + number as u32 * 160, mulaw(number));
    }
    assert_eq!(numbers(&rig.samples()).len(), 100, "followed from its first packet");
    assert_eq!(rig.uplink.totals(), (0, Duration::ZERO, Duration::ZERO));
}

#[test]
fn garbage_never_panics_and_is_bounded() {
    let formats = [Format::OPUS, Format::PCMU, PCM24, Format { channels: 2, ..Format::pcm16(44_100) }];
    for seed in 1..=60_u64 {
        let mut random = Random::new(seed);
        let pick = |random: &mut Random| formats[random.below(4) as usize];
        let carriage = if seed % 3 == 0 { Carriage::Ordered } else { Carriage::Rtp };
        let mut rig = Rig::new(pick(&mut random), carriage, pick(&mut random));
        let mut at = 0;
        for step in 0..400_u64 {
            at += random.below(60) * MS * if random.below(50) == 0 { 200 } else { 1 };
            let size = [0, 1, 2, 3, 160, 500, 1500][random.below(7) as usize];
            let payload = Bytes::from((0..size).map(|_| random.below(256) as u8).collect::<Vec<u8>>());
            let rtp = (random.below(20) > 0).then(|| RtpMeta {
                seq: if random.below(10) == 0 { random.below(u64::MAX) } else { step + random.below(10) },
                timestamp: if random.below(3) == 0 { random.below(1 << 32) as u32 } else { step as u32 * 960 },
                marker: false,
                level: (random.below(2) == 0).then(|| random.below(256) as u8),
            });
            rig.audio(at, rtp, payload);
            match random.below(100) {
                0 => rig.uplink.set_link(None, Micros(rig.now)),
                1 => rig.link(pick(&mut random), carriage),
                2 => rig.uplink.set_agent(None, Micros(rig.now)),
                3 => rig.agent(pick(&mut random)),
                4 => rig.uplink.on_mic(random.below(2) == 0, Micros(rig.now)),
                _ => {}
            }
            rig.collect();
        }
        let most = at / MS / 20 * 3 + 400 * 260;
        assert!((rig.frames.len() as u64) < most, "seed {seed}: {} frames in {} ms", rig.frames.len(), at / MS);
    }
}
