//! What is counted apart from what: a limit together with a user, a tenant, an address, a route, an agent.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use crate::config::settings::LimitKey;

/// Names one cell of one limit, the same on every node. It tells nothing of whom it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u128);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Key {
    /// From a name and the parts that it is counted by.
    pub fn of<'a>(name: &str, parts: impl IntoIterator<Item = (&'static str, &'a [u8])>) -> Key {
        let mut hash = Context::new(&SHA256);
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(name.as_bytes());
        for (kind, value) in parts {
            add(kind.as_bytes());
            add(value);
        }
        let digest = hash.finish();
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_ref()[..16]);
        Key(u128::from_le_bytes(half))
    }
}

/// A client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4.
    V4(u32),
    /// IPv6.
    V6(u128),
}

impl Address {
    /// The network that it belongs to, by the length of its prefix in either family.
    pub const fn network(self, v4: u8, v6: u8) -> Address {
        match self {
            Address::V4(_) if v4 == 0 => Address::V4(0),
            Address::V4(bits) => Address::V4(bits >> (32 - v4) << (32 - v4)),
            Address::V6(_) if v6 == 0 => Address::V6(0),
            Address::V6(bits) => Address::V6(bits >> (128 - v6) << (128 - v6)),
        }
    }

    fn bytes(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        match self {
            Address::V4(bits) => bytes[13..].copy_from_slice(&bits.to_be_bytes()),
            Address::V6(bits) => {
                bytes[0] = 1;
                bytes[1..].copy_from_slice(&bits.to_be_bytes());
            }
        }
        bytes
    }
}

/// Whom a call is counted against.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The user; whoever has none is counted by address.
    pub user: Option<&'a str>,
    /// The tenant; all who have none are counted together.
    pub tenant: Option<&'a str>,
    /// The client's address.
    pub address: Address,
    /// The route.
    pub route: &'a str,
    /// The first agent of the plan.
    pub agent: &'a str,
}

impl Subject<'_> {
    /// The cell of a limit for it. `prefixes`: how much of an address counts, of IPv4 and IPv6.
    pub fn key(&self, name: &str, by: &[LimitKey], prefixes: (u8, u8)) -> Key {
        let network = self.address.network(prefixes.0, prefixes.1).bytes();
        Key::of(
            name,
            by.iter().map(|kind| match (kind, self.user) {
                (LimitKey::User, Some(user)) => ("user", user.as_bytes()),
                (LimitKey::User, None) | (LimitKey::Ip, _) => ("ip", &network[..]),
                (LimitKey::Tenant, _) => ("tenant", self.tenant.unwrap_or_default().as_bytes()),
                (LimitKey::Route, _) => ("route", self.route.as_bytes()),
                (LimitKey::Agent, _) => ("agent", self.agent.as_bytes()),
            }),
        )
    }
}
