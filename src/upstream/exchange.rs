//! Short HTTP exchanges with services of the operator (tools, hooks, key sets, signed URLs): one request on a connection of
//! its own, its whole answer at once, on the control runtime.
//!
//! Redirects are not followed; the exchange has a deadline, and its answer a bound in bytes.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::message::{AgentError, FailureClass};
use crate::upstream::dial::{failure, open_stream, place};
use crate::upstream::trust::Trust;

/// The header that proves who sent a request; see [`signature`].
pub const SIGNATURE: &str = "antiphon-signature";
/// Exchanges that run at once; the others wait, within their own deadlines.
const MAX_EXCHANGES: usize = 256;

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    /// GET or POST.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// Beside the usual ones; values may be secret.
    pub headers: Vec<(String, SecretString)>,
    /// Sent as it is; what it is, a header says.
    pub body: Bytes,
    /// From now to the end of the answer.
    pub deadline: Duration,
    /// Bytes of the answer at most.
    pub most: usize,
}

impl Call {
    /// A GET for JSON.
    pub fn get(url: Url, deadline: Duration, most: usize) -> Call {
        Call { method: Method::GET, url, headers: Vec::new(), body: Bytes::new(), deadline, most }
    }

    /// A POST of JSON, signed if there is a secret; `now` is Unix time in seconds.
    pub fn post(
        url: Url,
        body: Bytes,
        secret: Option<&SecretString>,
        now: u64,
        deadline: Duration,
        most: usize,
    ) -> Call {
        let mut headers = vec![(header::CONTENT_TYPE.to_string(), "application/json".to_owned().into())];
        headers.extend(secret.map(|secret| (SIGNATURE.to_owned(), signature(secret, now, &body).into())));
        Call { method: Method::POST, url, headers, body, deadline, most }
    }
}

/// What `Antiphon-Signature` says: `t=<Unix seconds>,v1=<hexadecimal HMAC-SHA256 of "<t>.<body>">`. Whoever gets it makes
/// the same of the body that came, compares in constant time, and refuses a `t` that is older than some minutes.
pub fn signature(secret: &SecretString, now: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes()));
    context.update(format!("{now}.").as_bytes());
    context.update(body);
    let tag: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={now},v1={tag}")
}

/// The answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Runs exchanges; its clones share their bound.
#[derive(Clone, Debug)]
pub struct Exchanges {
    trust: Arc<Trust>,
    runtime: Handle,
    seats: Arc<Semaphore>,
}

impl Exchanges {
    /// They run on `runtime`.
    pub fn on(runtime: Handle) -> Exchanges {
        Exchanges { trust: Arc::default(), runtime, seats: Arc::new(Semaphore::new(MAX_EXCHANGES)) }
    }

    /// Where they run.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Begins one; it ends when its handle is dropped. No secret is in its error.
    pub fn begin(&self, call: Call) -> AbortOnDropHandle<Result<Answer, AgentError>> {
        let (trust, seats) = (self.trust.clone(), self.seats.clone());
        AbortOnDropHandle::new(self.runtime.spawn(async move {
            let tls = trust.tcp(None).map_err(|error| failure(FailureClass::BadRequest, error.to_string()))?;
            let (deadline, at) = (call.deadline, place(&call.url));
            let exchanged = timeout(deadline, async {
                let _seat = seats.acquire().await;
                exchange(&tls, call).await
            });
            exchanged.await.unwrap_or_else(|_| {
                let text = format!("{at} did not answer within {} ms", deadline.as_millis());
                Err(failure(FailureClass::Timeout, text))
            })
        }))
    }

    /// Runs one to its end.
    ///
    /// # Errors
    /// If there is no whole answer in time. No secret is in it.
    pub async fn run(&self, call: Call) -> Result<Answer, AgentError> {
        let ended = self.begin(call).await;
        ended.unwrap_or_else(|error| Err(failure(FailureClass::Internal, format!("an HTTP exchange: {error}"))))
    }
}

/// One exchange. The caller keeps the deadline.
///
/// # Errors
/// If there is no whole answer. No secret is in it.
pub(super) async fn exchange(tls: &Arc<ClientConfig>, call: Call) -> Result<Answer, AgentError> {
    let url = &call.url;
    let broken = |error: hyper::Error| failure(FailureClass::Lost, format!("{} broke off: {error}", place(url)));
    let stream = open_stream(tls, url, url.scheme() == "https").await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(message(&call)?).await.map_err(broken)?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, call.most).collect().await;
    let body = body.map_err(|error| failure(FailureClass::Protocol, format!("{}: {error}", place(url))))?.to_bytes();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

fn message(call: &Call) -> Result<Request<Full<Bytes>>, AgentError> {
    let url = &call.url;
    let wrong = |error: http::Error| failure(FailureClass::BadRequest, format!("{}: {error}", place(url)));
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut request = Request::builder()
        .method(&call.method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("antiphon/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &call.headers {
        let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|error| wrong(error.into()))?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    request.body(Full::new(call.body.clone())).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SECOND: Duration = Duration::from_secs(5);

    #[test]
    fn a_signature_is_what_another_program_makes_of_the_same_body() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let signed = signature(&"secret".to_owned().into(), 1_700_000_000, br#"{"a":1}"#);
        assert_eq!(signed, EXPECTED);
    }

    const EXPECTED: &str = "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";

    #[tokio::test]
    async fn a_post_is_signed_and_its_answer_comes_whole_whatever_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/hook?a=b", listener.local_addr().unwrap()).parse().unwrap();
        let secret = SecretString::from("secret".to_owned());
        let call = Call::post(url, Bytes::from_static(br#"{"a":1}"#), Some(&secret), 1_700_000_000, SECOND, 1024);
        let serving = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let mut count = 0;
            while !request[..count].ends_with(b"}") {
                count += tcp.read(&mut request[count..]).await.unwrap();
            }
            tcp.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            String::from_utf8(request[..count].to_vec()).unwrap()
        };
        let exchanges = Exchanges::on(Handle::current());
        let (answer, request) = tokio::join!(exchanges.run(call), serving);
        let answer = answer.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::FORBIDDEN, &b"no"[..]));
        assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("{SIGNATURE}: {EXPECTED}\r\n")), "{request}");
        assert!(request.contains("content-type: application/json\r\n"), "{request}");
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_deadline_and_a_long_answer_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/keys?secret=hidden", listener.local_addr().unwrap()).parse().unwrap();
        let exchanges = Exchanges::on(Handle::current());
        let error = exchanges.run(Call::get(url.clone(), Duration::from_millis(50), 10)).await.unwrap_err();
        assert_eq!(error.class, FailureClass::Timeout);
        let (_gone, _) = listener.accept().await.unwrap();
        let serving = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n12345678901").await;
            // Kept open until it was read.
            let _ = tcp.read(&mut [0; 4096]).await;
        };
        let (answer, ()) = tokio::join!(exchanges.run(Call::get(url, SECOND, 10)), serving);
        let error = answer.unwrap_err();
        assert!(error.class == FailureClass::Protocol && !error.message.contains("hidden"), "{error:?}");
    }
}
