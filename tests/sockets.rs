//! TLS towards clients, and WebSockets towards agents.

mod harness;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::{Caller, Daemon, echo_call_with};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// Writes a certificate of its own for localhost and its key; gives the certificate.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// GET over TLS, trusting one certificate.
async fn get_encrypted(daemon: &Daemon, trusted: CertificateDer<'static>, path: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(daemon.http).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    tls.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_renewed_certificate_is_served_after_a_reload() {
    let folder = harness::folder();
    let first = certify(&folder);
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    let variables = [("ANTIPHON_HTTP__TLS__CERT", cert.as_str()), ("ANTIPHON_HTTP__TLS__KEY", key.as_str())];
    let daemon = Daemon::start(&variables).await;
    let answer = get_encrypted(&daemon, first.clone(), "/v1/endpoints").await.unwrap();
    assert!(answer.contains("wss://localhost/v1/session"), "{answer}");

    let second = certify(&folder);
    daemon.signal("HUP");
    daemon.notified("RELOADING=1").await;
    daemon.notified("READY=1").await;
    get_encrypted(&daemon, second.clone(), "/").await.unwrap();
    get_encrypted(&daemon, first, "/").await.expect_err("the old certificate is still served");

    std::fs::write(&cert, "not a certificate").unwrap();
    daemon.signal("HUP");
    daemon.notified("RELOADING=1").await;
    daemon.notified("READY=1").await;
    get_encrypted(&daemon, second, "/").await.expect("a bad certificate must not replace a good one");
}

#[tokio::test]
async fn another_antiphon_is_an_agent() {
    let far = Daemon::start(&[]).await;
    let config = format!(
        "[agent.far]\nkind = \"websocket\"\nurl = \"ws://{}/v1/session\"\naudio_in = \"pcm16/16000\"\n\
         audio_out = \"pcm16/16000\"\n[agent.far.vendor]\nagent = \"echo\"\n",
        far.http
    );
    let near = Daemon::start_with(Some(&config), &[]).await;
    let report = echo_call_with(&near, "far", Duration::from_secs(1)).await;
    assert_eq!(report.wrong, 0, "{report:?}");
}

#[tokio::test]
async fn an_agent_that_cannot_be_reached_is_told_to_the_caller() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = format!("[agent.gone]\nkind = \"websocket\"\nurl = \"ws://{nobody}/\"\n");
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let mut caller = Caller::connect(&daemon).await;
    caller.say(json!({ "type": "start", "agent": "gone" })).await;
    let (messages, code) = caller.hear_out().await;
    assert_eq!(code, 1013, "{messages:?}");
    assert!(messages.iter().any(|message| message["type"] == "ended" && message["reason"] == "agent_failed"));
    assert_eq!(daemon.metric("antiphon_upstream_failures_total", "unreachable").await, 1.0);
}
