//! What a WebSocket client has really received, learnt from pings behind the audio (RFC 6455 section 5.5.2).
//!
//! TCP acknowledgements stop at the client's kernel; a pong is written by its WebSocket library, in order, after it has
//! taken everything before the ping.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::time::Micros;

/// How often a ping follows the audio.
const AUDIO_PING: Duration = Duration::from_millis(100);
/// A frame that comes so much before or after that takes the ping along: alone it would cost a turn and a packet.
const ALONG: Duration = Duration::from_millis(10);
/// Pings without an answer; with so many, no more are sent.
const OUTSTANDING: usize = 128;
/// Position (4 bytes) and time of sending (8 bytes), big-endian.
const PAYLOAD: usize = 12;

/// Pings and pongs of one link.
#[derive(Debug)]
pub struct Acks {
    /// Ping after so long without audio.
    idle: Duration,
    /// The link is lost when a ping is not answered for so long.
    deadline: Duration,
    outstanding: VecDeque<(Micros, u32)>,
    pinged_at: Micros,
    /// End of the audio handed over, and what of it the last ping stands behind.
    handed: u32,
    pinged: u32,
    payload: BytesMut,
}

/// What an answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Everything before this position has been taken.
    pub pos: u32,
    /// Ping to pong.
    pub round_trip: Duration,
}

impl Acks {
    /// A link that is open since `now`.
    pub fn new(idle: Duration, deadline: Duration, now: Micros) -> Acks {
        Acks {
            idle,
            deadline,
            outstanding: VecDeque::with_capacity(OUTSTANDING),
            pinged_at: now,
            handed: 0,
            pinged: 0,
            payload: BytesMut::with_capacity(PAYLOAD * 64),
        }
    }

    /// Audio up to position `end` was handed over.
    pub fn on_audio(&mut self, end: u32) {
        self.handed = end;
    }

    /// When the next ping is due.
    fn due(&self) -> Option<Micros> {
        let wait = if self.handed == self.pinged { self.idle } else { (AUDIO_PING + ALONG).min(self.idle) };
        (self.outstanding.len() < OUTSTANDING).then(|| self.pinged_at + wait)
    }

    /// When something is to be done.
    pub fn next(&self) -> Option<Micros> {
        let expiry = self.outstanding.front().map(|&(sent, _)| sent + self.deadline);
        [self.due(), expiry].into_iter().flatten().min()
    }

    /// Whether a ping was not answered in time.
    pub fn is_lost(&self, now: Micros) -> bool {
        self.outstanding.front().is_some_and(|&(sent, _)| now - sent >= self.deadline)
    }

    /// The payload of a ping, if one is due.
    pub fn take_ping(&mut self, now: Micros) -> Option<Bytes> {
        (self.due()? <= now).then(|| self.ping(now))
    }

    /// The payload of a ping to go behind a frame that goes out now, if one is due or will be before the next frame.
    pub fn take_ping_along(&mut self, now: Micros) -> Option<Bytes> {
        (self.due()?.before(2 * ALONG) <= now).then(|| self.ping(now))
    }

    fn ping(&mut self, now: Micros) -> Bytes {
        self.pinged_at = now;
        self.pinged = self.handed;
        self.outstanding.push_back((now, self.handed));
        self.payload.reserve(PAYLOAD);
        self.payload.put_u32(self.handed);
        self.payload.put_u64(now.0);
        self.payload.split().freeze()
    }

    /// Takes an answer; `None` if no such ping is waiting. Earlier pings are answered by it too: a peer need only
    /// answer the latest (RFC 6455 section 5.5.3).
    pub fn on_pong(&mut self, payload: &[u8], now: Micros) -> Option<Ack> {
        let (pos, sent) = payload.split_at_checked(4)?;
        let pos = u32::from_be_bytes(pos.try_into().ok()?);
        let sent = Micros(u64::from_be_bytes(sent.try_into().ok()?));
        let index = self.outstanding.iter().position(|&ping| ping == (sent, pos))?;
        self.outstanding.drain(..=index);
        Some(Ack { pos, round_trip: now - sent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks() -> Acks {
        Acks::new(Duration::from_secs(15), Duration::from_secs(10), Micros::ZERO)
    }

    #[test]
    fn a_ping_follows_the_audio_every_100_ms_and_its_pong_acknowledges_it() {
        let mut acks = acks();
        acks.on_audio(960);
        assert_eq!(acks.take_ping_along(Micros::from_millis(80)), None);
        let first = acks.take_ping_along(Micros::from_millis(100)).unwrap();
        acks.on_audio(1920);
        assert_eq!(acks.next(), Some(Micros::from_millis(210)), "a frame may come and take it along");
        let second = acks.take_ping_along(Micros::from_millis(200)).unwrap();
        assert_eq!(acks.next(), Some(Micros::from_millis(10_100)), "nothing new to acknowledge");
        let ack = acks.on_pong(&second, Micros::from_millis(230)).unwrap();
        assert_eq!(ack, Ack { pos: 1920, round_trip: Duration::from_millis(30) });
        assert_eq!(acks.on_pong(&first, Micros::from_millis(231)), None, "answered by the later one");
    }

    #[test]
    fn a_pong_that_answers_nothing_is_ignored() {
        let mut acks = acks();
        acks.on_audio(960);
        assert_eq!(acks.take_ping(Micros::from_millis(109)), None);
        let ping = acks.take_ping(Micros::from_millis(110)).unwrap();
        let mut forged = ping.to_vec();
        forged[0] = 0xFF;
        assert_eq!(acks.on_pong(&forged, Micros::from_millis(115)), None);
        assert_eq!(acks.on_pong(b"hello", Micros::from_millis(115)), None);
        assert!(acks.on_pong(&ping, Micros::from_millis(120)).is_some());
    }

    #[test]
    fn a_client_that_answers_no_ping_is_lost() {
        let mut acks = acks();
        let idle = acks.next().unwrap();
        assert_eq!(idle, Micros::from_millis(15_000));
        acks.take_ping(idle).unwrap();
        assert!(!acks.is_lost(Micros::from_millis(24_999)));
        assert!(acks.is_lost(Micros::from_millis(25_000)));
    }
}
