//! Asking a vendor for the URL of one conversation (a signed URL): one GET on a connection of its own.
//!
//! Redirects are not followed, the answer is bounded, and its URL must be as well protected as the question was.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use crate::agent::UrlFetch;
use crate::message::{AgentError, FailureClass};
use crate::upstream::dial::{failure, place, refusal};
use crate::upstream::exchange::{Call, exchange};

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The URL to dial. The caller keeps the deadline; `seats` bounds how many run at once.
///
/// # Errors
/// Why there is none, with the class that decides whether another try may help. No secret is in it.
pub(super) async fn fetch(tls: Arc<ClientConfig>, seats: Arc<Semaphore>, wanted: UrlFetch) -> Result<Url, AgentError> {
    let _seat = seats.acquire().await;
    let url = &wanted.url;
    let call = Call { headers: wanted.headers.clone(), ..Call::get(url.clone(), Duration::MAX, MAX_ANSWER) };
    let answer = exchange(&tls, call).await?;
    let status = answer.status;
    if !status.is_success() {
        return Err(refusal(url, status, &answer.body));
    }
    read(&wanted, &answer.body)
}

fn read(wanted: &UrlFetch, body: &[u8]) -> Result<Url, AgentError> {
    let wrong = |what: &str| {
        let text = format!("the answer of {} has no usable `{}`: {what}", place(&wanted.url), wanted.field);
        failure(FailureClass::Protocol, text)
    };
    let answer: Value = serde_json::from_slice(body).map_err(|_| wrong("it is no JSON"))?;
    let text = answer[wanted.field].as_str().ok_or_else(|| wrong("there is no such text"))?;
    let url: Url = text.parse().map_err(|_| wrong("it is no URL"))?;
    match (wanted.url.scheme(), url.scheme()) {
        (_, "wss") => Ok(url),
        ("http", "ws") if url.host() == wanted.url.host() => Ok(url),
        ("http", "ws") => Err(wrong("without TLS it must be on the same host")),
        (_, "ws") => Err(wrong("it is not encrypted")),
        _ => Err(wrong("it is no WebSocket URL")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::upstream::trust::Trust;

    /// What comes of an answer, and the request that it answers.
    async fn asked(answer: String) -> (Result<Url, AgentError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let wanted = UrlFetch {
            url: format!("http://{at}/sign?agent_id=a").parse().unwrap(),
            headers: vec![("xi-api-key".into(), "hidden".to_owned().into())],
            field: "signed_url",
        };
        let serving = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let count = tcp.read(&mut request).await.unwrap();
            let _ = tcp.write_all(answer.replace("HOST", &at.to_string()).as_bytes()).await;
            String::from_utf8(request[..count].to_vec()).unwrap()
        };
        let fetching = fetch(Trust::default().tcp(None).unwrap(), Arc::new(Semaphore::new(1)), wanted);
        let fetching = tokio::time::timeout(Duration::from_secs(5), fetching);
        let (url, request) = tokio::join!(fetching, serving);
        (url.expect("an answer"), request)
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn the_key_goes_along_and_the_url_comes_back() {
        let body = r#"{"signed_url":"ws://127.0.0.1:9/v1/convai/conversation?agent_id=a&conversation_signature=s"}"#;
        let (url, request) = asked(ok(body)).await;
        assert_eq!(url.unwrap().query(), Some("agent_id=a&conversation_signature=s"));
        assert!(request.starts_with("GET /sign?agent_id=a HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("xi-api-key: hidden\r\n"), "{request}");
    }

    #[tokio::test]
    async fn an_answer_that_is_no_url_of_the_same_protection_is_refused() {
        for (body, what) in [
            (r#"{"signed_url":"ws://203.0.113.9/steal"}"#, "same host"),
            (r#"{"signed_url":"http://127.0.0.1/"}"#, "WebSocket"),
            (r#"{"signed_url":7}"#, "no such text"),
            ("<html>", "no JSON"),
        ] {
            let error = asked(ok(body)).await.0.unwrap_err();
            assert_eq!(error.class, FailureClass::Protocol, "{error:?}");
            assert!(error.message.contains(what), "{error:?}");
        }
        let wanted =
            UrlFetch { url: "https://vendor.example/sign".parse().unwrap(), headers: Vec::new(), field: "signed_url" };
        let error = read(&wanted, br#"{"signed_url":"ws://vendor.example/"}"#).unwrap_err();
        assert!(error.message.contains("not encrypted"), "{error:?}");
        assert!(read(&wanted, br#"{"signed_url":"wss://eu.vendor.example/"}"#).is_ok());
    }

    #[tokio::test]
    async fn a_refusal_has_a_class_a_redirect_leads_nowhere_and_a_long_answer_is_not_read() {
        let refused = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 9\r\n\r\nwrong key".to_owned();
        let error = asked(refused).await.0.unwrap_err();
        assert_eq!((error.class, error.code.as_deref()), (FailureClass::Auth, Some("401")));
        assert!(error.message.contains("wrong key") && !error.message.contains("hidden"), "{error:?}");
        let moved = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://HOST/\r\ncontent-length: 0\r\n\r\n".to_owned();
        let error = asked(moved).await.0.unwrap_err();
        assert!(error.class == FailureClass::BadRequest && error.message.contains("not followed"), "{error:?}");
        let error = asked(ok(&" ".repeat(MAX_ANSWER + 1))).await.0.unwrap_err();
        assert_eq!(error.class, FailureClass::Protocol, "{error:?}");
    }
}
