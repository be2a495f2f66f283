//! Order in front of a decoder: gaps are waited for, nothing else is.
//!
//! An agent listens, it is not a loudspeaker: jitter is not smoothed. A packet that is next in sequence passes at
//! once; a missing one is waited for from the arrival of the first packet after it, then it is recovered from the
//! redundancy (LBRR) in its successor, or concealed. Redundancy at hand is not waited beyond for longer than this
//! network has lately delayed a packet past its successor: it is worse than the packet itself, and on a network that
//! keeps the order nothing but the packet's loss explains its absence. A timestamp jump without a sequence gap is DTX, not loss
//! (RFC 3550 section 5.1, RFC 7587 section 4.2). Restarted senders are followed after two packets in sequence
//! (RFC 3550 appendix A.1).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::route::plan::GapMode;
use crate::time::Micros;

/// The wait of [`GapMode::Accurate`]: time for a NACK and its answer on most paths.
pub const ACCURATE_WAIT: Duration = Duration::from_millis(200);
/// A sequence jump beyond this is a restarted sender, not loss (`MAX_DROPOUT` of RFC 3550 appendix A.1).
const MAX_DROPOUT: u64 = 3000;
/// Audio held behind a gap at most; beyond it the gap is given up.
const MAX_HELD: Duration = Duration::from_secs(2);
/// Packets held behind a gap at most.
const MAX_HELD_PACKETS: usize = 256;
/// Given-up sequence numbers that are remembered, to tell late packets from duplicates.
const REMEMBERED: usize = 256;
/// Only packets from the past for so long, the last ones in sequence: the sender has restarted.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// How many of them in sequence.
const RESTART_RUN: u32 = 5;
/// A timestamp further away than this says nothing.
const MAX_JUMP: Duration = Duration::from_secs(600);
/// What was seen of reordering counts for so long at least, and at most for twice as long.
const REORDERING_PERIOD: Duration = Duration::from_secs(5);
/// Longest Opus packet (RFC 6716 section 3.2.5), for timestamps that cannot be right.
const MAX_PACKET: Duration = Duration::from_millis(120);

/// One packet with what order needs to know of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sequence number, extended past 16 bits.
    pub seq: u64,
    /// Media timestamp in ticks of the format's clock, wrapping.
    pub timestamp: u32,
    /// When its last byte arrived.
    pub arrival: Micros,
    /// Its length in ticks of the format's clock; 0 for a packet without audio.
    pub ticks: u32,
    /// Whether it carries in-band FEC for its predecessor.
    pub lbrr: bool,
    /// RFC 6464 audio level in -dBov, if it was there.
    pub level: Option<u8>,
    /// The coded audio.
    pub payload: Bytes,
}

/// What comes out, in the order of the media. `ready` is the arrival of the last byte that it is made of.
#[derive(Clone, Debug)]
pub enum Ordered {
    /// The next packet.
    Packet(Packet),
    /// A lost packet, to be recovered from the redundancy in its successor, which follows.
    Recover {
        /// The packet with the redundancy.
        successor: Bytes,
        /// Length of the lost packet in ticks.
        ticks: u32,
        /// Arrival of the successor.
        ready: Micros,
    },
    /// Lost audio, to be made up.
    Conceal {
        /// How many packets.
        packets: u32,
        /// Their length in ticks.
        ticks: u32,
        /// Arrival of the packet after them.
        ready: Micros,
    },
    /// The sender sent nothing for this time: silence.
    DtxGap {
        /// Length in ticks.
        ticks: u32,
        /// Arrival of the packet after it.
        ready: Micros,
    },
    /// A gap has been filled or given up.
    GapEnded {
        /// How long the first packet after it waited.
        waited: Duration,
    },
    /// The sender has restarted: what follows is unrelated to what came before.
    Resync,
}

/// What became of a packet that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It will come out.
    Taken,
    /// It was there already.
    Duplicate,
    /// It had been given up: dropped.
    Late,
    /// Its number is far off. It is kept aside; if the next packet follows it, the sender has restarted.
    Stray,
}

/// Totals since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderCounters {
    /// Packets pushed.
    pub received: u64,
    /// Packets that were not there when their wait was over.
    pub given_up: u64,
    /// Of these, those recovered from their successor.
    pub recovered: u64,
    /// Of the given up, those that came after all. `given_up - late` never came.
    pub late: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets from before the first one, or with numbers far off.
    pub strays: u64,
    /// Times that the sender restarted.
    pub resyncs: u64,
    /// Gaps given up early, because too much was held behind them.
    pub overflows: u64,
}

/// How far this network has lately brought packets out of order.
#[derive(Debug, Default)]
struct Reordering {
    /// The most by which a packet came after its successor, in this period and in the one before.
    latest: Duration,
    before: Duration,
    period: Micros,
}

impl Reordering {
    fn on_overtaken(&mut self, by: Duration, at: Micros) {
        self.expire(at);
        self.latest = self.latest.max(by);
    }

    fn expire(&mut self, now: Micros) {
        if now - self.period >= REORDERING_PERIOD * 2 {
            (self.before, self.latest, self.period) = (Duration::ZERO, Duration::ZERO, now);
        } else if now - self.period >= REORDERING_PERIOD {
            (self.before, self.latest, self.period) = (self.latest, Duration::ZERO, now);
        }
    }

    /// How long a packet may still be under way after its successor came: a quarter more than lately seen.
    fn wait(&self) -> Duration {
        self.latest.max(self.before) * 5 / 4
    }
}

/// Puts packets in order.
#[derive(Debug)]
pub struct Order {
    mode: GapMode,
    wait: Duration,
    clock: u32,
    /// Next in sequence: number and timestamp; `None` before the first packet.
    next: Option<(u64, u32)>,
    /// The first number since the beginning or the last restart.
    first: u64,
    /// Length of the last packet with audio, in ticks.
    unit: u32,
    /// Held behind a gap, by number.
    held: VecDeque<Packet>,
    held_ticks: u64,
    /// Arrival of the first packet after the present gap.
    gap_since: Option<Micros>,
    last_taken: Micros,
    /// The last packet with a number far off or in the past, and how many came in sequence up to it.
    stray: Option<(Packet, u32)>,
    /// Given-up numbers, ascending, and since when each was waited for.
    given_up: VecDeque<(u64, Micros)>,
    reordering: Reordering,
    out: VecDeque<Ordered>,
    counters: OrderCounters,
}

impl Order {
    /// Order for a stream whose timestamps count `clock` ticks per second; `gap_wait` is the wait of
    /// [`GapMode::Fast`].
    pub fn new(mode: GapMode, gap_wait: Duration, clock: u32) -> Order {
        let wait = match mode {
            GapMode::Fast => gap_wait,
            GapMode::Accurate => ACCURATE_WAIT,
        };
        Order {
            mode,
            wait,
            clock,
            next: None,
            first: 0,
            unit: clock / 50,
            held: VecDeque::with_capacity(16),
            held_ticks: 0,
            gap_since: None,
            last_taken: Micros::ZERO,
            stray: None,
            given_up: VecDeque::with_capacity(16),
            reordering: Reordering::default(),
            out: VecDeque::with_capacity(16),
            counters: OrderCounters::default(),
        }
    }

    /// Takes a packet; then call [`Order::poll`] until it gives nothing.
    pub fn push(&mut self, packet: Packet) -> Pushed {
        self.counters.received += 1;
        let pushed = self.place(packet);
        match pushed {
            Pushed::Taken => {}
            Pushed::Duplicate => self.counters.duplicates += 1,
            Pushed::Late => self.counters.late += 1,
            Pushed::Stray => self.counters.strays += 1,
        }
        self.check_invariants();
        pushed
    }

    /// The next output at `now`.
    pub fn poll(&mut self, now: Micros) -> Option<Ordered> {
        if self.out.is_empty() {
            self.give_up_if_due(now);
            self.check_invariants();
        }
        self.out.pop_front()
    }

    /// When to call [`Order::poll`] although nothing arrived.
    pub fn deadline(&self) -> Option<Micros> {
        self.gap_since.map(|since| since + self.patience())
    }

    /// Ends every wait: what is held comes out at the next polls. For the end of a stream.
    pub fn flush(&mut self, now: Micros) {
        while self.gap_since.is_some() {
            self.give_up(now);
        }
        self.check_invariants();
    }

    /// Totals so far.
    pub fn counters(&self) -> OrderCounters {
        self.counters
    }

    /// How long the present gap is waited for.
    fn patience(&self) -> Duration {
        let recoverable = self.mode == GapMode::Fast
            && self.held.front().zip(self.next).is_some_and(|(head, (next, _))| head.lbrr && head.seq - next == 1);
        if recoverable { self.reordering.wait().min(self.wait) } else { self.wait }
    }

    fn place(&mut self, packet: Packet) -> Pushed {
        let Some((next, next_timestamp)) = self.next else {
            self.start_at(packet);
            return Pushed::Taken;
        };
        if packet.seq == next {
            self.last_taken = packet.arrival;
            self.stray = None;
            if let Some(since) = self.gap_since.take() {
                self.reordering.on_overtaken(packet.arrival - since, packet.arrival);
                self.out.push_back(Ordered::GapEnded { waited: packet.arrival - since });
            }
            self.release(packet);
            self.release_held();
            return Pushed::Taken;
        }
        if packet.seq > next && packet.seq - next <= MAX_DROPOUT {
            self.last_taken = packet.arrival;
            self.stray = None;
            return self.hold(packet);
        }
        let run = match &self.stray {
            Some((stray, run)) if stray.seq.wrapping_add(1) == packet.seq => run.saturating_add(1),
            _ => 1,
        };
        if self.has_restarted(&packet, run, next_timestamp) {
            self.restart_with(packet);
            return Pushed::Taken;
        }
        let pushed = self.judge_past(packet.seq, packet.arrival, next);
        self.stray = Some((packet, run));
        pushed
    }

    fn start_at(&mut self, packet: Packet) {
        self.first = packet.seq;
        self.last_taken = packet.arrival;
        self.next = Some((packet.seq, packet.timestamp));
        self.release(packet);
    }

    /// Keeps a packet that is ahead of its turn.
    fn hold(&mut self, packet: Packet) -> Pushed {
        let at = self.held.partition_point(|held| held.seq < packet.seq);
        if self.held.get(at).is_some_and(|held| held.seq == packet.seq) {
            return Pushed::Duplicate;
        }
        self.gap_since.get_or_insert(packet.arrival);
        self.held_ticks += u64::from(packet.ticks);
        self.held.insert(at, packet);
        Pushed::Taken
    }

    /// Whether `packet`, whose number is far off or in the past and the last of `run` in sequence, comes from a sender
    /// that has restarted.
    fn has_restarted(&self, packet: &Packet, run: u32, next_timestamp: u32) -> bool {
        let ahead = self.next.is_some_and(|(next, _)| packet.seq > next);
        let behind = self.signed_ticks(next_timestamp.wrapping_sub(packet.timestamp));
        let merely_late = !ahead && behind.is_some_and(|ticks| ticks >= 0);
        if merely_late { run >= RESTART_RUN && packet.arrival - self.last_taken >= RESTART_AFTER } else { run >= 2 }
    }

    fn restart_with(&mut self, packet: Packet) {
        self.flush(packet.arrival);
        self.counters.resyncs += 1;
        self.out.push_back(Ordered::Resync);
        self.given_up.clear();
        if let Some((stray, _)) = self.stray.take() {
            self.start_at(stray);
        }
        self.last_taken = packet.arrival;
        self.release(packet);
    }

    fn judge_past(&mut self, seq: u64, arrival: Micros, next: u64) -> Pushed {
        if let Ok(at) = self.given_up.binary_search_by_key(&seq, |&(seq, _)| seq) {
            if let Some((_, since)) = self.given_up.remove(at)
                && arrival - since <= self.wait
            {
                self.reordering.on_overtaken(arrival - since, arrival);
            }
            return Pushed::Late;
        }
        if seq < next && seq >= self.first && next - seq <= MAX_DROPOUT { Pushed::Duplicate } else { Pushed::Stray }
    }

    /// Lets the next packet in sequence out, after the DTX silence that its timestamp tells. Packets without audio
    /// (padding) say nothing about time.
    fn release(&mut self, packet: Packet) {
        let after = packet.seq.wrapping_add(1);
        let timestamp = self.next.map_or(packet.timestamp, |(_, timestamp)| timestamp);
        if packet.ticks == 0 {
            self.next = Some((after, timestamp));
            self.out.push_back(Ordered::Packet(packet));
            return;
        }
        if let Some(jump) = self.signed_ticks(packet.timestamp.wrapping_sub(timestamp))
            && jump > 0
        {
            self.out.push_back(Ordered::DtxGap { ticks: jump as u32, ready: packet.arrival });
        }
        self.next = Some((after, packet.timestamp.wrapping_add(packet.ticks)));
        self.unit = packet.ticks;
        self.out.push_back(Ordered::Packet(packet));
    }

    /// Lets out what has become next in sequence; a gap that remains is waited for from the first packet after it.
    fn release_held(&mut self) {
        while let Some((next, _)) = self.next
            && self.held.front().is_some_and(|held| held.seq == next)
            && let Some(packet) = self.held.pop_front()
        {
            self.held_ticks -= u64::from(packet.ticks);
            self.release(packet);
        }
        self.gap_since = self.held.iter().map(|held| held.arrival).min();
    }

    fn give_up_if_due(&mut self, now: Micros) {
        let Some(since) = self.gap_since else { return };
        self.reordering.expire(now);
        let held = Duration::from_micros(self.held_ticks * 1_000_000 / u64::from(self.clock));
        let overflow = held > MAX_HELD || self.held.len() > MAX_HELD_PACKETS;
        if overflow {
            self.counters.overflows += 1;
        }
        if overflow || now >= since + self.patience() {
            self.give_up(now);
        }
    }

    /// Gives up the packets before the first held one: FEC for the last of them if it can be had, PLC for the others.
    fn give_up(&mut self, now: Micros) {
        let (Some((next, timestamp)), Some(head)) = (self.next, self.held.front()) else {
            self.gap_since = None;
            return;
        };
        let lost = head.seq - next;
        let (lost_ticks, dtx_ticks) = self.span_of(lost, timestamp, head);
        let recovered_ticks = if head.lbrr { head.ticks.min(lost_ticks) } else { 0 };
        let concealed_ticks = lost_ticks - recovered_ticks;
        let (ready, head_timestamp) = (head.arrival, head.timestamp);
        let since = self.gap_since.unwrap_or(now);
        self.out.push_back(Ordered::GapEnded { waited: now - since });
        if concealed_ticks > 0 {
            let packets = lost as u32 - u32::from(recovered_ticks > 0);
            self.out.push_back(Ordered::Conceal { packets, ticks: concealed_ticks, ready });
        }
        if dtx_ticks > 0 {
            self.out.push_back(Ordered::DtxGap { ticks: dtx_ticks, ready });
        }
        if recovered_ticks > 0 {
            self.counters.recovered += 1;
            let successor = head.payload.clone();
            self.out.push_back(Ordered::Recover { successor, ticks: recovered_ticks, ready });
        }
        self.counters.given_up += lost;
        let (from, to) = (next.max(head.seq.saturating_sub(REMEMBERED as u64)), head.seq);
        for seq in from..to {
            if self.given_up.len() == REMEMBERED {
                self.given_up.pop_front();
            }
            self.given_up.push_back((seq, since));
        }
        self.next = Some((to, head_timestamp));
        self.release_held();
    }

    /// How much audio `lost` packets before `head` held, and how much silence lay between them, in ticks.
    fn span_of(&self, lost: u64, timestamp: u32, head: &Packet) -> (u32, u32) {
        let by_count = |unit: u32| lost.saturating_mul(u64::from(unit)).min(u64::from(u32::MAX)) as u32;
        let Some(jump) = self.signed_ticks(head.timestamp.wrapping_sub(timestamp)) else {
            return (by_count(self.unit), 0);
        };
        let jump = jump.max(0) as u32;
        let longest = (self.clock as u64 * MAX_PACKET.as_millis() as u64 / 1000) as u32;
        let most = by_count(self.unit.max(head.ticks).min(longest));
        if jump <= most {
            return (jump, 0);
        }
        let lost_ticks = by_count(self.unit.min(longest));
        (lost_ticks, jump - lost_ticks)
    }

    /// A wrapped difference of timestamps as a signed one; `None` if it is too far to mean anything.
    fn signed_ticks(&self, difference: u32) -> Option<i64> {
        let ticks = i64::from(difference as i32);
        (ticks.unsigned_abs() <= MAX_JUMP.as_secs() * u64::from(self.clock)).then_some(ticks)
    }

    /// Panics if the state contradicts itself.
    #[cfg(any(test, debug_assertions))]
    fn check_invariants(&self) {
        assert_eq!(self.gap_since.is_some(), !self.held.is_empty(), "a gap is known by what is held behind it");
        assert_eq!(self.held_ticks, self.held.iter().map(|p| u64::from(p.ticks)).sum::<u64>(), "held time adds up");
        if let (Some((next, _)), Some(head)) = (self.next, self.held.front()) {
            assert!(head.seq > next, "what is next in sequence never waits");
            assert!(self.held.iter().zip(self.held.iter().skip(1)).all(|(a, b)| a.seq < b.seq), "held in order");
        }
        assert!(self.given_up.len() <= REMEMBERED, "memory is bounded");
        assert!(self.counters.late <= self.counters.given_up, "only what was given up can be late");
    }

    #[cfg(not(any(test, debug_assertions)))]
    #[allow(clippy::unused_self, reason = "checks only in debug builds")]
    fn check_invariants(&self) {}
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const WAIT: Duration = Duration::from_millis(40);
    const TICKS: u32 = 960;

    fn packet(seq: u64, at: u64, lbrr: bool) -> Packet {
        let timestamp = (seq as u32).wrapping_mul(TICKS);
        let payload = Bytes::copy_from_slice(&seq.to_be_bytes());
        Packet { seq, timestamp, arrival: Micros::from_millis(at), ticks: TICKS, lbrr, level: None, payload }
    }

    fn fast() -> Order {
        Order::new(GapMode::Fast, WAIT, 48_000)
    }

    /// Everything that comes out at `now`, in short: numbers of packets, `r`ecovered, `c`oncealed, `d`tx, resync `!`.
    fn drain(order: &mut Order, now: u64) -> String {
        let mut text = Vec::new();
        while let Some(out) = order.poll(Micros::from_millis(now)) {
            text.push(match out {
                Ordered::Packet(packet) => packet.seq.to_string(),
                Ordered::Recover { ticks, .. } => format!("r{}", ticks / TICKS),
                Ordered::Conceal { packets, ticks, .. } => {
                    assert_eq!(packets * TICKS, ticks, "concealed as long as the packets lost");
                    format!("c{packets}")
                }
                Ordered::DtxGap { ticks, .. } => format!("d{}", ticks / TICKS),
                Ordered::GapEnded { .. } => continue,
                Ordered::Resync => "!".to_owned(),
            });
        }
        text.join(" ")
    }

    fn push(order: &mut Order, seq: u64, at: u64) -> String {
        order.push(packet(seq, at, false));
        drain(order, at)
    }

    #[test]
    fn what_is_next_in_sequence_passes_at_once() {
        let mut order = fast();
        for seq in 100..200 {
            assert_eq!(push(&mut order, seq, seq * 20), seq.to_string());
            assert_eq!(order.deadline(), None);
        }
    }

    #[test]
    fn a_reordered_packet_takes_its_place_and_the_wait_ends() {
        let mut order = fast();
        push(&mut order, 1, 0);
        assert_eq!(push(&mut order, 3, 20), "");
        assert_eq!(order.deadline(), Some(Micros::from_millis(60)));
        assert_eq!(push(&mut order, 2, 25), "2 3");
        assert_eq!(order.counters().given_up, 0);
    }

    #[test]
    fn a_gap_is_waited_for_from_the_first_packet_after_it() {
        let mut order = fast();
        push(&mut order, 1, 0);
        push(&mut order, 4, 60);
        push(&mut order, 5, 80);
        assert_eq!(drain(&mut order, 99), "");
        assert_eq!(drain(&mut order, 100), "c2 4 5");
        assert_eq!(order.deadline(), None);
    }

    #[test]
    fn one_lost_packet_is_recovered_at_once_where_the_successor_carries_it() {
        let mut order = fast();
        push(&mut order, 1, 0);
        order.push(packet(3, 40, true));
        assert_eq!(drain(&mut order, 40), "r1 3");
        assert_eq!(order.counters().recovered, 1);
        order.push(packet(6, 100, true));
        assert_eq!(drain(&mut order, 139), "", "two lost: the wait is on");
        assert_eq!(drain(&mut order, 140), "c1 r1 6");
        assert_eq!(order.counters(), OrderCounters { received: 3, given_up: 3, recovered: 2, ..Default::default() });
    }

    #[test]
    fn redundancy_waits_as_long_as_packets_have_lately_been_overtaken() {
        let mut order = fast();
        push(&mut order, 1, 0);
        order.push(packet(3, 40, true));
        assert_eq!(drain(&mut order, 40), "r1 3", "nothing is known of this network");
        assert_eq!(order.push(packet(2, 52, true)), Pushed::Late, "12 ms after its successor");
        order.push(packet(5, 80, true));
        assert_eq!(drain(&mut order, 94), "");
        assert_eq!(order.deadline(), Some(Micros::from_millis(95)));
        order.push(packet(4, 94, true));
        assert_eq!(drain(&mut order, 94), "4 5");
        order.push(packet(7, 200, true));
        assert_eq!(drain(&mut order, 217), "");
        assert_eq!(drain(&mut order, 218), "r1 7", "a quarter longer than 14 ms");
        order.push(packet(9, 12_000, true));
        assert_eq!(drain(&mut order, 12_000), "r1 9", "that was long ago");
    }

    #[test]
    fn redundancy_never_waits_longer_than_without_it() {
        let mut order = fast();
        push(&mut order, 1, 0);
        order.push(packet(3, 40, false));
        order.push(packet(2, 79, false));
        assert_eq!(drain(&mut order, 79), "2 3");
        order.push(packet(5, 100, true));
        assert_eq!(drain(&mut order, 139), "");
        assert_eq!(drain(&mut order, 140), "r1 5");
    }

    #[test]
    fn accurate_waits_200_ms_even_with_redundancy_at_hand() {
        let mut order = Order::new(GapMode::Accurate, WAIT, 48_000);
        push(&mut order, 1, 0);
        order.push(packet(3, 40, true));
        assert_eq!(drain(&mut order, 239), "");
        assert_eq!(drain(&mut order, 240), "r1 3");
    }

    #[test]
    fn late_packets_and_duplicates_are_dropped_and_told_apart() {
        let mut order = fast();
        push(&mut order, 1, 0);
        push(&mut order, 4, 60);
        assert_eq!(drain(&mut order, 100), "c2 4");
        assert_eq!(order.push(packet(2, 101, false)), Pushed::Late);
        assert_eq!(order.push(packet(2, 102, false)), Pushed::Duplicate);
        assert_eq!(order.push(packet(4, 103, false)), Pushed::Duplicate);
        assert_eq!(drain(&mut order, 104), "");
        let counters = order.counters();
        assert_eq!((counters.given_up, counters.late, counters.duplicates), (2, 1, 2));
        push(&mut order, 6, 110);
        assert_eq!(order.push(packet(6, 111, false)), Pushed::Duplicate, "of a held packet");
    }

    #[test]
    fn a_timestamp_jump_without_a_sequence_gap_is_dtx() {
        let mut order = fast();
        push(&mut order, 1, 0);
        let mut after = packet(2, 420, false);
        after.timestamp = 21 * TICKS;
        order.push(after);
        assert_eq!(drain(&mut order, 420), "d19 2");
        assert_eq!(order.counters().given_up, 0);
    }

    #[test]
    fn loss_inside_of_dtx_conceals_only_the_packets_lost() {
        let mut order = fast();
        push(&mut order, 1, 0);
        let mut after = packet(3, 420, true);
        after.timestamp = 21 * TICKS;
        order.push(after);
        assert_eq!(drain(&mut order, 420), "d18 r1 3");
    }

    #[test]
    fn timestamps_and_numbers_wrap_without_a_seam() {
        let mut order = fast();
        let start = 65_530_u64;
        for seq in start..start + 20 {
            let mut next = packet(seq, seq * 20, false);
            next.timestamp = 0_u32.wrapping_sub(5 * TICKS).wrapping_add((seq - start) as u32 * TICKS);
            order.push(next);
            assert_eq!(drain(&mut order, seq * 20), seq.to_string());
        }
    }

    #[test]
    fn a_restarted_sender_is_followed_after_two_packets_and_nothing_is_concealed() {
        for restart in [5_u64, 40_000] {
            let mut order = fast();
            for seq in 10_000..10_010 {
                push(&mut order, seq, seq);
            }
            let mut one = packet(restart, 20_000, false);
            one.timestamp = 0x7000_0000;
            let mut two = packet(restart + 1, 20_020, false);
            two.timestamp = 0x7000_0000 + TICKS;
            assert_eq!(order.push(one), Pushed::Stray);
            assert_eq!(drain(&mut order, 20_000), "");
            assert_eq!(order.push(two), Pushed::Taken);
            assert_eq!(drain(&mut order, 20_020), format!("! {restart} {}", restart + 1));
        }
    }

    #[test]
    fn one_wild_number_does_not_disturb_the_stream() {
        let mut order = fast();
        push(&mut order, 1, 0);
        assert_eq!(push(&mut order, u64::MAX, 10), "");
        assert_eq!(push(&mut order, 2, 20), "2");
        assert_eq!(order.counters().resyncs, 0);
    }

    #[test]
    fn a_sender_that_counts_from_the_start_again_is_followed_after_a_second() {
        let mut order = fast();
        for seq in 0..500 {
            push(&mut order, seq, seq * 20);
        }
        let heard = (0..100).position(|seq| !push(&mut order, seq, 10_000 + seq * 20).is_empty());
        assert_eq!(heard, Some(49), "the last packet came at 9980 ms");
    }

    #[test]
    fn a_huge_gap_makes_one_span_and_the_memory_stays_bounded() {
        let mut order = fast();
        push(&mut order, 1, 0);
        push(&mut order, 2_900, 58_000);
        assert_eq!(drain(&mut order, 58_040), "c2898 2900");
        assert_eq!(order.counters().given_up, 2898);
        for seq in 2_902..3_400 {
            order.push(packet(seq, 58_050, false));
            drain(&mut order, 58_050);
            assert!(order.held.len() <= MAX_HELD_PACKETS);
        }
        assert_eq!(order.counters().overflows, 1, "too much behind the gap: given up early");
    }

    #[test]
    fn padding_without_audio_says_nothing_about_time() {
        let mut order = fast();
        push(&mut order, 1, 0);
        let mut padding = packet(2, 5, false);
        (padding.ticks, padding.timestamp) = (0, TICKS);
        order.push(padding);
        let mut after = packet(3, 20, false);
        after.timestamp = 2 * TICKS;
        order.push(after);
        assert_eq!(drain(&mut order, 20), "2 3");
    }

    struct Random(u64);
    impl Random {
        fn next(&mut self, below: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) % below
        }
    }

    /// A minute over a network with 5 % loss, 30 ms jitter and 2 % duplication; the seed is in every message.
    fn minute(seed: u64, redundancy: bool) {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut network = Vec::new();
        let mut sent_and_arrived = BTreeMap::new();
        for seq in 0..3000_u64 {
            if seq > 0 && random.next(100) < 5 {
                continue;
            }
            let at = if seq == 0 { 0 } else { seq * 20_000 + random.next(30_000) };
            sent_and_arrived.insert(seq, at);
            network.push((at, seq));
            if random.next(100) < 2 {
                network.push((at + random.next(50_000), seq));
            }
        }
        network.sort_unstable();
        let mut order = fast();
        let mut out_at = BTreeMap::new();
        let (mut concealed, mut recovered) = (0_u64, 0_u64);
        let mut expected = 0_u64;
        let mut collect = |order: &mut Order, now: u64| {
            while let Some(out) = order.poll(Micros(now)) {
                match out {
                    Ordered::Packet(packet) => {
                        assert_eq!(packet.timestamp, (expected as u32) * TICKS, "seed {seed}: time runs on");
                        assert!(out_at.insert(packet.seq, now).is_none(), "seed {seed}: {} twice", packet.seq);
                        expected += 1;
                    }
                    Ordered::Recover { ticks, .. } => {
                        recovered += u64::from(ticks / TICKS);
                        expected += u64::from(ticks / TICKS);
                    }
                    Ordered::Conceal { ticks, .. } => {
                        concealed += u64::from(ticks / TICKS);
                        expected += u64::from(ticks / TICKS);
                    }
                    Ordered::DtxGap { .. } | Ordered::Resync => panic!("seed {seed}: {out:?}"),
                    Ordered::GapEnded { waited } => assert!(waited <= WAIT, "seed {seed}: waited {waited:?}"),
                }
            }
        };
        for &(at, seq) in &network {
            while let Some(deadline) = order.deadline().filter(|deadline| deadline.0 <= at) {
                collect(&mut order, deadline.0);
            }
            let mut next = packet(seq, 0, redundancy);
            next.arrival = Micros(at);
            order.push(next);
            collect(&mut order, at);
        }
        order.flush(Micros(network[network.len() - 1].0));
        collect(&mut order, network[network.len() - 1].0);
        let counters = order.counters();
        assert_eq!(counters.given_up, concealed + recovered, "seed {seed}");
        let mut before_all_there = 0;
        for (&seq, &at) in &sent_and_arrived {
            let Some(&out) = out_at.get(&seq) else { continue };
            let predecessor = seq.checked_sub(1).map_or(Some(0), |previous| out_at.get(&previous).copied());
            if predecessor.is_some_and(|before| before <= at) {
                assert_eq!(out, at, "seed {seed}: {seq} was next in sequence and waited");
                before_all_there += 1;
            }
            assert!(out <= at + 40_000, "seed {seed}: {seq} waited {} us", out - at);
        }
        assert!(before_all_there > 2000, "seed {seed}: only {before_all_there} of 3000 were in order");
        let never_came = 3000 - sent_and_arrived.len() as u64;
        let tail = 3000 - expected;
        assert_eq!(counters.given_up - counters.late, never_came - tail, "seed {seed}: lost is what never came");
        assert_eq!(out_at.len() as u64 + counters.late, sent_and_arrived.len() as u64, "seed {seed}");
    }

    #[test]
    fn under_loss_jitter_and_duplication_nothing_in_order_waits_and_no_gap_waits_too_long() {
        for seed in 1..40 {
            minute(seed, false);
            minute(seed, true);
        }
    }

    #[test]
    fn wild_packets_never_panic() {
        for seed in 1..50_u64 {
            let mut random = Random(seed);
            let mut order = fast();
            for step in 0..2000_u64 {
                let seq = match random.next(4) {
                    0 => random.next(u64::MAX),
                    1 => u64::MAX - random.next(5),
                    _ => step + random.next(50),
                };
                let mut next = packet(seq, step * random.next(40), random.next(2) == 0);
                next.timestamp = random.next(1 << 32) as u32;
                next.ticks = if random.next(3) == 0 { random.next(1 << 20) as u32 } else { TICKS };
                order.push(next);
                while order.poll(Micros::from_millis(step * 20)).is_some() {}
            }
            order.flush(Micros::from_millis(1_000_000));
        }
    }
}
