//! Who may begin a QUIC handshake: each address so many in a second, and under pressure only who has proved its address
//! (RFC 9000 section 8.1.2).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::ingress::gate::place;
use crate::time::Micros;

/// Addresses that are remembered at most; beyond it those that may do everything again are forgotten.
const MAX_ADDRESSES: usize = 8192;
/// So many seconds' worth may come at once.
const BURST_S: u64 = 2;

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
pub(super) struct Turnstile {
    /// Time that a handshake costs, and that may be spent ahead.
    cost: Duration,
    ahead: Duration,
    /// Until when each address has spent its time (GCRA).
    spent: Mutex<HashMap<IpAddr, Micros>>,
}

impl Turnstile {
    /// Lets each address begin `rate` handshakes in a second.
    pub(super) fn new(rate: u32) -> Turnstile {
        let cost = Duration::from_secs(1) / rate.max(1);
        Turnstile { cost, ahead: Duration::from_secs(BURST_S), spent: Mutex::default() }
    }

    /// Judges a handshake. An address that was not `proven` may be forged: it is asked for the proof instead of being
    /// counted, once it has spent its time or the worker is `pressed`.
    pub(super) fn judge(&self, address: IpAddr, proven: bool, pressed: bool, now: Micros) -> Judgement {
        if pressed && !proven {
            return Judgement::Prove;
        }
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= MAX_ADDRESSES {
            spent.retain(|_, until| *until > now);
        }
        let full = spent.len() >= MAX_ADDRESSES;
        let place = place(address);
        let until = spent.get(&place).copied().unwrap_or(now).max(now);
        if until - now + self.cost > self.ahead || (full && !spent.contains_key(&place)) {
            return if proven { Judgement::Refuse } else { Judgement::Prove };
        }
        spent.insert(place, until + self.cost);
        Judgement::Enter
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

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let turnstile = Turnstile::new(1);
        let address = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
        for number in 0..MAX_ADDRESSES as u32 {
            assert_eq!(turnstile.judge(address(number), false, false, Micros::ZERO), Judgement::Enter);
        }
        assert_eq!(turnstile.judge(address(u32::MAX), false, false, Micros::ZERO), Judgement::Prove);
        let later = Micros::from_millis(1001);
        assert_eq!(turnstile.judge(address(u32::MAX), false, false, later), Judgement::Enter);
        assert_eq!(turnstile.spent.lock().unwrap().len(), 1);
    }
}
