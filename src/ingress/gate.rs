//! Caps on connections: in all, per address, and on handshakes per worker. What is taken is given back on drop.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::settings::HttpSettings;
use crate::telemetry::Refusal;

/// Counts what is connected.
#[derive(Debug, Default)]
pub struct Gate {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    addresses: HashMap<IpAddr, u32>,
    handshakes: HashMap<usize, u32>,
}

impl Gate {
    /// Counts a connection from `address`.
    ///
    /// # Errors
    /// The cap that is reached.
    pub fn connect(self: &Arc<Self>, address: IpAddr, caps: &HttpSettings) -> Result<Connected, Refusal> {
        let place = place(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= caps.max_connections {
            return Err(Refusal::Connections);
        }
        let of_address = counts.addresses.entry(place).or_default();
        if *of_address >= caps.max_connections_per_address {
            return Err(Refusal::Address);
        }
        *of_address += 1;
        counts.all += 1;
        Ok(Connected { gate: self.clone(), place })
    }

    /// Counts a handshake on a worker.
    ///
    /// # Errors
    /// If the worker has too many.
    pub fn shake(self: &Arc<Self>, worker: usize, caps: &HttpSettings) -> Result<Handshake, Refusal> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_worker = counts.handshakes.entry(worker).or_default();
        if *of_worker >= caps.max_handshakes {
            return Err(Refusal::Handshakes);
        }
        *of_worker += 1;
        Ok(Handshake { gate: self.clone(), worker })
    }

    /// Handshakes on a worker.
    pub fn shaking(&self, worker: usize) -> u32 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.handshakes.get(&worker).copied().unwrap_or_default()
    }
}

/// Whoever has an IPv6 address has the 2^64 others of its network (RFC 4291 section 2.5.1).
pub(super) fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// One counted connection.
#[derive(Debug)]
pub struct Connected {
    gate: Arc<Gate>,
    place: IpAddr,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut counts = self.gate.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(of_address) = counts.addresses.get_mut(&self.place) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.addresses.remove(&self.place);
            }
        }
    }
}

/// One counted handshake.
#[derive(Debug)]
pub struct Handshake {
    gate: Arc<Gate>,
    worker: usize,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut counts = self.gate.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_worker) = counts.handshakes.get_mut(&self.worker) {
            *of_worker -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    #[test]
    fn a_cap_holds_and_what_ends_is_given_back() {
        let mut caps = Settings::default().http;
        (caps.max_connections, caps.max_connections_per_address, caps.max_handshakes) = (3, 2, 1);
        let gate = Arc::new(Gate::default());
        let [ann, bob]: [IpAddr; 2] = ["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let first = gate.connect(ann, &caps).unwrap();
        let _second = gate.connect(neighbour, &caps).unwrap();
        assert_eq!(gate.connect(ann, &caps).unwrap_err(), Refusal::Address);
        let _third = gate.connect(bob, &caps).unwrap();
        assert_eq!(gate.connect(bob, &caps).unwrap_err(), Refusal::Connections);
        drop(first);
        gate.connect(ann, &caps).unwrap();

        let shaking = gate.shake(0, &caps).unwrap();
        assert_eq!(gate.shake(0, &caps).unwrap_err(), Refusal::Handshakes);
        gate.shake(1, &caps).unwrap();
        drop(shaking);
        gate.shake(0, &caps).unwrap();
    }
}
