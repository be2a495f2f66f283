//! Signalling over HTTP: the native endpoint, and WHIP (RFC 9725). OpenAI's is in [`super::realtime`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::denied::Denied;
use super::{PARKED_FOR, Parked, Purpose, Webrtc, offer, realtime, turn};
use crate::dialect::Dialect;
use crate::dialect::native::codec::{self, ClientMessage, Decoded};
use crate::dialect::native::{self, Native};
use crate::dialect::openai::{self, Openai};
use crate::ids::AgentName;
use crate::ingress::admit::{self, Caller, Refused};
use crate::ingress::connection::Shared;
use crate::ingress::gate::Waiting;
use crate::ingress::http::{Answer, json, problem, read_body};
use crate::ingress::websocket::Head;
use crate::ingress::{elsewhere, limits};
use crate::limit::Standing;
use crate::media::format::Format;
use crate::message::{AudioFormats, Error, ErrorCode, Start, Started};
use crate::route::plan::{GapMode, Policy};
use crate::runtime::peer::switchboard::{Inbound, Resource, Route};
use crate::runtime::peer::{Credentials, PeerError, Wishes};
use crate::session::{Carriage, LinkInfo, Transport};
use crate::telemetry::{NodeQueue, Refusal};

/// The native endpoint.
pub(in crate::ingress) const NATIVE_PATH: &str = "/v1/session/webrtc";
/// The WHIP endpoint; sessions are below it.
pub(in crate::ingress) const WHIP_PATH: &str = "/whip";
/// How long a session may take that is asked to restart ICE.
const PATIENCE: Duration = Duration::from_secs(5);
pub(super) const SDP: &str = "application/sdp";
const TRICKLE: &str = "application/trickle-ice-sdpfrag";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// The body of the native endpoint's request.
#[derive(Deserialize)]
struct Call<'a> {
    sdp: String,
    #[serde(borrow, default)]
    start: Option<&'a RawValue>,
}

/// An offer and what is asked with it.
pub(super) struct Offered {
    pub sdp: String,
    pub asks: Asks,
    /// A client that reads on its data channel, too, why there is no session for it.
    pub listens: bool,
}

/// What a client asks for, in its language.
pub(super) enum Asks {
    /// The native protocol.
    Native(Box<Start>),
    /// The Realtime wire: its `session`, if that came along, and the model where it names none.
    Openai(Option<serde_json::Value>, Option<String>),
}

impl Asks {
    /// The label of the data channel.
    fn channel(&self) -> &'static str {
        match self {
            Asks::Native(_) => native::SUBPROTOCOL,
            Asks::Openai(..) => openai::CHANNEL,
        }
    }

    /// What the call is known by to its client.
    fn resource(&self) -> String {
        match self {
            Asks::Native(_) => admit::secret(),
            Asks::Openai(..) => format!("rtc_{}", admit::secret()),
        }
    }

    /// The first message, and the language of all others.
    fn begin(self, format: Format) -> (Start, Box<dyn Dialect>) {
        match self {
            Asks::Native(start) => (*start, Box::new(Native::started(format))),
            Asks::Openai(session, model) => {
                let id = format!("sess_{}", admit::secret());
                let (dialect, start) = Openai::call(&id, model, session.as_ref(), format);
                (start, Box::new(dialect))
            }
        }
    }
}

/// An answer that waits for its peer, and what its client is told.
pub(super) struct Answered {
    pub sdp: String,
    /// Absent where a session is resumed, or not decided on yet.
    pub started: Option<Started>,
    pub resource: String,
    pub ufrag: String,
    /// What is left of its limits.
    pub standings: Vec<Standing>,
}

/// Whether these requests are answered here.
pub(in crate::ingress) fn serves(path: &str) -> bool {
    [NATIVE_PATH, WHIP_PATH].contains(&path) || resource_of(path).is_some() || realtime::serves(path)
}

/// What stands for one call, below the endpoint that made it; both take the same requests.
fn resource_of(path: &str) -> Option<&str> {
    let below = |endpoint| path.strip_prefix(endpoint)?.strip_prefix('/').filter(|id| !id.is_empty());
    below(NATIVE_PATH).or_else(|| below(WHIP_PATH))
}

/// Answers a request for WebRTC.
pub(in crate::ingress) async fn respond(shared: &Shared, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if realtime::serves(&path) {
        return realtime::respond(shared, request).await;
    }
    let Some(webrtc) = shared.webrtc.clone() else {
        let detail = "WebRTC is off here; set `listen.webrtc` in the configuration, or use the WebSocket";
        return problem(StatusCode::NOT_FOUND, "webrtc_off", detail);
    };
    match (request.method(), resource_of(&path)) {
        (&Method::POST, None) => post(shared, &webrtc, request, path == WHIP_PATH).await,
        (&Method::PATCH, Some(id)) => patch(shared, &webrtc, request, id).await,
        (&Method::DELETE, Some(id)) => delete(&webrtc, id),
        // RFC 9725 section 4.2: success without content.
        (&Method::GET | &Method::HEAD, _) => empty(StatusCode::NO_CONTENT),
        (_, resource) => {
            let allowed = if resource.is_some() { "PATCH, DELETE, OPTIONS" } else { "POST, OPTIONS" };
            let detail = format!("this address takes {allowed}");
            with(problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &detail), header::ALLOW, allowed)
        }
    }
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer
}

pub(super) fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().append(name, value);
    }
    answer
}

async fn post(shared: &Shared, webrtc: &Arc<Webrtc>, request: Request<Incoming>, whip: bool) -> Answer {
    let raw = whip || media_type(request.headers()) == SDP;
    let endpoint = if whip { WHIP_PATH } else { NATIVE_PATH };
    let offered = |headers: &HeaderMap, query: &str, body: &[u8]| offered(headers, query, body, whip);
    match take_offer(shared, webrtc, request, async move |headers, query, body| offered(&headers, &query, &body)).await
    {
        Ok(answered) => tell(shared, &answered, endpoint, raw),
        Err(denied) => denied.problem(),
    }
}

/// Reads a request with an offer, which `offered` takes apart, and answers the offer.
pub(super) async fn take_offer(
    shared: &Shared,
    webrtc: &Webrtc,
    request: Request<Incoming>,
    offered: impl AsyncFnOnce(HeaderMap, String, Bytes) -> Result<Offered, Denied>,
) -> Result<Answered, Denied> {
    let node = &shared.node;
    let refuse = |refusal, denied| {
        node.telemetry.node().record_refusal(refusal);
        Err(denied)
    };
    if node.is_draining() {
        let message = "this node is going down; connect again";
        return refuse(Refusal::Draining, Denied::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message));
    }
    let accepted = node.clock.now();
    let head = Head::new(shared, &request);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let body = match read_body(shared, body).await {
        Ok(body) => body,
        Err(answer) => return refuse(Refusal::BadRequest, Denied::Answered(Box::new(answer))),
    };
    let offered = match offered(parts.headers, query, body).await {
        Ok(offered) => offered,
        Err(denied) => return refuse(Refusal::BadRequest, denied),
    };
    let upgraded = node.clock.now();
    let caller = Caller { head, accepted, tls: shared.tls, upgraded, opened: upgraded };
    answer(shared, webrtc, caller, offered).await
}

pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Takes the request apart; the offer is within its bounds.
fn offered(headers: &HeaderMap, query: &str, body: &[u8], whip: bool) -> Result<Offered, Denied> {
    let bad = |detail: &str| Denied::new(StatusCode::BAD_REQUEST, "bad_message", detail);
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is not UTF-8"))?;
    let (sdp, start) = match media_type(headers) {
        SDP => {
            let agent = parameter(query, "agent").map(AgentName::from);
            (text.to_owned(), Start { agent, ..Start::default() })
        }
        "application/json" if !whip => {
            let call: Call<'_> = serde_json::from_str(text)
                .map_err(|error| bad(&format!("the body is not {{\"sdp\": \"v=0…\", \"start\": {{…}}}}: {error}")))?;
            let start = start_of(call.start.map_or("{}", RawValue::get))?;
            (call.sdp, start)
        }
        _ => {
            let wanted = if whip { SDP } else { "application/json or application/sdp" };
            let detail = format!("send the offer as {wanted}");
            return Err(Denied::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
    };
    if whip && offer::is_deaf(&sdp) {
        let detail = "WHIP sends audio: the offer must be sendonly or sendrecv (RFC 9725 section 4.2)";
        return Err(Denied::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_direction", detail));
    }
    let sdp = offer::bounded(&sdp).map_err(|detail| bad(&detail))?;
    Ok(Offered { sdp, asks: Asks::Native(Box::new(start)), listens: !whip })
}

/// A parameter of a query.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The `start` of the native protocol; here its `type` may be left out.
fn start_of(text: &str) -> Result<Start, Error> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| bad_start(&format!("`start` is not an object: {error}")))?;
    fields.entry("type").or_insert_with(|| "start".into());
    match codec::decode_from_client(&serde_json::Value::Object(fields).to_string())? {
        Decoded::Message { message: ClientMessage::Start(start), .. } => Ok(start),
        _ => Err(bad_start("`start` has another type")),
    }
}

fn bad_start(message: &str) -> Error {
    Error { field: Some("start".into()), ..Error::new(ErrorCode::BadMessage, message) }
}

fn wishes_of(policy: &Policy) -> Wishes {
    Wishes { nack: policy.gap == GapMode::Accurate, dtx: policy.client_dtx, bitrate: policy.client_bitrate }
}

/// Counts an answer for its address.
fn wait(shared: &Shared, caller: &Caller) -> Result<Waiting, Refused> {
    shared.park(caller.head.address).map_err(|refusal| {
        let message = "too many calls of this address are being set up".into();
        let refused = Refused::new(ErrorCode::RateLimited, message).retry_after(PARKED_FOR);
        let close_code = refused.close_code;
        refused.with(close_code, refusal)
    })
}

/// Routes the call, answers the offer and parks the answer.
async fn answer(shared: &Shared, webrtc: &Webrtc, caller: Caller, offered: Offered) -> Result<Answered, Denied> {
    let node = &shared.node;
    let refuse = |refused: Refused| {
        node.telemetry.node().record_refusal(refused.refusal);
        Denied::Refused(Box::new(refused))
    };
    let waiting = wait(shared, &caller).map_err(refuse)?;
    let Offered { sdp, asks, listens } = offered;
    let now = node.clock.now();
    let instant = node.clock.instant(now).into_std();
    let (mut peer, mut negotiated) = webrtc.engine.answer(&sdp, asks.channel(), instant).map_err(|error| {
        node.telemetry.node().record_refusal(Refusal::BadRequest);
        let status = match error {
            PeerError::Sdp(_) => StatusCode::BAD_REQUEST,
            PeerError::NoAudio => StatusCode::UNPROCESSABLE_ENTITY,
            PeerError::Engine(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Denied::new(status, "bad_offer", error.to_string())
    })?;
    let format = negotiated.format;
    let resource = asks.resource();
    let (start, dialect) = asks.begin(format);
    let link = LinkInfo {
        transport: Transport::Webrtc,
        carriage: Carriage::Rtp,
        audio: AudioFormats { uplink: format, downlink: format, flow: start.audio.and_then(|audio| audio.flow) },
        resume_token: elsewhere::resume_token(node),
        have: start.have,
    };
    let (purpose, started, wishes, standings) = match start.resume.clone() {
        // What its route wishes is known to the session only. To ask for a lost packet again does no harm.
        Some(token) => {
            let claim = admit::can_resume(node, &caller, &start, token).await.map_err(refuse)?;
            (Purpose::Resume(claim), None, Wishes { nack: true, ..Wishes::default() }, Vec::new())
        }
        None => {
            let others = webrtc.board.waiting();
            let candidate = admit::consider(node, caller, start, link.clone(), others).await.map_err(refuse)?;
            let wishes = wishes_of(candidate.policy());
            if candidate.waits() && listens && negotiated.channel {
                let deciding = AbortOnDropHandle::new(tokio::spawn(candidate.decide()));
                (Purpose::Decide(deciding), None, wishes, Vec::new())
            } else {
                let mut planned = candidate.decide().await.map_err(refuse)?;
                let standings = std::mem::take(&mut planned.standings);
                let started = planned.started();
                (Purpose::Start(Box::new(planned)), Some(started), wishes, standings)
            }
        }
    };
    peer.agree(wishes, &mut negotiated);
    let parked = Parked { peer: Box::new(peer), dialect, channel: negotiated.channel, purpose, link, waiting };
    let ufrag = negotiated.credentials.ufrag;
    webrtc.board.park(ufrag.clone(), resource.clone(), parked, now, now + PARKED_FOR).map_err(|_| {
        node.telemetry.node().record_dropped(NodeQueue::Parked);
        node.telemetry.node().record_refusal(Refusal::Overload);
        Denied::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "too many calls are being set up")
    })?;
    Ok(Answered { sdp: negotiated.answer, started, resource, ufrag, standings })
}

/// The 201 of RFC 9725 section 4.2, with the answer as SDP or in JSON.
fn tell(shared: &Shared, answered: &Answered, endpoint: &str, raw: bool) -> Answer {
    let node = &shared.node;
    let in_force = node.in_force.load();
    let servers = &in_force.settings.webrtc.ice_servers;
    let (name, unix) = (&answered.resource[..8], node.clock.unix_seconds(Duration::ZERO));
    let mut answer = if raw {
        let mut answer = Answer::new(Full::from(answered.sdp.clone()));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
        for link in turn::links(servers, name, unix) {
            answer = with(answer, header::LINK, &link);
        }
        answer
    } else {
        let mut body = serde_json::json!({ "sdp": answered.sdp });
        if let Some(started) = &answered.started {
            body["started"] = serde_json::to_value(started).unwrap_or_default();
        }
        if !servers.is_empty() {
            body["ice_servers"] = turn::ice_servers(servers, name, unix).into();
        }
        json(StatusCode::CREATED, "application/json", &body)
    };
    *answer.status_mut() = StatusCode::CREATED;
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let answer = with(answer, header::LOCATION, &format!("{endpoint}/{}", answered.resource));
    limits::describe_standings(with(answer, header::ETAG, &etag(&answered.ufrag)), &answered.standings)
}

fn etag(ufrag: &str) -> String {
    format!("\"{ufrag}\"")
}

fn unknown() -> Answer {
    problem(StatusCode::NOT_FOUND, "not_found", "there is no such session; it may have ended")
}

/// RFC 9725 section 4.3: trickled candidates and ICE restarts.
async fn patch(shared: &Shared, webrtc: &Webrtc, request: Request<Incoming>, id: &str) -> Answer {
    let headers = request.headers().clone();
    let (route, ufrag) = match webrtc.board.resource(id) {
        Resource::Peer(route, ufrag) => (Some(route), ufrag),
        Resource::Waiting(ufrag) => (None, ufrag),
        Resource::Nobody => return unknown(),
    };
    if media_type(&headers) != TRICKLE {
        let detail = format!("send {TRICKLE}");
        return problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", &detail);
    }
    let Some(condition) = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()) else {
        let detail = "send If-Match: the ETag of this ICE session for candidates, \"*\" for a restart";
        return problem(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail);
    };
    let body = match read_body(shared, request.into_body()).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let Ok(fragment) = std::str::from_utf8(&body) else {
        return problem(StatusCode::BAD_REQUEST, "bad_message", "the body is not UTF-8");
    };
    if fragment.len() > offer::MAX_BYTES {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the fragment is too large");
    }
    if condition.trim().trim_matches('"') != "*" {
        if !condition.split(',').any(|tag| tag.trim() == etag(&ufrag)) {
            let detail = "this ETag is of an older ICE session";
            return problem(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail);
        }
        // Our side is lite: it learns the peer's addresses from its checks.
        return empty(StatusCode::NO_CONTENT);
    }
    let (Some(peer), Some(route)) = (credentials_of(fragment), route) else {
        let detail = "a restart has a=ice-ufrag of 4 and a=ice-pwd of 22 characters at least, and a connected session";
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "bad_restart", detail);
    };
    match restart(&route, peer).await {
        Some(own) => {
            let candidates = webrtc.engine.candidate_lines();
            let body = format!(
                "a=ice-lite\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n{candidates}a=end-of-candidates\r\n",
                own.ufrag, own.password
            );
            let mut answer = Answer::new(Full::from(body));
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TRICKLE));
            with(answer, header::ETAG, &etag(&own.ufrag))
        }
        None => problem(StatusCode::UNPROCESSABLE_ENTITY, "bad_restart", "the session cannot restart ICE"),
    }
}

async fn restart(route: &Route, peer: Credentials) -> Option<Credentials> {
    let (reply, restarted) = oneshot::channel();
    route.try_send(Inbound::Restart { peer, reply }).ok()?;
    tokio::time::timeout(PATIENCE, restarted).await.ok()?.ok()?.ok()
}

/// ICE credentials within the bounds of RFC 8839 section 5.4.
fn credentials_of(fragment: &str) -> Option<Credentials> {
    let is_ice = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    let ufrag = offer::attribute(fragment, "ice-ufrag").filter(|t| (4..=256).contains(&t.len()) && is_ice(t))?;
    let password = offer::attribute(fragment, "ice-pwd").filter(|t| (22..=256).contains(&t.len()) && is_ice(t))?;
    Some(Credentials { ufrag: ufrag.to_owned(), password: password.to_owned() })
}

fn delete(webrtc: &Webrtc, id: &str) -> Answer {
    hang_up(webrtc, id).map_or_else(|denied| denied.problem(), |()| empty(StatusCode::OK))
}

/// Ends a call, or forgets one that has not begun.
///
/// # Errors
/// If there is none, or it takes no requests.
pub(super) fn hang_up(webrtc: &Webrtc, id: &str) -> Result<(), Denied> {
    match webrtc.board.resource(id) {
        Resource::Peer(route, _) => route.try_send(Inbound::Hangup).map_err(|_| {
            let message = "the session takes no requests now";
            Denied::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
        }),
        Resource::Waiting(ufrag) => {
            webrtc.board.forget(&ufrag);
            Ok(())
        }
        Resource::Nobody => {
            let message = "there is no such session; it may have ended";
            Err(Denied::new(StatusCode::NOT_FOUND, "not_found", message))
        }
    }
}

/// What a preflight tells beside the usual (RFC 9725 section 4.2).
pub(in crate::ingress) fn describe(answer: Answer, path: &str) -> Answer {
    if resource_of(path).is_some() || realtime::serves(path) { answer } else { with(answer, ACCEPT_POST, SDP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_may_leave_out_its_type_and_errors_name_the_field() {
        assert_eq!(start_of(r#"{"agent":"echo"}"#).unwrap().agent, Some("echo".into()));
        assert_eq!(start_of("{}").unwrap().agent, None);
        assert!(start_of("[]").is_err());
        assert!(start_of(r#"{"agent":5}"#).unwrap_err().field.is_some());
        assert!(start_of(r#"{"type":"end"}"#).is_err());
    }

    #[test]
    fn credentials_of_a_restart_are_bounded() {
        let fragment = |ufrag: &str, password: &str| format!("a=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n");
        assert!(credentials_of(&fragment("abcd", "0123456789012345678901")).is_some());
        assert!(credentials_of(&fragment("abc", "0123456789012345678901")).is_none());
        assert!(credentials_of(&fragment("abcd", "short")).is_none());
        assert!(credentials_of(&fragment("ab cd", "0123456789012345678901")).is_none());
    }
}
