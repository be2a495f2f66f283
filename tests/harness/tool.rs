//! Where tools run: an HTTP server whose answers a test gives when it likes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::PATIENCE;

/// A server of tools.
pub struct ToolServer {
    /// For `url` of a tool.
    pub url: String,
    asked: mpsc::Receiver<Asked>,
    count: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

/// A request that waits for its answer.
pub struct Asked {
    /// Its headers.
    pub headers: http::HeaderMap,
    /// Its body as it came.
    pub raw: Bytes,
    /// Its body.
    pub body: Value,
    answer: oneshot::Sender<http::Response<Full<Bytes>>>,
}

impl ToolServer {
    /// Listens on a free port.
    pub async fn start() -> ToolServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/tools/any?key=hidden", listener.local_addr().unwrap());
        let (sender, asked) = mpsc::channel(64);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (sender, counted) = (sender.clone(), counted.clone());
                let service = service_fn(move |request| serve(request, sender.clone(), counted.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        ToolServer { url, asked, count, _task: AbortOnDropHandle::new(task) }
    }

    /// The next request.
    pub async fn asked(&mut self) -> Asked {
        timeout(PATIENCE, self.asked.recv()).await.expect("the tool is not called").unwrap()
    }

    /// How many requests have come.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }
}

async fn serve(
    request: http::Request<Incoming>,
    sender: mpsc::Sender<Asked>,
    counted: Arc<AtomicUsize>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    counted.fetch_add(1, Relaxed);
    let (parts, body) = request.into_parts();
    let raw = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&raw).unwrap_or_default();
    let (answer, given) = oneshot::channel();
    let _ = sender.send(Asked { headers: parts.headers, raw, body, answer }).await;
    Ok(given.await.unwrap_or_default())
}

impl Asked {
    /// Answers with this status and body.
    pub fn answer(self, status: u16, body: &str) {
        let answer = http::Response::builder().status(status).header("location", "http://127.0.0.1:1/");
        let _ = self.answer.send(answer.body(Full::from(body.to_owned())).unwrap());
    }

    /// Waits until whoever asked has gone.
    pub async fn gone(mut self) {
        timeout(PATIENCE, self.answer.closed()).await.expect("the request is not broken off");
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}
