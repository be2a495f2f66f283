//! Whether an agent's server is still there: one that has died without a word leaves a connection that looks well.

use std::time::Duration;

use crate::time::Micros;

/// How long the answer to a ping may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Pings (RFC 6455 section 5.5.2) of one connection from which nothing comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    silence: Duration,
    last: Micros,
    pinged: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing yet.
    Wait,
    /// Send a ping.
    Ping,
    /// It was not answered: the server is gone.
    Lost,
}

impl Heartbeat {
    /// A connection that is open since `now`; a ping follows `silence`.
    pub fn new(silence: Duration, now: Micros) -> Heartbeat {
        Heartbeat { silence, last: now, pinged: false }
    }

    /// Something came, whatever it was.
    pub fn on_received(&mut self, now: Micros) {
        (self.last, self.pinged) = (now, false);
    }

    /// When [`Heartbeat::beat`] is to be called.
    pub fn next(&self) -> Micros {
        self.last + self.silence + if self.pinged { ANSWER } else { Duration::ZERO }
    }

    /// What is due now.
    pub fn beat(&mut self, now: Micros) -> Beat {
        if now < self.next() {
            return Beat::Wait;
        }
        if std::mem::replace(&mut self.pinged, true) { Beat::Lost } else { Beat::Ping }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_followed_by_a_ping_and_its_answer_or_anything_else_is_a_sign_of_life() {
        let at = Micros::from_millis;
        let mut heartbeat = Heartbeat::new(Duration::from_secs(10), at(0));
        assert_eq!((heartbeat.beat(at(9_999)), heartbeat.beat(at(10_000))), (Beat::Wait, Beat::Ping));
        heartbeat.on_received(at(10_030));
        assert_eq!(heartbeat.next(), at(20_030));
        assert_eq!(heartbeat.beat(at(20_100)), Beat::Ping);
        assert_eq!((heartbeat.beat(at(25_000)), heartbeat.beat(at(25_100))), (Beat::Wait, Beat::Lost));
    }
}
