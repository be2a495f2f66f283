//! The plain sections, from raw to checked.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::config::checker::Checker;
use crate::config::raw::{RawHttp, RawListen, RawLog, RawRuntime, RawWebrtc};
use crate::config::settings::{
    HttpSettings, IceServer, ListenSettings, LogSettings, RuntimeSettings, TlsSettings, WebrtcSettings, WebsocketLimits,
};
use crate::config::shape::OneOrMany;

/// How long TURN credentials of a call are valid, where nothing is set.
const TURN_TTL_S: u64 = 86_400;
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub fn listen(raw: &RawListen, check: &mut Checker<'_>) -> ListenSettings {
    let settings = ListenSettings {
        http: address(&["listen", "http"], &raw.http, check).unwrap_or(NOWHERE),
        control: address(&["listen", "control"], &raw.control, check).unwrap_or(NOWHERE),
        webrtc: address_or_off(&["listen", "webrtc"], &raw.webrtc, check),
        webrtc_public: each(&["listen", "webrtc_public"], &raw.webrtc_public, check),
        quic: address_or_off(&["listen", "quic"], &raw.quic, check),
    };
    let ListenSettings { http, control, webrtc, quic, .. } = settings;
    apart("TCP", &[("http", Some(http)), ("control", Some(control)), ("webrtc", webrtc)], check);
    apart("UDP", &[("webrtc", webrtc), ("quic", quic)], check);
    settings
}

/// Notes listeners of one protocol that want the same port. A listener on `[::]` leaves IPv4 to others.
fn apart(protocol: &str, listeners: &[(&str, Option<SocketAddr>)], check: &mut Checker<'_>) {
    let overlap = |a: SocketAddr, b: SocketAddr| {
        let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || wildcard && a.is_ipv4() == b.is_ipv4())
    };
    let listeners: Vec<(&str, SocketAddr)> = listeners.iter().filter_map(|(key, a)| Some((*key, (*a)?))).collect();
    for (at, &(key, address)) in listeners.iter().enumerate() {
        let Some(&(other, taken)) = listeners[..at].iter().find(|(_, taken)| overlap(*taken, address)) else {
            continue;
        };
        let message =
            format!("`listen.{other}` ({taken}) and `listen.{key}` ({address}) take the same {protocol} port");
        // Where one of the two is a default, the other one is to be shown.
        let shown = if check.is_set(&["listen", key]) { key } else { other };
        check.wrong(&["listen", shown], message, "give each listener a port of its own".to_owned());
    }
}

fn address_or_off(at: &[&str], text: &str, check: &mut Checker<'_>) -> Option<SocketAddr> {
    if text == "off" { None } else { address(at, text, check) }
}

fn address(at: &[&str], text: &str, check: &mut Checker<'_>) -> Option<SocketAddr> {
    let text = check.text(at, text)?;
    let parsed = text.parse::<SocketAddr>().ok();
    if parsed.is_none() {
        let help = match text.strip_prefix("localhost:").or(text.strip_prefix(':')) {
            Some(port) => {
                format!("write 127.0.0.1:{port} for this machine only, 0.0.0.0:{port} or [::]:{port} for all")
            }
            None => "write it like 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080; port 0 takes any free one".to_owned(),
        };
        check.wrong(at, format!("`{text}` is not an address with a port"), help);
    }
    parsed
}

/// Every item of a list that has a text form.
fn each<T: FromStr<Err: ToString>>(at: &[&str], list: &OneOrMany<String>, check: &mut Checker<'_>) -> Vec<T> {
    let items = list.0.iter().enumerate();
    items.filter_map(|(index, text)| check.parse(&[at, &[&index.to_string()]].concat(), text)).collect()
}

pub fn http(raw: &RawHttp, check: &mut Checker<'_>) -> HttpSettings {
    let tls = raw.tls.as_ref().and_then(|tls| {
        let mut file = |key: &str, text: &Option<String>| match text {
            Some(text) => check.file(&["http", "tls", key], text),
            None => {
                check.missing(&["http", "tls"], key, "TLS needs `cert` and `key`, both PEM files");
                None
            }
        };
        let (cert, key) = (file("cert", &tls.cert), file("key", &tls.key));
        Some(TlsSettings { cert: cert?.into(), key: key?.into() })
    });
    HttpSettings {
        tls,
        origins: each(&["http", "origins"], &raw.origins, check),
        cors_max_age: Duration::from_secs(raw.cors_max_age_s),
        trusted_proxies: each(&["http", "trusted_proxies"], &raw.trusted_proxies, check),
        proxy_form: raw.proxy_form,
        handshake: Duration::from_millis(raw.handshake_ms),
        start: Duration::from_millis(raw.start_ms),
        keep_alive: Duration::from_secs(raw.keep_alive_s),
        max_head_bytes: raw.max_head_bytes,
        max_headers: raw.max_headers,
        max_body_bytes: raw.max_body_bytes,
        max_connections: raw.max_connections,
        max_connections_per_address: raw.max_connections_per_address,
        max_handshakes: raw.max_handshakes,
        max_handshakes_per_address: raw.max_handshakes_per_address,
        websocket: WebsocketLimits {
            max_message_bytes: raw.websocket.max_message_bytes,
            max_write_bytes: raw.websocket.max_write_bytes,
            ping: Duration::from_secs(raw.websocket.ping_s),
            pong: Duration::from_secs(raw.websocket.pong_s),
        },
    }
}

pub fn runtime(raw: &RawRuntime) -> RuntimeSettings {
    RuntimeSettings {
        workers: raw.workers,
        max_sessions: raw.max_sessions,
        drain: Duration::from_secs(raw.drain_s),
        drain_spread: Duration::from_secs(raw.drain_spread_s),
        playout_bytes: raw.playout_mb << 20,
        limit_keys: raw.limit_keys,
    }
}

pub fn log(raw: &RawLog, check: &mut Checker<'_>) -> LogSettings {
    let is_level = |text: &str| text.parse::<tracing::level_filters::LevelFilter>().is_ok();
    let mut directives = raw.level.split(',').map(str::trim);
    if let Some(bad) = directives.find(|text| !is_level(text.rsplit_once('=').map_or(*text, |(_, level)| level))) {
        let help = "write a level (error warn info debug trace), or `info,antiphon::session=debug`".to_owned();
        check.wrong(&["log", "level"], format!("`{bad}` is not a log filter"), help);
    }
    if raw.call_record.is_empty() {
        let help = "write `log`, or the path of a file that gets one JSON line per call".to_owned();
        check.wrong(&["log", "call_record"], "an empty path".to_owned(), help);
    }
    LogSettings { format: raw.format, level: raw.level.clone(), call_record: raw.call_record.clone() }
}

pub fn webrtc(raw: &RawWebrtc, check: &mut Checker<'_>) -> WebrtcSettings {
    let servers = raw.ice_servers.iter().enumerate().map(|(index, server)| {
        let index = index.to_string();
        let at = |key| ["webrtc", "ice_servers", &index, key];
        if server.urls.0.is_empty() {
            check.missing(&["webrtc", "ice_servers", &index], "urls", "add `urls = \"stun:host:3478\"`");
        }
        for url in &server.urls.0 {
            if !["stun:", "stuns:", "turn:", "turns:"].iter().any(|scheme| url.starts_with(scheme)) {
                check.wrong(
                    &at("urls"),
                    format!("`{url}` is not a STUN or TURN URL"),
                    "like stun:host:3478".to_owned(),
                );
            }
        }
        IceServer {
            urls: server.urls.0.clone(),
            username: server.username.clone(),
            secret: server.secret.as_ref().and_then(|text| check.secret(&at("secret"), text)),
            ttl: Duration::from_secs(server.ttl_s.unwrap_or(TURN_TTL_S)),
            credential: server.credential.as_ref().and_then(|text| check.secret(&at("credential"), text)),
        }
    });
    let ice_servers = servers.collect();
    let grace = Duration::from_secs(raw.grace_s);
    WebrtcSettings { grace, ice_servers, certificate: raw.certificate.as_ref().map(Into::into) }
}
