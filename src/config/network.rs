//! Networks and web origins as values.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IP network in CIDR notation (RFC 4632), or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether `address` lies in it; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a network; write one like `10.0.0.0/8` or `192.0.2.7`");
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address = address.parse::<IpAddr>().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |b| b.parse().map_err(|_| wrong()))?;
        if bits > most { Err(wrong()) } else { Ok(Network { address, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Which web origins (RFC 6454) are allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum OriginRule {
    /// `localhost`, `*.localhost`, `127.0.0.0/8` and `[::1]`, with any scheme and port.
    Localhost,
    /// Any.
    Any,
    /// Exactly this one, in lower case, without default port.
    Exact(String),
    /// `scheme://*.domain[:port]`: every name below the domain; before and after the star.
    Below(String, String),
}

impl OriginRule {
    /// Whether the value of an `Origin` header is allowed. `null` never is, but by [`OriginRule::Any`].
    pub fn allows(&self, origin: &str) -> bool {
        let origin = origin.trim().to_ascii_lowercase();
        match self {
            OriginRule::Any => true,
            OriginRule::Exact(one) => *one == without_default_port(&origin),
            OriginRule::Below(scheme, domain) => {
                let origin = without_default_port(&origin);
                origin
                    .strip_prefix(scheme.as_str())
                    .and_then(|rest| rest.strip_suffix(domain.as_str()))
                    .is_some_and(|name| !name.is_empty() && !name.contains(['/', ':', '@']))
            }
            OriginRule::Localhost => url::Url::parse(&origin).is_ok_and(|url| match url.host() {
                Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
                Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                None => false,
            }),
        }
    }
}

fn without_default_port(origin: &str) -> &str {
    let port = if origin.starts_with("https:") { ":443" } else { ":80" };
    origin.strip_suffix(port).unwrap_or(origin)
}

impl FromStr for OriginRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not an origin; write `localhost`, `https://app.example.com`, `https://*.example.com` or `*`"
            )
        };
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "localhost" => return Ok(OriginRule::Localhost),
            "*" => return Ok(OriginRule::Any),
            _ => {}
        }
        let (_, host) = text.split_once("://").ok_or_else(wrong)?;
        if host.is_empty() || host.contains(['/', '?', '#', '@']) {
            return Err(wrong());
        }
        let text = without_default_port(&text);
        match text.split_once('*') {
            None => Ok(OriginRule::Exact(text.to_owned())),
            Some((scheme, domain)) if scheme.ends_with("://") && domain.starts_with('.') && !domain.contains('*') => {
                Ok(OriginRule::Below(scheme.to_owned(), domain.to_owned()))
            }
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for OriginRule {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<OriginRule> for String {
    fn from(rule: OriginRule) -> String {
        rule.to_string()
    }
}

impl fmt::Display for OriginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OriginRule::Localhost => f.write_str("localhost"),
            OriginRule::Any => f.write_str("*"),
            OriginRule::Exact(one) => f.write_str(one),
            OriginRule::Below(scheme, domain) => write!(f, "{scheme}*{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_mapped_ones_too() {
        let net: Network = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.255.1".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!net.contains("10.2.0.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
    }

    #[test]
    fn localhost_is_only_this_machine() {
        for good in ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:8080", "http://app.localhost"] {
            assert!(OriginRule::Localhost.allows(good), "{good}");
        }
        for bad in ["http://localhost.evil.com", "null", "http://127.0.0.1.evil.com", "https://example.com", ""] {
            assert!(!OriginRule::Localhost.allows(bad), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_names_below_a_domain_only() {
        let rule: OriginRule = "https://*.example.com".parse().unwrap();
        assert!(rule.allows("https://a.example.com") && rule.allows("https://A.B.Example.com:443"));
        for bad in
            ["https://example.com", "http://a.example.com", "https://evil.com/.example.com", "https://x@.example.com"]
        {
            assert!(!rule.allows(bad), "{bad}");
        }
        assert!("*.example.com".parse::<OriginRule>().is_err());
        assert!("https://a.example.com/x".parse::<OriginRule>().is_err());
    }
}
