//! HTTP requests of agents: each on a connection of its own on the control runtime, its answer streamed back through a
//! bounded channel.
//!
//! Redirects are not followed; connection and whole answer have deadlines, and the answer a bound in bytes.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{HttpEvent, HttpRequest};
use crate::message::{AgentError, FailureClass};
use crate::upstream::dial::{failure, open_stream, place, refusal};
use crate::upstream::token::Tokens;

/// Pieces of an answer that wait for the session; beyond it the answer is not read.
const WAITING: usize = 16;
/// Of an error that is told, in bytes.
const MAX_REFUSAL: usize = 16 << 10;

/// A request that runs; dropping it ends it.
#[derive(Debug)]
pub struct Exchange {
    /// The agent's number for it.
    pub id: u32,
    events: mpsc::Receiver<HttpEvent>,
    _task: AbortOnDropHandle<()>,
}

impl Exchange {
    /// The next thing that comes of it; `None` after the last.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<HttpEvent>> {
        self.events.poll_recv(cx)
    }
}

/// Begins a request on `runtime`; `seats` bounds how many run at once.
pub(super) fn begin(
    runtime: &tokio::runtime::Handle,
    tls: Arc<ClientConfig>,
    seats: Arc<Semaphore>,
    tokens: Tokens,
    mut request: HttpRequest,
) -> Exchange {
    let (sender, events) = mpsc::channel(WAITING);
    let id = request.id;
    let task = runtime.spawn(async move {
        let ends = Instant::now() + request.deadline;
        let last = match timeout_at(ends, run(&tls, &seats, tokens, &mut request, &sender)).await {
            Ok(Ok(())) => HttpEvent::End,
            Ok(Err(error)) => HttpEvent::Failed(error),
            Err(_) => {
                let text = format!("{} did not finish within {} ms", place(&request.url), request.deadline.as_millis());
                HttpEvent::Failed(failure(FailureClass::Timeout, text))
            }
        };
        // Nobody listens any more if this fails.
        let _ = sender.send(last).await;
    });
    Exchange { id, events, _task: AbortOnDropHandle::new(task) }
}

async fn run(
    tls: &Arc<ClientConfig>,
    seats: &Semaphore,
    tokens: Tokens,
    wanted: &mut HttpRequest,
    sender: &mpsc::Sender<HttpEvent>,
) -> Result<(), AgentError> {
    let _seat = seats.acquire().await;
    if let Some(command) = wanted.token.take() {
        let bearer = format!("Bearer {}", tokens.token(command).await?.expose_secret());
        wanted.headers.push(("authorization".to_owned(), bearer.into()));
    }
    let wanted = &*wanted;
    let url = &wanted.url;
    let broken = |error: hyper::Error| failure(FailureClass::Lost, format!("{} broke off: {error}", place(url)));
    let opening = open_stream(tls, url, url.scheme() == "https");
    let Ok(stream) = tokio::time::timeout(wanted.connect_timeout, opening).await else {
        let text = format!("{} did not answer within {} ms", place(url), wanted.connect_timeout.as_millis());
        return Err(failure(FailureClass::Timeout, text));
    };
    let (mut connection, driving) = http1::handshake(TokioIo::new(stream?)).await.map_err(broken)?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(driving));
    let response = connection.send_request(message(wanted)?).await.map_err(broken)?;
    let response = accepted(wanted, response).await?;
    let mut body = Limited::new(response.into_body(), wanted.most);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure(FailureClass::Lost, format!("{}: {error}", place(url))))?;
        if let Ok(data) = frame.into_data()
            && sender.send(HttpEvent::Data(data)).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

/// The answer, if it is a good one.
async fn accepted(wanted: &HttpRequest, response: Response<Incoming>) -> Result<Response<Incoming>, AgentError> {
    let (url, status) = (&wanted.url, response.status());
    if status.is_success() {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
    Err(refusal(url, status, &body.map(|body| body.to_bytes()).unwrap_or_default()))
}

fn message(wanted: &HttpRequest) -> Result<Request<Full<Bytes>>, AgentError> {
    let url = &wanted.url;
    let wrong = |error: http::Error| failure(FailureClass::BadRequest, format!("{}: {error}", place(url)));
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "text/event-stream, application/json")
        .header(header::USER_AGENT, concat!("antiphon/", env!("CARGO_PKG_VERSION")));
    for (name, value) in &wanted.headers {
        let mut value = HeaderValue::try_from(value.expose_secret()).map_err(|error| wrong(error.into()))?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    request.body(Full::new(wanted.body.clone())).map_err(wrong)
}
