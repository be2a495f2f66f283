//! The example agent servers, called over a real socket by the relay's own side of the protocol.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use antiphon::agent::native::NativeAgent;
use antiphon::agent::{Agent, AgentOutput, Wire};
use antiphon::config::settings::{WebsocketAgent, WebsocketProtocol};
use antiphon::ids::TurnId;
use antiphon::media::format::Format;
use antiphon::message::{AgentAudioOut, AgentPlayout, AgentStart, Basis, FromAgent, Role, Setup, ToAgent, Truncate};
use antiphon::time::Micros;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../examples/agent.rs"]
mod example;

/// A server has so long for each answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// One call with an example server.
struct Caller {
    agent: NativeAgent,
    socket: WebSocketStream<TcpStream>,
    began: Instant,
}

impl Caller {
    async fn connect(port: u16) -> Caller {
        let url = format!("ws://127.0.0.1:{port}/");
        let settings = WebsocketAgent {
            url: url.parse().unwrap(),
            headers: Vec::new(),
            protocol: WebsocketProtocol::Native,
            uplink: Format::pcm16(16_000),
            downlink: Format::pcm16(24_000),
            connect_timeout: PATIENCE,
            authorities: None,
        };
        let agent = NativeAgent::new(&settings, serde_json::Value::Null);
        let mut request = url.as_str().into_client_request().unwrap();
        let offered = agent.endpoint().unwrap().subprotocols.join(", ").parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", offered);
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "antiphon.v1");
        Caller { agent, socket, began: Instant::now() }
    }

    fn now(&self) -> Micros {
        Micros(self.began.elapsed().as_micros() as u64)
    }

    async fn say(&mut self, message: ToAgent) {
        let now = self.now();
        self.agent.handle_session(message, now);
        assert!(self.flush().await.is_empty(), "nothing was heard yet");
    }

    /// Sends what the agent has to send; what the session would hear.
    async fn flush(&mut self) -> Vec<FromAgent> {
        let mut events = Vec::new();
        loop {
            match self.agent.poll(self.now()) {
                AgentOutput::Wire(wire) | AgentOutput::Audio { wire, .. } => {
                    let message = match wire {
                        Wire::Text(text) => Message::text(text),
                        Wire::Binary(bytes) => Message::binary(bytes),
                        Wire::Close(..) => Message::Close(None),
                    };
                    self.socket.send(message).await.unwrap();
                }
                AgentOutput::Event(event) => events.push(event),
                AgentOutput::Idle { .. } => return events,
                AgentOutput::Redial | AgentOutput::Request(_) | AgentOutput::Abort(_) => panic!("it has one socket"),
            }
        }
    }

    /// Listens until the event that is waited for; all events up to it and with it.
    async fn hear(&mut self, what: &str, wanted: impl Fn(&FromAgent) -> bool) -> Vec<FromAgent> {
        let mut heard = Vec::new();
        while !heard.iter().any(&wanted) {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            let message = message.unwrap_or_else(|_| panic!("{what} did not come; heard: {heard:?}"));
            let wire = match message.expect("the server goes on").unwrap() {
                Message::Text(text) => Wire::Text(text.to_string()),
                Message::Binary(bytes) => Wire::Binary(bytes),
                Message::Close(_) => Wire::Close(1000, String::new()),
                _ => continue,
            };
            let now = self.now();
            self.agent.handle_wire(wire, now);
            heard.extend(self.flush().await);
        }
        heard
    }

    /// 20 ms frames at once: the examples go by the audio, not by the clock.
    async fn speak(&mut self, amplitude: f64, ms: usize) {
        for frame in 0..ms / 20 {
            let samples = (0..320).map(|n| (amplitude * (f64::from(n) * 0.1).sin()) as i16);
            let payload: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
            let audio = AgentAudioOut {
                pos: frame as u64 * 320,
                ticks: 320,
                ready: self.now(),
                filled: false,
                payload: payload.into(),
            };
            self.say(ToAgent::Audio(audio)).await;
        }
    }
}

fn start() -> ToAgent {
    ToAgent::Start(AgentStart {
        setup: Setup::default(),
        context: Vec::new(),
        session_id: "s-1".into(),
        conversation_id: "c-1".into(),
        client_context: None,
        metadata: None,
        greet: true,
        client: None,
    })
}

fn audio_ms(events: &[FromAgent]) -> usize {
    let bytes = |event: &FromAgent| if let FromAgent::Audio(audio) = event { audio.payload.len() } else { 0 };
    events.iter().map(bytes).sum::<usize>() / 48
}

async fn hold_a_call(port: u16) {
    let mut caller = Caller::connect(port).await;
    caller.say(start()).await;
    let ready = caller.hear("started", |event| matches!(event, FromAgent::Ready(_))).await;
    assert!(matches!(&ready[..], [FromAgent::Ready(ready)] if ready.downlink == Format::pcm16(24_000)));
    let greeting = caller.hear("the greeting", |event| matches!(event, FromAgent::TurnEnded)).await;
    assert!(matches!(&greeting[0], FromAgent::TurnStarted(Some(item)) if item.as_str() == "a-1"), "{greeting:?}");
    assert_eq!(audio_ms(&greeting), 750);

    // The caller interrupts after 300 ms of it: the server flushes, and is told what was heard.
    let played = AgentPlayout { played: Duration::from_millis(200), buffered: Duration::ZERO, flush: None };
    caller.say(ToAgent::Playout(played)).await;
    caller.say(ToAgent::Cancel(TurnId(1))).await;
    caller.hear("the flush", |event| matches!(event, FromAgent::Interrupted)).await;
    let (heard, of) = (Duration::from_millis(300), Duration::from_millis(750));
    let (item, turn) = (Some("a-1".into()), TurnId(1));
    let error = Duration::ZERO;
    caller.say(ToAgent::Truncate(Truncate { turn, item, heard, of, basis: Basis::Reported, error })).await;

    // An utterance of a second, then a pause: it is measured and answered.
    caller.speak(8000.0, 1000).await;
    caller.speak(0.0, 700).await;
    let answer = caller.hear("the answer", |event| matches!(event, FromAgent::TurnEnded)).await;
    let said = answer.iter().find_map(|event| match event {
        FromAgent::Transcript(transcript) if transcript.role == Role::User => Some(transcript.text.clone()),
        _ => None,
    });
    assert_eq!(said.as_deref(), Some("(1.0 s at -15 dBFS)"));
    assert_eq!(audio_ms(&answer), 7 * 250);

    // The caller speaks into that answer: the server stops by itself.
    caller.speak(8000.0, 400).await;
    caller.hear("the server's own stop", |event| matches!(event, FromAgent::Interrupted)).await;
    caller.say(ToAgent::End).await;
    let end = caller.hear("the end", |event| matches!(event, FromAgent::Ended(_))).await;
    assert!(matches!(end.last(), Some(FromAgent::Ended(end)) if end.failure.is_none()), "{end:?}");
    assert_eq!(caller.agent.ignored(), 0);
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_rust_example_greets_answers_and_stops_when_interrupted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move { example::serve(listener.accept().await.unwrap().0).await });
    hold_a_call(port).await;
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_python_example_greets_answers_and_stops_when_interrupted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.exists(), "{} is missing; run `make setup`", python.display());
    let mut server = Command::new(python);
    server.arg(root.join("examples/agent.py")).arg("0").stdout(Stdio::piped());
    let mut server = Server(server.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().trim_end_matches(')').rsplit(' ').next().and_then(|port| port.parse().ok());
    hold_a_call(port.unwrap_or_else(|| panic!("no port in {line:?}"))).await;
}
