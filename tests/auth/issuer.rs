//! What stands around a daemon that asks for credentials: an identity provider, and services that it asks.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Seconds of Unix time.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An identity provider with one Ed25519 key.
pub struct Issuer {
    /// The key's id.
    pub id: String,
    key: EncodingKey,
    public: String,
}

impl Issuer {
    pub fn new(id: &str) -> Issuer {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        Issuer { id: id.to_owned(), key, public: URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()) }
    }

    /// Its key as a JWK.
    pub fn jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": self.id, "x": self.public })
    }

    /// Its key set.
    pub fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// A token with these claims over `ann`'s, good for a minute.
    pub fn token(&self, claims: Value) -> String {
        self.signed(json!({ "alg": "EdDSA", "kid": self.id }), claims)
    }

    /// The same with a header of one's own.
    pub fn signed(&self, header: Value, claims: Value) -> String {
        let mut all = json!({ "sub": "ann", "iss": "https://idp.example/", "aud": "antiphon", "exp": now() + 60 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&all));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, Algorithm::EdDSA).unwrap();
        format!("{signed}.{signature}")
    }
}

/// A request that a [`Service`] got.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: String,
}

type Answer = Arc<dyn Fn(&Request) -> (u16, String) + Send + Sync>;

/// An HTTP service.
pub struct Service {
    pub url: String,
    pub asked: Arc<AtomicU32>,
    pub requests: Arc<Mutex<Vec<Request>>>,
    answer: Arc<Mutex<Answer>>,
    /// While it is true, no answer goes out.
    pub held: Arc<watch::Sender<bool>>,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    /// One that answers so.
    pub async fn start(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (asked, requests) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Arc::new(answer)));
        let held = Arc::new(watch::Sender::new(false));
        let (count, kept, answering, holding) = (asked.clone(), requests.clone(), answer.clone(), held.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let (count, kept, answering) = (count.clone(), kept.clone(), answering.clone());
                let mut held = holding.subscribe();
                tokio::spawn(async move {
                    let Some(request) = read(&mut tcp).await else { return };
                    count.fetch_add(1, SeqCst);
                    let answer = answering.lock().unwrap().clone();
                    let (status, body) = answer(&request);
                    kept.lock().unwrap().push(request);
                    let _ = held.wait_for(|held| !held).await;
                    let length = body.len();
                    let text = format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n\r\n{body}");
                    let _ = tcp.write_all(text.as_bytes()).await;
                });
            }
        });
        Service { url, asked, requests, answer, held, task }
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    pub fn asked(&self) -> u32 {
        self.asked.load(SeqCst)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(tcp: &mut tokio::net::TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = tcp.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = super::header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            return Some(Request { head: head.to_owned(), body: body.to_owned() });
        }
    }
}
