//! Who may begin a QUIC handshake: each address so many in a second, and under pressure only who has proved its address
//! (RFC 9000 section 8.1.2).

use std::net::IpAddr;
use std::time::Duration;

use crate::runtime::admission::allowance::Allowance;
use crate::time::Micros;

/// So many seconds' worth may come at once.
const BURST: Duration = Duration::from_secs(2);

/// What to do with a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Take it.
    Enter,
    /// Let the client prove its address first.
    Prove,
    /// Turn it away.
    Refuse,
}

/// Counts handshakes by address, for all workers.
#[derive(Debug)]
pub(super) struct Turnstile(Allowance);

impl Turnstile {
    /// Lets each address begin `rate` handshakes in a second.
    pub(super) fn new(rate: u32) -> Turnstile {
        Turnstile(Allowance::new(rate, Duration::from_secs(1), BURST))
    }

    /// Judges a handshake. An address that was not `proven` may be forged: it is asked for the proof instead of being
    /// counted, once it has spent its time or the worker is `pressed`.
    pub(super) fn judge(&self, address: IpAddr, proven: bool, pressed: bool, now: Micros) -> Judgement {
        if pressed && !proven {
            return Judgement::Prove;
        }
        match self.0.spend(address, now) {
            Ok(()) => Judgement::Enter,
            Err(_) if proven => Judgement::Refuse,
            Err(_) => Judgement::Prove,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn an_address_that_comes_too_often_has_to_prove_itself_and_is_then_turned_away_alone() {
        let turnstile = Turnstile::new(10);
        let now = Micros::from_millis(1000);
        for _ in 0..20 {
            assert_eq!(turnstile.judge(ANN, false, false, now), Judgement::Enter);
        }
        assert_eq!(turnstile.judge(ANN, false, false, now), Judgement::Prove);
        assert_eq!(turnstile.judge(ANN, true, false, now), Judgement::Refuse);
        assert_eq!(turnstile.judge(BOB, false, false, now), Judgement::Enter);
        let later = Micros::from_millis(1100);
        assert_eq!(turnstile.judge(ANN, true, false, later), Judgement::Enter);
        assert_eq!(turnstile.judge(ANN, true, false, later), Judgement::Refuse);
    }

    #[test]
    fn under_pressure_everybody_proves_their_address() {
        let turnstile = Turnstile::new(10);
        assert_eq!(turnstile.judge(ANN, false, true, Micros::ZERO), Judgement::Prove);
        assert_eq!(turnstile.judge(ANN, true, true, Micros::ZERO), Judgement::Enter);
    }
}
