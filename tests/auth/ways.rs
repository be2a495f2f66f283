//! Every way in: each transport, and each place for a token.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::harness::{Caller, Daemon, Heard, PATIENCE, ask, peer::Peer, quic, run};

/// Where a token is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Header,
    Subprotocol,
    Query,
    Message,
    OpenaiHeader,
    OpenaiSubprotocol,
    WebrtcHeader,
    WebrtcStart,
    Whip,
    OpenaiCall,
    Quic,
    WebTransport,
}

pub const ALL: [Way; 12] = [
    Way::Header,
    Way::Subprotocol,
    Way::Query,
    Way::Message,
    Way::OpenaiHeader,
    Way::OpenaiSubprotocol,
    Way::WebrtcHeader,
    Way::WebrtcStart,
    Way::Whip,
    Way::OpenaiCall,
    Way::Quic,
    Way::WebTransport,
];

/// How it went: the session began, or the status or code (0 on a data channel) and the reason with which it was refused.
pub type Outcome = Result<(), (u16, String)>;

/// Tries to begin a session with `agent`, showing `token`.
pub async fn enter(daemon: &Daemon, way: Way, token: &str, agent: &str) -> Outcome {
    match way {
        Way::Header | Way::Subprotocol | Way::Query | Way::Message => native(daemon, way, token, agent).await,
        Way::OpenaiHeader | Way::OpenaiSubprotocol => openai(daemon, way, token, agent).await,
        Way::WebrtcHeader | Way::WebrtcStart | Way::Whip | Way::OpenaiCall => webrtc(daemon, way, token, agent).await,
        Way::Quic => by_quic(daemon, token, agent).await,
        Way::WebTransport => web_transport(daemon, token, agent).await,
    }
}

/// A WebSocket, or the HTTP status and body with which it was refused.
pub async fn open(daemon: &Daemon, path: &str, headers: &[(&'static str, String)]) -> Result<Caller, (u16, Value)> {
    let tcp = TcpStream::connect(daemon.http).await.unwrap();
    let mut request = format!("ws://{}{path}", daemon.http).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match timeout(PATIENCE, tokio_tungstenite::client_async(request, tcp)).await.unwrap() {
        Ok((socket, _)) => Ok(Caller { socket }),
        Err(Error::Http(answer)) => {
            let body = answer.body().as_deref().unwrap_or_default();
            Err((answer.status().as_u16(), serde_json::from_slice(body).unwrap_or_default()))
        }
        Err(error) => panic!("{error}"),
    }
}

fn start(agent: &str, token: Option<&str>) -> Value {
    let format = json!({ "codec": "pcm16", "rate": 16000 });
    json!({ "type": "start", "agent": agent, "token": token, "audio": { "in": format, "out": format } })
}

async fn native(daemon: &Daemon, way: Way, token: &str, agent: &str) -> Outcome {
    let mut headers = vec![("sec-websocket-protocol", "antiphon.v1".to_owned())];
    let (mut path, mut first) = ("/v1/session".to_owned(), None);
    match way {
        Way::Header => headers.push(("authorization", format!("Bearer {token}"))),
        Way::Subprotocol => headers[0].1 = format!("antiphon.v1, antiphon.token.{token}"),
        Way::Query => path = format!("/v1/session?token={token}"),
        _ => first = Some(token),
    }
    let mut caller = match open(daemon, &path, &headers).await {
        Ok(caller) => caller,
        Err((status, body)) => return Err((status, body["reason"].as_str().unwrap_or_default().to_owned())),
    };
    caller.say(start(agent, first)).await;
    began(&mut caller, "started").await
}

/// Whether a session begins on a socket: it says `kind`, or why not.
pub async fn began(caller: &mut Caller, kind: &str) -> Outcome {
    let mut reason = String::new();
    loop {
        match caller.hear().await {
            Heard::Control(message) if message["type"] == kind => return Ok(()),
            Heard::Control(message) if message["type"] == "error" => {
                let of_openai = message["error"]["code"].as_str();
                message["reason"].as_str().or(of_openai).unwrap_or_default().clone_into(&mut reason);
            }
            Heard::Control(_) | Heard::Audio(_) => {}
            Heard::Closed(code, told) => {
                assert!(reason.is_empty() || reason == told, "{reason} and {told}");
                return Err((code, told));
            }
            Heard::Gone => panic!("neither begun nor refused"),
        }
    }
}

async fn openai(daemon: &Daemon, way: Way, token: &str, agent: &str) -> Outcome {
    let header = match way {
        Way::OpenaiHeader => ("authorization", format!("Bearer {token}")),
        _ => ("sec-websocket-protocol", format!("realtime, openai-insecure-api-key.{token}")),
    };
    let mut caller = match open(daemon, &format!("/v1/realtime?model={agent}"), &[header]).await {
        Ok(caller) => caller,
        Err((status, body)) => return Err((status, body["error"]["code"].as_str().unwrap_or_default().to_owned())),
    };
    caller.say(json!({ "type": "session.update", "session": { "type": "realtime" } })).await;
    began(&mut caller, "session.updated").await
}

async fn webrtc(daemon: &Daemon, way: Way, token: &str, agent: &str) -> Outcome {
    let (rtc, socket, local, mid, channel, sdp, pending) = Peer::offer().await;
    let bearer = format!("authorization: Bearer {token}");
    let (path, headers, body) = match way {
        Way::Whip => (format!("/whip?agent={agent}"), vec!["content-type: application/sdp", &bearer], sdp),
        Way::OpenaiCall => {
            (format!("/v1/realtime/calls?model={agent}"), vec!["content-type: application/sdp", &bearer], sdp)
        }
        Way::WebrtcHeader => {
            let body = json!({ "sdp": sdp, "start": { "agent": agent } }).to_string();
            ("/v1/session/webrtc".to_owned(), vec!["content-type: application/json", &bearer], body)
        }
        _ => {
            let body = json!({ "sdp": sdp, "start": { "agent": agent, "token": token } }).to_string();
            ("/v1/session/webrtc".to_owned(), vec!["content-type: application/json"], body)
        }
    };
    let (status, head, body) = ask(daemon.http, "POST", &path, &headers, &body).await;
    if status == 201 && ([Way::Whip, Way::OpenaiCall].contains(&way) || body.contains("\"started\"")) {
        return Ok(());
    }
    if status == 201 {
        // It is being decided: the data channel tells.
        let mut peer = Peer::take((&head, &body), rtc, (mid, channel), pending, None).await;
        (peer.socket, peer.local) = (socket, local);
        peer.until(|peer| peer.was_told("started") || peer.was_told("error")).await;
        let error = peer.told.iter().find(|message| message["type"] == "error");
        return error.map_or(Ok(()), |error| Err((0, error["reason"].as_str().unwrap_or_default().to_owned())));
    }
    assert!(status != 401 || head.to_ascii_lowercase().contains("www-authenticate: bearer"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let of_openai = body["error"]["code"].as_str();
    Err((status, body["reason"].as_str().or(of_openai).unwrap_or_default().to_owned()))
}

async fn by_quic(daemon: &Daemon, token: &str, agent: &str) -> Outcome {
    let client = quic::Client::connect(daemon).await;
    let mut session = client.open(1, &start(agent, Some(token))).await;
    let first = session.hear().await.expect("an answer");
    if first["type"] == "started" {
        return Ok(());
    }
    let (_, _, code) = session.hear_out().await;
    Err((code.unwrap_or_default() as u16, first["reason"].as_str().unwrap_or_default().to_owned()))
}

/// By `antiphon call`, which shows the token on the request and in `start`.
async fn web_transport(daemon: &Daemon, token: &str, agent: &str) -> Outcome {
    let url = format!("http://{}", daemon.http);
    let arguments =
        ["call", "--url", &url, "--transport", "webtransport", "--agent", agent, "--token", token, "--json"];
    let output = timeout(Duration::from_secs(60), run(&arguments, &[])).await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    if report["ok"] == true {
        return Ok(());
    }
    let error = report["error"].as_str().unwrap_or_default();
    let reason = error.split('(').next_back().and_then(|rest| rest.split(')').next()).unwrap_or_default();
    Err((4401, reason.to_owned()))
}
