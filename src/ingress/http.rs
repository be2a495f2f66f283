//! HTTP/1.1 requests of the public listener. Errors are problem details (RFC 9457).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::admit::Refused;
use super::connection::Shared;
use super::webrtc::signalling;
use super::websocket::{Head, Realtime, Upgrade};
use super::{admit, agents, assets, credentials, mint};
use crate::auth::{Denied, Use};
use crate::config::settings::{HttpSettings, Settings};
use crate::dialect::native::SUBPROTOCOL;
use crate::dialect::openai;
use crate::message::{Error, ErrorCode};
use crate::session::Transport;
use crate::telemetry::Refusal;

/// Where sessions are opened.
pub(super) const SESSION_PATH: &str = "/v1/session";
/// Where clients of the OpenAI Realtime wire open theirs.
pub(super) const REALTIME_PATH: &str = "/v1/realtime";
/// When a client that was refused for want of room may come again, in seconds.
const RETRY_AFTER_S: u32 = 5;
/// How long a request's body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

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
        match known_enough(shared, &request).await {
            Ok(()) => upgrade(shared, &mut request),
            Err(answer) => answer,
        }
    } else if mint::serves(request.uri().path()) {
        shared.on_plain();
        if request.method() == Method::OPTIONS { preflight(settings) } else { mint::respond(shared, request).await }
    } else if signalling::serves(request.uri().path()) {
        shared.on_plain();
        if request.method() == Method::OPTIONS {
            signalling::describe(preflight(settings), request.uri().path())
        } else {
            signalling::respond(shared, request).await
        }
    } else {
        shared.on_plain();
        plain(shared, &in_force.settings, &request).await
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

async fn plain(shared: &Shared, settings: &Settings, request: &Request<Incoming>) -> Answer {
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
        Method::GET | Method::HEAD if path == "/v1/agents" => match reachable(shared, request).await {
            Ok(agents) => json(StatusCode::OK, "application/json", &agents),
            Err(refused) => refusal_of(shared, &refused),
        },
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
    let names = HeaderValue::from_static("authorization, content-type, if-match, x-openai-agents-sdk");
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
    let scheme = if shared.is_encrypted(headers) { "https" } else { "http" };
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

/// The agents that this client reaches by the credentials that it shows. A page that asks from here will name itself as the origin of
/// its sessions.
async fn reachable(shared: &Shared, request: &Request<Incoming>) -> Result<serde_json::Value, Refused> {
    let in_force = shared.node.in_force.load_full();
    let region = in_force.settings.node.region.clone();
    let head = Head::new(shared, request);
    let known = credentials::identify(&shared.node, head.address, &head.shown, None, Use::Start).await?;
    let mut asked = admit::route_request(head, region, &known.principal);
    let scheme = if shared.is_encrypted(request.headers()) { "https" } else { "http" };
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
    let now = shared.node.clock.unix_seconds(Duration::ZERO);
    Ok(agents::list(&in_force.settings, &in_force.router, &asked, &offered, now))
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

/// Whether what an upgrade request shows in its header is no lie: whoever can set headers can read an HTTP status. What is
/// shown in other places is looked at with the first message, because browsers tell pages of no status.
#[allow(clippy::result_large_err, reason = "an answer, moved once")]
async fn known_enough(shared: &Shared, request: &Request<Incoming>) -> Result<(), Answer> {
    let head = Head::new(shared, request);
    if !head.shown.is_in_header() {
        return Ok(());
    }
    // Whether it is too old to start is decided when it is known whether it starts something.
    let known = credentials::identify(&shared.node, head.address, &head.shown, None, Use::Resume).await;
    known.map(drop).map_err(|refused| {
        shared.on_plain();
        let answer = refusal_of(shared, &refused);
        if request.uri().path() == REALTIME_PATH { mint::openai_error(&refused) } else { answer }
    })
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
    let head = Head::new(shared, request);
    let behind = match shared.enter_behind(head.address) {
        Ok(behind) => behind,
        Err(refusal) => return refuse(refusal, busy("overloaded", "this address has too many connections")),
    };
    shared.on_upgrade(Upgrade {
        behind,
        pending: hyper::upgrade::on(request),
        head,
        realtime,
        at: shared.node.clock.now(),
    });
    switching(key, chosen.then_some(spoken))
}

/// The answer to an opening handshake that is taken.
fn switching(key: String, subprotocol: Option<&'static str>) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.extend(HeaderValue::try_from(key).ok().map(|key| (header::SEC_WEBSOCKET_ACCEPT, key)));
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    answer
}

pub(super) fn busy(code: &str, detail: &str) -> Answer {
    let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    answer
}

/// A refusal as an HTTP answer, counted.
pub(super) fn refusal_of(shared: &Shared, refused: &Refused) -> Answer {
    shared.node.telemetry.node().record_refusal(refused.refusal);
    let error = refused.error.as_deref().map(refusal);
    error.unwrap_or_else(|| problem(StatusCode::BAD_REQUEST, "bad_message", "the request cannot be served"))
}

/// The HTTP status of an error of the native protocol.
pub(super) const fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden | ErrorCode::NotPermitted => StatusCode::FORBIDDEN,
        ErrorCode::NotFound | ErrorCode::ResumeFailed => StatusCode::NOT_FOUND,
        ErrorCode::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::AgentUnavailable | ErrorCode::AgentError => StatusCode::BAD_GATEWAY,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// An error of the native protocol as an HTTP answer.
pub(super) fn refusal(error: &Error) -> Answer {
    let status = status_of(error.code);
    let title = status.canonical_reason().unwrap_or_default();
    let mut body = serde_json::json!({
        "title": title, "status": status.as_u16(), "code": error.code.label(), "detail": error.message,
    });
    for (name, value) in [("reason", &error.reason), ("field", &error.field), ("url", &error.url)] {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    hint(json(status, "application/problem+json", &body), error)
}

/// Adds to an answer when to come again, and how to show credentials (RFC 6750 section 3).
pub(super) fn hint(mut answer: Answer, error: &Error) -> Answer {
    let headers = answer.headers_mut();
    let seconds = error.retry_after_ms.map(|after| u32::try_from(after.div_ceil(1000)).unwrap_or(u32::MAX));
    let seconds = seconds.or((error.code == ErrorCode::Overloaded).then_some(RETRY_AFTER_S));
    if let Some(seconds) = seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.code == ErrorCode::Unauthorized {
        let shown = error.reason.as_deref().is_some_and(|why| why != Denied::NoCredentials.label());
        let challenge = if shown { "Bearer error=\"invalid_token\"" } else { "Bearer" };
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    answer
}

/// The body of a request, within the bound of `http.max_body_bytes` and in time.
#[allow(clippy::result_large_err, reason = "an answer, moved once")]
pub(super) async fn read_body(shared: &Shared, body: Incoming) -> Result<Bytes, Answer> {
    let most = shared.node.in_force.load().settings.http.max_body_bytes;
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => {
            let detail = format!("a request has at most {most} bytes here (`http.max_body_bytes`)");
            Err(problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &detail))
        }
        Err(_) => Err(problem(StatusCode::REQUEST_TIMEOUT, "timeout", "the request's body did not come in time")),
    }
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
