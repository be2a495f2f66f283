//! Where a caller really is, when it comes through proxies: `Forwarded` (RFC 7239), `X-Forwarded-For`, or the PROXY
//! protocol, version 2. Only proxies of `http.trusted_proxies` are believed, and only in the one form that
//! `http.proxy_form` names: of the others anybody could have written any.

use std::io;
use std::net::IpAddr;

use hyper::header::HeaderMap;
use ppp::v2::{Addresses, Command, Header};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::config::network::Network;
use crate::config::settings::{HttpSettings, ProxyForm};

/// Bytes of a PROXY header at most: addresses, and some extensions.
const MAX_HEADER: usize = 1024;
/// The part of a PROXY header that says how long the rest is.
const FIXED: usize = 16;

/// The address of whoever sent a request to the outermost proxy that is trusted.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, settings: &HttpSettings) -> IpAddr {
    let name = match settings.proxy_form {
        ProxyForm::XForwardedFor => "x-forwarded-for",
        ProxyForm::Forwarded => "forwarded",
        ProxyForm::Proxy => return peer,
    };
    let trusted = |address: IpAddr| is_trusted(address, &settings.trusted_proxies);
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut known = peer;
    // The last entry is by the proxy that is nearest; each is as credible as whoever wrote it.
    for entry in values.iter().flat_map(|value| value.split(',')).rev() {
        if !trusted(known) {
            break;
        }
        let told = match settings.proxy_form {
            ProxyForm::Forwarded => parameter(entry, "for").and_then(node),
            _ => node(entry.trim()),
        };
        match told {
            Some(address) => known = address,
            None => break,
        }
    }
    known.to_canonical()
}

/// Whether a trusted proxy says that it was called by HTTPS.
pub(super) fn is_https(peer: IpAddr, headers: &HeaderMap, settings: &HttpSettings) -> bool {
    let last = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).next_back();
    let said = match settings.proxy_form {
        ProxyForm::XForwardedFor => last("x-forwarded-proto").map(str::trim),
        ProxyForm::Forwarded => last("forwarded").and_then(|value| parameter(value.rsplit(',').next()?, "proto")),
        ProxyForm::Proxy => None,
    };
    is_trusted(peer, &settings.trusted_proxies) && said.is_some_and(|said| said.eq_ignore_ascii_case("https"))
}

/// Whether what this address says of others is believed.
pub(super) fn is_trusted(address: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// A parameter of one element of `Forwarded`.
fn parameter<'e>(element: &'e str, name: &str) -> Option<&'e str> {
    element.split(';').map(str::trim).find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim().trim_matches('"'))
    })
}

/// An address, perhaps with a port (RFC 7239 section 6); names and `unknown` are none.
fn node(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6);
    }
    text.rsplit_once(':')?.0.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4)
}

/// Reads the PROXY header with which a connection of a trusted proxy begins. `None`: the proxy speaks for itself.
///
/// # Errors
/// If there is none. The caller keeps the deadline.
pub(super) async fn read_header(tcp: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut header = vec![0; FIXED];
    tcp.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if FIXED + length > MAX_HEADER {
        return Err(invalid(format!("a PROXY header of {length} bytes")));
    }
    header.resize(FIXED + length, 0);
    tcp.read_exact(&mut header[FIXED..]).await?;
    let header = Header::try_from(header.as_slice()).map_err(|error| invalid(format!("no PROXY header: {error}")))?;
    Ok(match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(told)) => Some(told.source_address.into()),
        (Command::Proxy, Addresses::IPv6(told)) => Some(IpAddr::from(told.source_address).to_canonical()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::settings::Settings;

    fn found(form: ProxyForm, peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted = ["127.0.0.0/8", "10.0.0.0/8"].map(|network| network.parse().unwrap()).to_vec();
        let settings = HttpSettings { proxy_form: form, trusted_proxies: trusted, ..Settings::default().http };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        address(peer.parse().unwrap(), &map, &settings).to_string()
    }

    #[test]
    fn only_the_form_that_the_proxy_writes_is_believed_and_only_from_the_proxy() {
        let both = [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=198.51.100.4;proto=https")];
        assert_eq!(found(ProxyForm::XForwardedFor, "10.0.0.1", &both), "203.0.113.9");
        assert_eq!(found(ProxyForm::Forwarded, "10.0.0.1", &both), "198.51.100.4");
        assert_eq!(found(ProxyForm::Proxy, "10.0.0.1", &both), "10.0.0.1");
        assert_eq!(found(ProxyForm::XForwardedFor, "192.0.2.1", &both), "192.0.2.1", "no proxy of ours");
    }

    #[test]
    fn what_a_client_wrote_before_the_first_trusted_proxy_does_not_count() {
        let forged = [("x-forwarded-for", "127.0.0.1, 203.0.113.9, 10.0.0.7")];
        assert_eq!(found(ProxyForm::XForwardedFor, "10.0.0.1", &forged), "203.0.113.9");
        let lines = [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(found(ProxyForm::XForwardedFor, "10.0.0.1", &lines), "203.0.113.9");
        assert_eq!(
            found(ProxyForm::XForwardedFor, "10.0.0.1", &[("x-forwarded-for", "unknown, 10.0.0.7")]),
            "10.0.0.7"
        );
        assert_eq!(found(ProxyForm::XForwardedFor, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn addresses_are_read_in_all_their_forms() {
        for (told, address) in [
            ("for=192.0.2.60", "192.0.2.60"),
            ("For=\"192.0.2.60:4711\"", "192.0.2.60"),
            ("proto=http; for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"[::ffff:192.0.2.60]\"", "192.0.2.60"),
            ("for=_hidden", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("by=203.0.113.43", "10.0.0.1"),
        ] {
            assert_eq!(found(ProxyForm::Forwarded, "10.0.0.1", &[("forwarded", told)]), address, "{told}");
        }
        let port = [("x-forwarded-for", "203.0.113.9:1234")];
        assert_eq!(found(ProxyForm::XForwardedFor, "10.0.0.1", &port), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_says_whether_it_was_called_by_https() {
        let said = |form, peer: &str, name: &'static str, value: &str| {
            let trusted = vec!["10.0.0.0/8".parse().unwrap()];
            let settings = HttpSettings { proxy_form: form, trusted_proxies: trusted, ..Settings::default().http };
            let map = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            is_https(peer.parse().unwrap(), &map, &settings)
        };
        assert!(said(ProxyForm::XForwardedFor, "10.0.0.1", "x-forwarded-proto", "https"));
        assert!(!said(ProxyForm::XForwardedFor, "10.0.0.1", "x-forwarded-proto", "http"));
        assert!(!said(ProxyForm::XForwardedFor, "192.0.2.1", "x-forwarded-proto", "https"));
        assert!(said(
            ProxyForm::Forwarded,
            "10.0.0.1",
            "forwarded",
            "for=1.2.3.4;proto=http, for=1.2.3.5; proto=HTTPS"
        ));
        assert!(!said(ProxyForm::Forwarded, "10.0.0.1", "x-forwarded-proto", "https"));
    }

    async fn read(bytes: &[u8]) -> io::Result<Option<IpAddr>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_header(&mut tcp).await
    }

    #[tokio::test]
    async fn a_proxy_header_says_who_calls_and_anything_else_is_refused() {
        let header = |command: u8, family: u8, rest: &[u8]| {
            let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
            bytes.extend([command, family]);
            bytes.extend((rest.len() as u16).to_be_bytes());
            bytes.extend(rest);
            bytes
        };
        let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        assert_eq!(read(&header(0x21, 0x11, &v4)).await.unwrap(), Some("203.0.113.9".parse().unwrap()));
        assert_eq!(read(&header(0x20, 0x00, &[])).await.unwrap(), None, "a health check of the proxy itself");
        assert!(read(&header(0x21, 0x11, &v4[..8])).await.is_err());
        assert!(read(&header(0x11, 0x11, &v4)).await.is_err(), "version 1 in disguise");
        assert!(read(&header(0x21, 0x11, &[0; 2000])).await.is_err());
        assert!(read(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.is_err());
        assert!(read(b"PROXY").await.is_err());
    }
}
