//! Signalling as clients of the OpenAI Realtime wire do it: `POST /v1/realtime/calls`, with the offer alone or with a
//! `session` beside it. The events of the call travel on its data channel.

use bytes::Bytes;
use futures_util::stream;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use multer::{Constraints, Multipart, SizeLimit};
use serde_json::Value;

use super::denied::Denied;
use super::offer;
use super::signalling::{self, Asks, Offered, SDP, empty, with};
use crate::ingress::connection::Shared;
use crate::ingress::http::Answer;
use crate::ingress::limits;

/// Where calls are made; each is below it.
const PATH: &str = "/v1/realtime/calls";
/// Bytes of the `session` part at most.
const MAX_SESSION: u64 = 64 << 10;

/// Whether these requests are answered here.
pub(super) fn serves(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request for a call, or about one.
pub(super) async fn respond(shared: &Shared, request: Request<Incoming>) -> Answer {
    match try_respond(shared, request).await {
        Ok(answer) => answer,
        Err(denied) => denied.openai(),
    }
}

async fn try_respond(shared: &Shared, request: Request<Incoming>) -> Result<Answer, Denied> {
    let Some(webrtc) = shared.webrtc.clone() else {
        let message = "WebRTC is off here; set `listen.webrtc` in the configuration, or use the WebSocket";
        return Err(Denied::new(StatusCode::NOT_FOUND, "webrtc_off", message));
    };
    if request.method() != Method::POST {
        return Err(Denied::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address takes POST"));
    }
    let path = request.uri().path().to_owned();
    let below = path.strip_prefix(PATH).unwrap_or_default().strip_prefix('/').unwrap_or_default();
    match below.split_once('/') {
        None if below.is_empty() => {
            let answered = signalling::take_offer(shared, &webrtc, request, offered).await?;
            let mut answer = Answer::new(Full::from(answered.sdp));
            *answer.status_mut() = StatusCode::CREATED;
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
            let answer = with(answer, header::LOCATION, &format!("{PATH}/{}", answered.resource));
            Ok(limits::describe_standings(answer, &answered.standings))
        }
        Some((id, "hangup")) => signalling::hang_up(&webrtc, id).map(|()| empty(StatusCode::OK)),
        Some((_, "accept" | "reject" | "refer")) => {
            let message = "calls come over WebRTC here and are accepted at once; there is no SIP";
            Err(Denied::new(StatusCode::NOT_IMPLEMENTED, "unsupported", message))
        }
        _ => Err(Denied::new(StatusCode::NOT_FOUND, "not_found", "of a call there is `hangup` only")),
    }
}

async fn offered(headers: HeaderMap, query: String, body: Bytes) -> Result<Offered, Denied> {
    let model = signalling::parameter(&query, "model");
    let (sdp, session) = match signalling::media_type(&headers) {
        SDP => (text(&body, "the body")?, None),
        "multipart/form-data" => parts(&headers, body).await?,
        _ => {
            let message =
                format!("send the offer as {SDP}, or as multipart/form-data with the parts `sdp` and `session`");
            return Err(Denied::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
        }
    };
    let sdp = offer::bounded(&sdp).map_err(|why| Denied::field("sdp", why))?;
    Ok(Offered { sdp, asks: Asks::Openai(session, model), listens: false })
}

/// The parts `sdp` and `session` of a form.
async fn parts(headers: &HeaderMap, body: Bytes) -> Result<(String, Option<Value>), Denied> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(|error| Denied::field("body", error.to_string()))?;
    let limits = SizeLimit::new().for_field("sdp", offer::MAX_BYTES as u64).for_field("session", MAX_SESSION);
    let limits = Constraints::new().allowed_fields(vec!["sdp", "session"]).size_limit(limits);
    let body = stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut form = Multipart::with_constraints(body, boundary, limits);
    let (mut sdp, mut session) = (None, None);
    while let Some(part) = form.next_field().await.map_err(|error| Denied::field("body", error.to_string()))? {
        let name = part.name().unwrap_or_default().to_owned();
        let bytes = part.bytes().await.map_err(|error| Denied::field(&name, error.to_string()))?;
        if name == "sdp" {
            sdp = Some(text(&bytes, "`sdp`")?);
        } else {
            let parsed: Value =
                serde_json::from_slice(&bytes).map_err(|error| Denied::field("session", error.to_string()))?;
            if !parsed.is_object() {
                return Err(Denied::field("session", "`session` is an object in JSON"));
            }
            session = Some(parsed);
        }
    }
    match sdp {
        Some(sdp) => Ok((sdp, session)),
        None => Err(Denied::field("sdp", "the form has no part `sdp` with the offer")),
    }
}

fn text(bytes: &[u8], what: &str) -> Result<String, Denied> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Denied::field("sdp", format!("{what} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::try_from(kind).unwrap())])
    }

    async fn take(kind: &str, body: &str) -> Result<Offered, Denied> {
        offered(headers(kind), "model=voice".into(), Bytes::copy_from_slice(body.as_bytes())).await
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let part = |(name, body): &(&str, &str)| {
            format!(
                "--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\nContent-Type: text/plain\r\n\r\n{body}\r\n"
            )
        };
        parts.iter().map(part).collect::<String>() + "--b--\r\n"
    }

    #[tokio::test]
    async fn an_offer_comes_alone_or_in_a_form_with_its_session() {
        let alone = take("application/sdp", "v=0\r\n").await.ok().unwrap();
        assert!(matches!(alone.asks, Asks::Openai(None, Some(model)) if model == "voice"));
        let body = form(&[("sdp", "v=0\r\n"), ("session", r#"{"type":"realtime","model":"m"}"#)]);
        let both = take("multipart/form-data; boundary=b", &body).await.ok().unwrap();
        assert_eq!(both.sdp, "v=0\r\n");
        assert!(matches!(both.asks, Asks::Openai(Some(session), _) if session["model"] == "m"));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_form_is_named() {
        let cases = [
            ("multipart/form-data", form(&[]), "body"),
            ("multipart/form-data; boundary=b", form(&[("session", "{}")]), "sdp"),
            ("multipart/form-data; boundary=b", form(&[("sdp", "v=0"), ("session", "[1]")]), "session"),
            ("multipart/form-data; boundary=b", form(&[("sdp", "v=0"), ("session", "{")]), "session"),
            ("multipart/form-data; boundary=b", form(&[("sdp", "v=0"), ("other", "{")]), "body"),
            ("multipart/form-data; boundary=b", form(&[("sdp", &"v=0\r\n".repeat(10_000))]), "sdp"),
            ("multipart/form-data; boundary=b", "--b\r\nContent-Dis".to_owned(), "body"),
            ("application/sdp", "m=audio".to_owned(), "sdp"),
        ];
        for (kind, body, field) in cases {
            let denied = take(kind, &body).await.err().unwrap();
            let Denied::Request { status, field: told, message, .. } = &denied else { panic!("{body}") };
            assert_eq!((*status, told.as_deref()), (StatusCode::BAD_REQUEST, Some(field)), "{body}: {message}");
            assert_eq!(denied.openai().status(), StatusCode::BAD_REQUEST);
        }
        let answer = take("text/plain", "v=0").await.err().unwrap().openai();
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
