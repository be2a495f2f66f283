//! What the agent has said and the caller has not heard yet, kept once, as it came.
//!
//! Agents send faster than real time. The store keeps their audio as it came, by turn, until the caller has *heard* it;
//! what an agent of another format says next waits behind it. Audio that is on its way can be read again from any position that is still kept (after a lost link,
//! or after a pause that turned out to be none).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;

use crate::ids::TurnId;
use crate::media::format::Format;
use crate::time::Micros;

/// Memory for the playout stores of all sessions of a node, in bytes of coded audio.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub const fn new(limit: u64) -> Budget {
        Budget { used: AtomicU64::new(0), limit }
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn try_take(&self, bytes: u64) -> bool {
        let before = self.used.fetch_add(bytes, Relaxed);
        if before + bytes > self.limit {
            self.give_back(bytes);
            return false;
        }
        true
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// A piece of agent audio.
#[derive(Clone, Debug)]
struct Chunk {
    turn: TurnId,
    format: Format,
    /// Offset of its first tick within the turn.
    start: u64,
    ticks: u32,
    arrival: Micros,
    payload: Bytes,
}

impl Chunk {
    /// Offset of its end within the turn.
    fn end(&self) -> Duration {
        self.format.ticks_to_time(self.start + u64::from(self.ticks))
    }

    /// Nanoseconds that its first `ticks` take; these sums come out even whatever the clock.
    fn nanos(&self, ticks: u32) -> u64 {
        u64::from(ticks) * 1_000_000_000 / u64::from(self.format.clock())
    }
}

/// A run of audio read from the store: part of one chunk.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The turn.
    pub turn: TurnId,
    /// Offset of its first tick within the turn.
    pub start: u64,
    /// Its length in ticks of its format's clock.
    pub ticks: u32,
    /// When its last byte arrived.
    pub arrival: Micros,
    /// The coded audio: one packet for Opus.
    pub payload: Bytes,
}

/// The bounded playout store of one session.
#[derive(Debug)]
pub struct Playout {
    chunks: VecDeque<Chunk>,
    /// Index of the chunk that is read next, and the ticks of it that are read already.
    cursor: usize,
    offset: u32,
    /// Nanoseconds kept, and of these those not read yet.
    kept: u64,
    unread: u64,
    limit: u64,
    budget: Arc<Budget>,
}

impl Drop for Playout {
    fn drop(&mut self) {
        self.budget.give_back(self.chunks.iter().map(|chunk| chunk.payload.len() as u64).sum());
    }
}

impl Playout {
    /// An empty store that keeps at most `limit` and takes its memory from `budget`.
    pub fn new(limit: Duration, budget: Arc<Budget>) -> Playout {
        let limit = limit.as_nanos() as u64;
        Playout { chunks: VecDeque::new(), cursor: 0, offset: 0, kept: 0, unread: 0, limit, budget }
    }

    /// Keeps audio of `turn` that starts `start` ticks into it; all audio of a turn has one format.
    ///
    /// # Errors
    /// [`Full`] if the store's bound or the node's budget is reached: the audio is not kept.
    pub fn push(
        &mut self,
        turn: TurnId,
        format: Format,
        start: u64,
        ticks: u32,
        arrival: Micros,
        payload: Bytes,
    ) -> Result<(), Full> {
        let chunk = Chunk { turn, format, start, ticks, arrival, payload };
        let length = chunk.nanos(ticks);
        if self.kept + length > self.limit || !self.budget.try_take(chunk.payload.len() as u64) {
            return Err(Full);
        }
        self.kept += length;
        self.unread += length;
        self.chunks.push_back(chunk);
        Ok(())
    }

    /// Audio that was not read yet.
    pub fn depth(&self) -> Duration {
        Duration::from_nanos(self.unread)
    }

    /// The turn of the next piece.
    pub fn next_turn(&self) -> Option<TurnId> {
        self.chunks.get(self.cursor).map(|chunk| chunk.turn)
    }

    /// The format of the next piece.
    pub fn next_format(&self) -> Option<Format> {
        self.chunks.get(self.cursor).map(|chunk| chunk.format)
    }

    /// Reads on, at most `ticks` of the next chunk; Opus packets come whole whatever their length.
    pub fn read(&mut self, ticks: u32) -> Option<Piece> {
        let chunk = self.chunks.get(self.cursor)?;
        let left = chunk.ticks - self.offset;
        let (take, payload) = match chunk.format.bytes_per_sample() {
            None => (left, chunk.payload.clone()),
            Some(size) => {
                let take = left.min(ticks.max(1));
                let from = self.offset as usize * size;
                (take, chunk.payload.slice(from..from + take as usize * size))
            }
        };
        let piece = Piece {
            turn: chunk.turn,
            start: chunk.start + u64::from(self.offset),
            ticks: take,
            arrival: chunk.arrival,
            payload,
        };
        self.unread -= chunk.nanos(self.offset + take) - chunk.nanos(self.offset);
        self.offset += take;
        if self.offset >= chunk.ticks {
            self.cursor += 1;
            self.offset = 0;
        }
        Some(piece)
    }

    /// Forgets what was read and lies before `heard` of `turn`; audio of earlier turns that was read goes too.
    pub fn release(&mut self, turn: TurnId, heard: Duration) {
        while self.cursor > 0 {
            let Some(front) = self.chunks.front() else { break };
            if front.turn > turn || (front.turn == turn && front.end() > heard) {
                break;
            }
            self.kept -= front.nanos(front.ticks);
            self.budget.give_back(front.payload.len() as u64);
            self.chunks.pop_front();
            self.cursor -= 1;
        }
    }

    /// Goes back to `heard` of `turn`, or as far as is still kept; Opus goes back to a packet boundary.
    pub fn rewind(&mut self, turn: TurnId, heard: Duration) {
        while self.offset > 0 || self.cursor > 0 {
            if self.offset == 0 {
                let previous = &self.chunks[self.cursor - 1];
                if previous.turn < turn || (previous.turn == turn && previous.end() <= heard) {
                    break;
                }
                self.cursor -= 1;
                self.offset = previous.ticks;
            }
            let chunk = &self.chunks[self.cursor];
            let from_start = chunk.format.time_to_ticks(heard).saturating_sub(chunk.start);
            let keep = match chunk.format.bytes_per_sample() {
                Some(_) if chunk.turn == turn => from_start.min(chunk.ticks.into()) as u32,
                _ => 0,
            };
            if keep >= self.offset {
                break;
            }
            self.unread += chunk.nanos(self.offset) - chunk.nanos(keep);
            self.offset = keep;
            if keep > 0 {
                break;
            }
        }
    }

    /// Discards all audio up to and including `turn`; tells how much of it was not read yet.
    pub fn discard_through(&mut self, turn: TurnId) -> Duration {
        let mut unread = 0u64;
        while self.chunks.front().is_some_and(|front| front.turn <= turn) {
            let Some(chunk) = self.chunks.pop_front() else { break };
            self.kept -= chunk.nanos(chunk.ticks);
            self.budget.give_back(chunk.payload.len() as u64);
            if self.cursor > 0 {
                self.cursor -= 1;
            } else {
                unread += chunk.nanos(chunk.ticks) - chunk.nanos(self.offset);
                self.offset = 0;
            }
        }
        self.unread -= unread;
        Duration::from_nanos(unread)
    }

    /// Panics if the counts do not fit the chunks.
    #[cfg(any(test, debug_assertions))]
    pub fn check_invariants(&self) {
        let nanos = |chunk: &Chunk| chunk.nanos(chunk.ticks);
        let unread: u64 = self.chunks.iter().skip(self.cursor).map(nanos).sum();
        let read = self.chunks.get(self.cursor).map_or(0, |chunk| chunk.nanos(self.offset));
        assert_eq!(self.kept, self.chunks.iter().map(nanos).sum::<u64>(), "audio kept");
        assert_eq!(self.unread, unread - read, "unread audio");
        assert!(self.kept <= self.limit, "over the bound");
        assert!(self.cursor <= self.chunks.len() && (self.offset == 0 || self.cursor < self.chunks.len()));
    }
}

/// The store is at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format::pcm16(16_000);

    fn store(limit: Duration) -> Playout {
        Playout::new(limit, Arc::new(Budget::new(1 << 20)))
    }

    fn push(store: &mut Playout, turn: u32, start: u64, ticks: u32) {
        let bytes: Vec<u8> = (0..ticks as u64).flat_map(|i| ((start + i) as i16).to_le_bytes()).collect();
        store.push(TurnId(turn), FORMAT, start, ticks, Micros(start), bytes.into()).unwrap();
        store.check_invariants();
    }

    fn read(store: &mut Playout, ticks: u32) -> (u32, u64, u32) {
        let piece = store.read(ticks).unwrap();
        store.check_invariants();
        assert_eq!(piece.payload.len(), 2 * piece.ticks as usize);
        assert_eq!(i16::from_le_bytes([piece.payload[0], piece.payload[1]]), piece.start as i16);
        (piece.turn.0, piece.start, piece.ticks)
    }

    #[test]
    fn audio_is_read_in_order_across_chunks_and_turns() {
        let mut store = store(Duration::from_secs(1));
        push(&mut store, 1, 0, 500);
        push(&mut store, 1, 500, 100);
        push(&mut store, 2, 0, 320);
        assert_eq!(read(&mut store, 320), (1, 0, 320));
        assert_eq!(read(&mut store, 320), (1, 320, 180));
        assert_eq!(read(&mut store, 320), (1, 500, 100));
        assert_eq!(read(&mut store, 320), (2, 0, 320));
        assert!(store.read(320).is_none());
        assert_eq!(store.depth(), Duration::ZERO);
    }

    #[test]
    fn what_was_not_heard_can_be_read_again() {
        let mut store = store(Duration::from_secs(1));
        push(&mut store, 1, 0, 320);
        push(&mut store, 1, 320, 320);
        push(&mut store, 2, 0, 320);
        for _ in 0..3 {
            store.read(320);
        }
        store.release(TurnId(1), FORMAT.ticks_to_time(336));
        store.check_invariants();
        store.rewind(TurnId(1), FORMAT.ticks_to_time(400));
        store.check_invariants();
        assert_eq!(read(&mut store, 320), (1, 400, 240));
        assert_eq!(read(&mut store, 320), (2, 0, 320));
        store.release(TurnId(1), FORMAT.ticks_to_time(640));
        store.rewind(TurnId(1), Duration::ZERO);
        assert_eq!(read(&mut store, 320), (2, 0, 320), "what was heard is gone");
    }

    #[test]
    fn a_flush_discards_unread_audio_of_old_turns_only() {
        let mut store = store(Duration::from_secs(1));
        push(&mut store, 1, 0, 640);
        push(&mut store, 2, 0, 320);
        store.read(320);
        assert_eq!(store.discard_through(TurnId(1)), Duration::from_millis(20));
        store.check_invariants();
        assert_eq!(read(&mut store, 320), (2, 0, 320));
    }

    #[test]
    fn the_bound_holds() {
        let mut store = store(Duration::from_millis(100));
        push(&mut store, 1, 0, 1600);
        assert_eq!(store.push(TurnId(1), FORMAT, 1600, 1, Micros(0), Bytes::from_static(&[0, 0])), Err(Full));
    }

    #[test]
    fn any_order_of_reads_releases_and_rewinds_keeps_the_counts() {
        let mut store = store(Duration::from_secs(5));
        let (mut seed, mut turn, mut start) = (7u64, 1, 0);
        let formats = [FORMAT, Format::pcm16(44_100), Format::pcm16(22_050), Format::pcm16(24_000)];
        for _ in 0..20_000 {
            let format = formats[turn as usize % formats.len()];
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (op, amount) = ((seed >> 33) % 6, (seed >> 40) as u32 % 700 + 1);
            match op {
                0 | 1 => {
                    let audio = vec![0; 2 * amount as usize].into();
                    let kept = store.push(TurnId(turn), format, start, amount, Micros(0), audio).is_ok();
                    start += if kept { u64::from(amount) } else { 0 };
                }
                2 => drop(store.read(amount)),
                3 => store.release(TurnId(turn), format.ticks_to_time(u64::from(amount) * 8)),
                4 => store.rewind(TurnId(turn), format.ticks_to_time(u64::from(amount) * 8)),
                _ if amount < 30 => drop(store.discard_through(TurnId(turn))),
                _ if amount < 60 => (turn, start) = (turn + 1, 0),
                _ => {}
            }
            store.check_invariants();
        }
    }

    #[test]
    fn all_stores_of_a_node_share_one_budget_and_give_everything_back() {
        let budget = Arc::new(Budget::new(1_000));
        let mut first = Playout::new(Duration::from_secs(1), budget.clone());
        let mut second = Playout::new(Duration::from_secs(1), budget.clone());
        push(&mut first, 1, 0, 400);
        assert_eq!(second.push(TurnId(1), FORMAT, 0, 200, Micros(0), vec![0; 400].into()), Err(Full));
        push(&mut second, 1, 0, 100);
        first.read(400);
        first.release(TurnId(1), FORMAT.ticks_to_time(400));
        assert_eq!(budget.used(), 200);
        push(&mut second, 1, 100, 400);
        second.discard_through(TurnId(1));
        push(&mut first, 2, 0, 10);
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }
}
