//! HTTP/1.1 requests of the public listener. Errors are problem details (RFC 9457).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::connection::Shared;
use super::webrtc::signalling;
use super::websocket::{Head, Realtime, Upgrade};
use super::{admit, agents, assets};
use crate::config::settings::{HttpSettings, Settings};
use crate::dialect::native::SUBPROTOCOL;
use crate::dialect::openai;
use crate::session::Transport;
use crate::telemetry::Refusal;

/// Where sessions are opened.
pub(super) const SESSION_PATH: &str = "/v1/session";
/// Where clients of the OpenAI Realtime wire open theirs.
pub(super) const REALTIME_PATH: &str = "/v1/realtime";
/// When a client that was refused for want of room may come again, in seconds.
const RETRY_AFTER_S: u32 = 5;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) async fn respond(shared: &Shared, mut request: Request<Incoming>) -> Answer {
    shared.on_request();
    let in_force = shared.node.in_force.load_full();
    if let Some(asset) = asset(&in_force.settings, &request) {
        // Files are no secret, and browsers name an origin for the scripts of our own page too.
        shared.on_plain();
        return asset.answer(request.headers(), host(request.headers()));
    }
    let settings = &in_force.settings.http;
    let origin = request.headers().get(header::ORIGIN).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let allowed = origin.as_deref().is_none_or(|origin| settings.origins.iter().any(|rule| rule.allows(origin)));
    let mut answer = if !allowed {
        shared.on_plain();
        shared.node.telemetry.node().record_refusal(Refusal::Origin);
        problem(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this Origin is not allowed here; add it to `http.origins` in the configuration",
        )
    } else if [SESSION_PATH, REALTIME_PATH].contains(&request.uri().path()) && request.method() == Method::GET {
        upgrade(shared, &mut request)
    } else if signalling::serves(request.uri().path()) {
        shared.on_plain();
        if request.method() == Method::OPTIONS {
            signalling::describe(preflight(settings), request.uri().path())
        } else {
            signalling::respond(shared, request).await
        }
    } else {
        shared.on_plain();
        plain(shared, &in_force.settings, &request)
    };
    if let Some(origin) = origin.filter(|_| allowed).and_then(|origin| HeaderValue::try_from(origin).ok()) {
        answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static("etag, link, location");
        answer.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        answer.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    answer
}

fn asset(settings: &Settings, request: &Request<Incoming>) -> Option<&'static assets::Asset> {
    let path = request.uri().path();
    let wanted = matches!(*request.method(), Method::GET | Method::HEAD);
    let demo = settings.demo.enabled && (path != "/" || wants_html(request.headers()));
    wanted.then(|| assets::find(path, demo)).flatten()
}

fn plain(shared: &Shared, settings: &Settings, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if ![SESSION_PATH, REALTIME_PATH, "/v1/endpoints", "/v1/agents", "/"].contains(&path) {
        return problem(StatusCode::NOT_FOUND, "not_found", "there is nothing here; GET / tells what this is");
    }
    match *request.method() {
        Method::OPTIONS => preflight(&settings.http),
        Method::GET | Method::HEAD if path == "/" => index(shared, request.headers()),
        Method::GET | Method::HEAD if path == "/v1/endpoints" => {
            json(StatusCode::OK, "application/json", &endpoints(shared, request.headers()))
        }
        Method::GET | Method::HEAD if path == "/v1/agents" => {
            json(StatusCode::OK, "application/json", &reachable(shared, request))
        }
        _ => {
            let detail = "this address takes GET only";
            let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            answer
        }
    }
}

fn preflight(settings: &HttpSettings) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PATCH, DELETE, OPTIONS"));
    let names = HeaderValue::from_static("authorization, content-type, if-match");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(settings.cors_max_age.as_secs()));
    answer
}

/// Where WebSockets are opened, as this client reaches us.
fn websocket_url(shared: &Shared, headers: &HeaderMap) -> String {
    base_url(shared, headers).replacen("http", "ws", 1) + SESSION_PATH
}

/// The base of all URLs as this client reaches us.
fn base_url(shared: &Shared, headers: &HeaderMap) -> String {
    let bound = shared.node.bound.get().map(|bound| bound.http.to_string());
    let scheme = if shared.encrypted { "https" } else { "http" };
    format!("{scheme}://{}", host(headers).map(str::to_owned).or(bound).unwrap_or_default())
}

/// The `Host` header, if it can be shown.
fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_host(host))
}

/// Whether a `Host` header can be shown in a page or an address as it is.
fn is_host(host: &str) -> bool {
    host.len() <= 255 && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
}

fn endpoints(shared: &Shared, headers: &HeaderMap) -> serde_json::Value {
    let realtime = base_url(shared, headers).replacen("http", "ws", 1) + REALTIME_PATH;
    let mut endpoints = serde_json::json!({ "websocket": websocket_url(shared, headers), "openai": realtime });
    if shared.webrtc.is_some() {
        endpoints["webrtc"] = format!("{}{}", base_url(shared, headers), signalling::NATIVE_PATH).into();
        endpoints["whip"] = format!("{}{}", base_url(shared, headers), signalling::WHIP_PATH).into();
    }
    if let Some(bound) = shared.node.bound.get().and_then(|bound| bound.quic) {
        let pinned = shared.node.certificates.pin().is_some();
        let place = quic_place(bound, host(headers).map(without_port), pinned);
        let mut add = |transport: &str, key: &str, place: String| {
            endpoints[transport][key] = place.into();
            if let Some(pin) = shared.node.certificates.pin() {
                endpoints[transport]["cert_sha256"] = pin.to_string().into();
            }
        };
        add("webtransport", "url", format!("https://{place}{SESSION_PATH}"));
        add("quic", "addr", place);
    }
    endpoints
}

/// Where QUIC is, for a client that knows us as `name`. It may be told an address instead where the certificate is known
/// by its hash and not by its name: of `localhost` browsers try one address only, which may be that of the other family.
fn quic_place(bound: SocketAddr, name: Option<&str>, pinned: bool) -> String {
    match name {
        Some(name) if !(pinned && (bound.ip().is_loopback() || name == "localhost")) => {
            format!("{name}:{}", bound.port())
        }
        _ if bound.ip().is_unspecified() && bound.is_ipv4() => format!("127.0.0.1:{}", bound.port()),
        _ if bound.ip().is_unspecified() => format!("[::1]:{}", bound.port()),
        _ => bound.to_string(),
    }
}

/// The name in a `Host` header.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// The agents that this client reaches without credentials. A page that asks from here will name itself as the origin of
/// its sessions.
fn reachable(shared: &Shared, request: &Request<Incoming>) -> serde_json::Value {
    let in_force = shared.node.in_force.load();
    let region = in_force.settings.node.region.clone();
    let mut asked = admit::route_request(shared.peer, Head::new(request), region);
    let scheme = if shared.encrypted { "https" } else { "http" };
    asked.origin = asked.origin.or_else(|| Some(format!("{scheme}://{}", asked.host.as_deref()?)));
    asked.path = SESSION_PATH.to_owned();
    let quic = shared.node.bound.get().is_some_and(|bound| bound.quic.is_some());
    let offered = [
        Some(Transport::Websocket),
        shared.webrtc.is_some().then_some(Transport::Webrtc),
        quic.then_some(Transport::Quic),
        quic.then_some(Transport::Webtransport),
    ];
    let offered: Vec<_> = offered.into_iter().flatten().collect();
    agents::list(&in_force.settings, &in_force.router, &asked, &offered, shared.node.clock.unix_seconds(Duration::ZERO))
}

fn wants_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

fn index(shared: &Shared, headers: &HeaderMap) -> Answer {
    let url = websocket_url(shared, headers);
    let start = r#"{"type":"start","agent":"echo"}"#;
    let (kind, text) = if wants_html(headers) {
        let page = format!(
            "<!doctype html><meta charset=utf-8><title>antiphon</title>\n<h1>antiphon</h1>\n\
             <p>A media relay for voice AI. Open a WebSocket to <code>{url}</code> with subprotocol \
             <code>{SUBPROTOCOL}</code>, send <code>{start}</code> as text, then one audio frame per binary message.</p>\n\
             <p>From a terminal: <code>antiphon call</code>. Machines read <a href=/v1/endpoints>/v1/endpoints</a>.</p>\n"
        );
        ("text/html; charset=utf-8", page)
    } else {
        let text = format!(
            "antiphon: a media relay for voice AI.\n\n\
             Open a WebSocket to {url} with subprotocol {SUBPROTOCOL},\n\
             send {start} as text, then one audio frame per binary message.\n\
             From a terminal: antiphon call. Machines read /v1/endpoints.\n"
        );
        ("text/plain; charset=utf-8", text)
    };
    let mut answer = Response::new(Full::from(text));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// The opening handshake of RFC 6455 section 4.2.
fn upgrade(shared: &Shared, request: &mut Request<Incoming>) -> Answer {
    let refuse = |refusal, answer| {
        shared.on_plain();
        shared.node.telemetry.node().record_refusal(refusal);
        answer
    };
    let headers = request.headers();
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let websocket = has(header::UPGRADE, "websocket") && has(header::CONNECTION, "upgrade");
    let (Some(key), true, true) = (key, websocket, has(header::SEC_WEBSOCKET_VERSION, "13")) else {
        let detail = "a session is a WebSocket: send an upgrade request of version 13 (RFC 6455)";
        let mut answer = problem(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail);
        answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return refuse(Refusal::BadRequest, answer);
    };
    let offers = headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let realtime = (request.uri().path() == REALTIME_PATH).then(|| Realtime::new(request));
    let spoken = if realtime.is_some() { openai::SUBPROTOCOL } else { SUBPROTOCOL };
    let chosen = has(header::SEC_WEBSOCKET_PROTOCOL, spoken);
    if offers && !chosen {
        let detail = format!("none of the subprotocols is spoken here; offer `{spoken}`");
        return refuse(Refusal::BadRequest, problem(StatusCode::BAD_REQUEST, "unknown_subprotocol", &detail));
    }
    if shared.node.is_draining() {
        return refuse(Refusal::Draining, busy("draining", "this node is going down; connect again"));
    }
    if shared.node.refuses_connections() {
        return refuse(Refusal::Overload, busy("overloaded", "this node has no room for another session"));
    }
    let head = Head::new(request);
    shared.on_upgrade(Upgrade { pending: hyper::upgrade::on(request), head, realtime, at: shared.node.clock.now() });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.extend(HeaderValue::try_from(key).ok().map(|key| (header::SEC_WEBSOCKET_ACCEPT, key)));
    if chosen {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(spoken));
    }
    answer
}

pub(super) fn busy(code: &str, detail: &str) -> Answer {
    let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    answer
}

pub(super) fn problem(status: StatusCode, code: &str, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let body = serde_json::json!({ "title": title, "status": status.as_u16(), "code": code, "detail": detail });
    json(status, "application/problem+json", &body)
}

pub(super) fn json(status: StatusCode, kind: &'static str, body: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::from(format!("{body}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_on_this_machine_is_told_an_address_and_others_the_name_that_they_know() {
        let place = |bound: &str, name, pinned| quic_place(bound.parse().unwrap(), name, pinned);
        assert_eq!(place("127.0.0.1:8083", Some("localhost"), true), "127.0.0.1:8083");
        assert_eq!(place("[::1]:8083", Some("localhost"), true), "[::1]:8083");
        assert_eq!(place("0.0.0.0:8083", Some("localhost"), true), "127.0.0.1:8083");
        assert_eq!(place("[::]:8083", Some("localhost"), true), "[::1]:8083");
        assert_eq!(place("0.0.0.0:8083", Some("relay.example"), true), "relay.example:8083");
        assert_eq!(place("10.0.0.5:8083", Some("relay.example"), true), "relay.example:8083");
        assert_eq!(place("127.0.0.1:8083", Some("localhost"), false), "localhost:8083", "its certificate has a name");
        assert_eq!(place("127.0.0.1:8083", None, false), "127.0.0.1:8083");
    }
}
