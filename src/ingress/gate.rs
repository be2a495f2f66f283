//! Caps on connections: in all, per address, on handshakes per worker and per address, and on WebRTC answers that wait for
//! their peer per address. What is taken is given back on drop. A trusted proxy has no cap of its own: those for whom it speaks have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::proxy;
use crate::config::settings::HttpSettings;
use crate::runtime::admission::allowance::place;
use crate::telemetry::Refusal;

/// Counts what is connected.
#[derive(Debug, Default)]
pub struct Gate {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    addresses: Places,
    handshakes: HashMap<usize, u32>,
    shaking: Places,
    parked: Places,
}

/// So many of each address.
#[derive(Debug, Default)]
struct Places(HashMap<IpAddr, u32>);

impl Places {
    fn has(&self, place: IpAddr, most: u32) -> bool {
        self.0.get(&place).is_some_and(|count| *count >= most)
    }

    fn enter(&mut self, place: IpAddr) {
        *self.0.entry(place).or_default() += 1;
    }

    fn leave(&mut self, place: IpAddr) {
        if let Some(count) = self.0.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&place);
            }
        }
    }
}

/// The address as it is counted; a trusted proxy's is not.
fn counted(address: IpAddr, caps: &HttpSettings) -> Option<IpAddr> {
    (!proxy::is_trusted(address, &caps.trusted_proxies)).then(|| place(address))
}

impl Gate {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection from `address`.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn connect(self: &Arc<Self>, address: IpAddr, caps: &HttpSettings) -> Result<Connected, Refusal> {
        let place = counted(address, caps);
        let mut counts = self.counts();
        if counts.all >= caps.max_connections {
            return Err(Refusal::Connections);
        }
        if place.is_some_and(|place| counts.addresses.has(place, caps.max_connections_per_address)) {
            return Err(Refusal::Address);
        }
        place.into_iter().for_each(|place| counts.addresses.enter(place));
        counts.all += 1;
        Ok(Connected { gate: self.clone(), place, itself: true })
    }

    /// Counts a connection of `peer` for `address`, for which it speaks; nothing if it speaks for itself.
    ///
    /// # Errors
    /// If the address has too many.
    pub fn connect_behind(
        self: &Arc<Self>,
        peer: IpAddr,
        address: IpAddr,
        caps: &HttpSettings,
    ) -> Result<Option<Connected>, Refusal> {
        let Some(place) = counted(address, caps).filter(|_| address != peer.to_canonical()) else { return Ok(None) };
        let mut counts = self.counts();
        if counts.addresses.has(place, caps.max_connections_per_address) {
            return Err(Refusal::Address);
        }
        counts.addresses.enter(place);
        Ok(Some(Connected { gate: self.clone(), place: Some(place), itself: false }))
    }

    /// Counts a handshake of `address` on a worker.
    ///
    /// # Errors
    /// If the worker or the address has too many.
    pub fn shake(self: &Arc<Self>, worker: usize, address: IpAddr, caps: &HttpSettings) -> Result<Handshake, Refusal> {
        let place = counted(address, caps);
        let mut counts = self.counts();
        if counts.handshakes.get(&worker).is_some_and(|count| *count >= caps.max_handshakes) {
            return Err(Refusal::Handshakes);
        }
        if place.is_some_and(|place| counts.shaking.has(place, caps.max_handshakes_per_address)) {
            return Err(Refusal::AddressHandshakes);
        }
        place.into_iter().for_each(|place| counts.shaking.enter(place));
        *counts.handshakes.entry(worker).or_default() += 1;
        Ok(Handshake { gate: self.clone(), worker, place })
    }

    /// Counts an answer of `address` that waits for its peer.
    ///
    /// # Errors
    /// If the address has too many.
    pub fn park(self: &Arc<Self>, address: IpAddr, caps: &HttpSettings) -> Result<Waiting, Refusal> {
        let place = counted(address, caps);
        let mut counts = self.counts();
        if place.is_some_and(|place| counts.parked.has(place, caps.max_handshakes_per_address)) {
            return Err(Refusal::AddressHandshakes);
        }
        place.into_iter().for_each(|place| counts.parked.enter(place));
        Ok(Waiting { gate: self.clone(), place })
    }

    /// Handshakes on a worker.
    pub fn shaking(&self, worker: usize) -> u32 {
        self.counts().handshakes.get(&worker).copied().unwrap_or_default()
    }
}

/// One counted connection.
#[derive(Debug)]
pub struct Connected {
    gate: Arc<Gate>,
    place: Option<IpAddr>,
    /// Counted by itself, not beside the connection of a proxy.
    itself: bool,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        counts.all -= u32::from(self.itself);
        self.place.into_iter().for_each(|place| counts.addresses.leave(place));
    }
}

/// One counted handshake.
#[derive(Debug)]
pub struct Handshake {
    gate: Arc<Gate>,
    worker: usize,
    place: Option<IpAddr>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        if let Some(of_worker) = counts.handshakes.get_mut(&self.worker) {
            *of_worker -= 1;
        }
        self.place.into_iter().for_each(|place| counts.shaking.leave(place));
    }
}

/// One counted answer.
#[derive(Debug)]
pub struct Waiting {
    gate: Arc<Gate>,
    place: Option<IpAddr>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.gate.counts();
        self.place.into_iter().for_each(|place| counts.parked.leave(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    const fn v4(last: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn a_cap_holds_and_what_ends_is_given_back() {
        let mut caps = Settings::default().http;
        (caps.max_connections, caps.max_connections_per_address, caps.max_handshakes) = (3, 2, 1);
        let gate = Arc::new(Gate::default());
        let (ann, bob): (IpAddr, _) = ("2001:db8::1".parse().unwrap(), v4(1));
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let first = gate.connect(ann, &caps).unwrap();
        let _second = gate.connect(neighbour, &caps).unwrap();
        assert_eq!(gate.connect(ann, &caps).unwrap_err(), Refusal::Address);
        let _third = gate.connect(bob, &caps).unwrap();
        assert_eq!(gate.connect(bob, &caps).unwrap_err(), Refusal::Connections);
        drop(first);
        gate.connect(ann, &caps).unwrap();

        let shaking = gate.shake(0, ann, &caps).unwrap();
        assert_eq!(gate.shake(0, bob, &caps).unwrap_err(), Refusal::Handshakes);
        gate.shake(1, bob, &caps).unwrap();
        drop(shaking);
        gate.shake(0, ann, &caps).unwrap();
    }

    #[test]
    fn one_address_cannot_take_all_handshakes() {
        let mut caps = Settings::default().http;
        (caps.max_handshakes, caps.max_handshakes_per_address) = (10, 2);
        let gate = Arc::new(Gate::default());
        let _one = gate.shake(0, v4(1), &caps).unwrap();
        let two = gate.shake(1, v4(1), &caps).unwrap();
        assert_eq!(gate.shake(0, v4(1), &caps).unwrap_err(), Refusal::AddressHandshakes);
        gate.shake(0, v4(2), &caps).unwrap();
        drop(two);
        gate.shake(0, v4(1), &caps).unwrap();
    }

    #[test]
    fn one_address_cannot_take_all_places_of_answers() {
        let mut caps = Settings::default().http;
        caps.max_handshakes_per_address = 2;
        let gate = Arc::new(Gate::default());
        let _one = gate.park(v4(1), &caps).unwrap();
        let two = gate.park(v4(1), &caps).unwrap();
        assert_eq!(gate.park(v4(1), &caps).unwrap_err(), Refusal::AddressHandshakes);
        gate.park(v4(2), &caps).unwrap();
        drop(two);
        gate.park(v4(1), &caps).unwrap();
    }

    #[test]
    fn those_behind_a_proxy_are_counted_in_its_place() {
        let mut caps = Settings::default().http;
        (caps.max_connections_per_address, caps.trusted_proxies) = (1, vec!["10.0.0.0/8".parse().unwrap()]);
        let gate = Arc::new(Gate::default());
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let _connections: Vec<_> = (0..5).map(|_| gate.connect(proxy, &caps).unwrap()).collect();
        let ann = gate.connect_behind(proxy, v4(1), &caps).unwrap();
        assert_eq!(gate.connect_behind(proxy, v4(1), &caps).unwrap_err(), Refusal::Address);
        assert!(gate.connect_behind(proxy, v4(2), &caps).unwrap().is_some());
        assert!(gate.connect_behind(proxy, proxy, &caps).unwrap().is_none());
        drop(ann);
        assert!(gate.connect_behind(proxy, v4(1), &caps).unwrap().is_some());
        assert_eq!(gate.counts().all, 5);
    }
}
