//! How much each address may do in a time (GCRA, by ITU-T I.371), for so many addresses as fit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::time::Micros;

/// Addresses that are remembered at most; beyond it those that may do everything again are forgotten.
pub const MAX_ADDRESSES: usize = 8192;

/// Counts by address.
#[derive(Debug)]
pub struct Allowance {
    /// Time that one act costs, and that may be spent ahead.
    cost: Duration,
    ahead: Duration,
    /// Until when each address has spent its time.
    spent: Mutex<HashMap<IpAddr, Micros>>,
}

impl Allowance {
    /// Lets each address do `amount` things in `span`, and so many at once as `ahead` holds.
    pub fn new(amount: u32, span: Duration, ahead: Duration) -> Allowance {
        Allowance { cost: span / amount.max(1), ahead, spent: Mutex::default() }
    }

    /// Spends for one act; how long the address has to wait if it has nothing left. An address that does not fit into the
    /// memory waits too.
    ///
    /// # Errors
    /// The wait.
    pub fn spend(&self, address: IpAddr, now: Micros) -> Result<(), Duration> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= MAX_ADDRESSES {
            spent.retain(|_, until| *until > now);
        }
        let place = place(address);
        let until = spent.get(&place).copied().unwrap_or(now).max(now);
        let over = (until - now + self.cost).saturating_sub(self.ahead);
        if !over.is_zero() {
            return Err(over);
        }
        if spent.len() >= MAX_ADDRESSES && !spent.contains_key(&place) {
            return Err(self.cost);
        }
        spent.insert(place, until + self.cost);
        Ok(())
    }

    /// How long an address has to wait until it could spend again; nothing is spent.
    ///
    /// # Errors
    /// The wait.
    pub fn check(&self, address: IpAddr, now: Micros) -> Result<(), Duration> {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let until = spent.get(&place(address)).copied().unwrap_or(now).max(now);
        let over = (until - now + self.cost).saturating_sub(self.ahead);
        if over.is_zero() { Ok(()) } else { Err(over) }
    }
}

/// Whoever has an IPv6 address has the 2^64 others of its network (RFC 4291 section 2.5.1).
pub fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn an_address_that_has_spent_its_time_waits_and_others_do_not() {
        let allowance = Allowance::new(30, Duration::from_secs(60), Duration::from_secs(20));
        let now = Micros::from_millis(1000);
        for _ in 0..10 {
            allowance.check(ANN, now).unwrap();
            allowance.spend(ANN, now).unwrap();
        }
        assert_eq!(allowance.check(ANN, now), Err(Duration::from_secs(2)));
        assert_eq!(allowance.spend(ANN, now), Err(Duration::from_secs(2)));
        assert_eq!(allowance.check(BOB, now), Ok(()));
        let later = now + Duration::from_secs(2);
        assert_eq!(allowance.check(ANN, later), Ok(()), "whoever waits may try again");
        allowance.spend(ANN, later).unwrap();
        assert!(allowance.check(ANN, later).is_err());
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let allowance = Allowance::new(1, Duration::from_secs(1), Duration::from_secs(2));
        let address = |number: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(number));
        for number in 0..MAX_ADDRESSES as u32 {
            allowance.spend(address(number), Micros::ZERO).unwrap();
        }
        assert!(allowance.spend(address(u32::MAX), Micros::ZERO).is_err());
        allowance.spend(address(u32::MAX), Micros::from_millis(1001)).unwrap();
        assert_eq!(allowance.spent.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(place(one), place("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(place(one), place("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(place("::ffff:192.0.2.1".parse().unwrap()), ANN);
    }
}
