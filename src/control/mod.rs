//! The operator's listener: health and metrics, on the control runtime, so that it answers when the data plane does not.

mod health;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use health::Check;

use crate::runtime::node::Node;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// For a request head, and for an idle connection.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// Serves `/livez`, `/readyz`, `/metrics` and `/cluster` until the process ends.
///
/// # Errors
/// If the listening socket is unusable.
pub async fn serve(node: Arc<Node>, listener: std::net::TcpListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control listener");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let open = node.telemetry.node().connection("control");
        let node = node.clone();
        connections.spawn(async move {
            let _held = (place, open);
            let _ = tcp.set_nodelay(true);
            let service = service_fn(|request| {
                let node = node.clone();
                async move { Ok::<_, Infallible>(respond(&node, &request).await) }
            });
            let http = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(tcp), service);
            if let Err(error) = http.await {
                tracing::debug!(%error, "a connection of the control listener failed");
            }
        });
    }
}

async fn respond(node: &Node, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
    }
    match request.uri().path() {
        "/livez" => checks(&health::live(node), request.uri().query()),
        "/readyz" => checks(&health::ready(node), request.uri().query()),
        "/metrics" => {
            let mut answer = text(StatusCode::OK, node.telemetry.render());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            answer
        }
        "/cluster" => cluster(node).await,
        _ => text(StatusCode::NOT_FOUND, "here are /livez, /readyz, /metrics and /cluster\n".into()),
    }
}

/// All nodes, and which of them has which session.
async fn cluster(node: &Node) -> Response<Full<Bytes>> {
    let Some(status) = node.cluster.status() else {
        let body = serde_json::json!({ "redis": "off", "own": node.cluster.id(), "nodes": [], "sessions": null });
        return json(&body);
    };
    let sessions = node.cluster.sessions().await;
    json(&serde_json::json!({
        "redis": status.trouble.map_or("ok", |trouble| trouble.label()),
        "own": node.cluster.id(),
        "nodes": status.peers,
        "sessions": sessions,
    }))
}

fn json(body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::OK, format!("{body}\n"));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// 200 if all hold, else 503 with those that do not; all of them with `?verbose`.
fn checks(checks: &[Check], query: Option<&str>) -> Response<Full<Bytes>> {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let good = checks.iter().all(|check| check.failure.is_none());
    let mut body = String::new();
    for check in checks.iter().filter(|check| verbose || check.failure.is_some()) {
        body.push_str(&check.to_string());
        body.push('\n');
    }
    body.push_str(if good { "ok\n" } else { "failed\n" });
    text(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
