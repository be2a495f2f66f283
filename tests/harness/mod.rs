//! Starts the real binary on free ports, and talks to it as clients do.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod agent;
pub mod forward;
pub mod peer;
pub mod phone;
pub mod program;
pub mod quic;
pub mod redis;
pub mod speaker;
pub mod speech;
pub mod tool;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// Whatever takes longer than this is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// A fresh folder of this test.
pub fn folder() -> PathBuf {
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("antiphon-test-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// The command line of the daemon, without any variable of this environment that it would read.
pub fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ANTIPHON_") || name == "NOTIFY_SOCKET") {
        command.env_remove(name);
    }
    command.env("ANTIPHON_LISTEN__HTTP", "127.0.0.1:0").env("ANTIPHON_LISTEN__CONTROL", "127.0.0.1:0");
    command.env("ANTIPHON_LISTEN__WEBRTC", "127.0.0.1:0").env("ANTIPHON_LISTEN__QUIC", "127.0.0.1:0");
    command.envs(variables.iter().copied()).kill_on_drop(true);
    command
}

/// A running daemon; it is killed when dropped.
pub struct Daemon {
    child: Child,
    /// HTTP and WebSocket.
    pub http: SocketAddr,
    /// Health and metrics.
    pub control: SocketAddr,
    /// WebRTC.
    pub webrtc: Option<SocketAddr>,
    /// QUIC and WebTransport.
    pub quic: Option<SocketAddr>,
    /// Of its files.
    pub folder: PathBuf,
    notifications: UnixDatagram,
}

impl Daemon {
    /// Starts it with these variables and waits until it is ready.
    pub async fn start(variables: &[(&str, &str)]) -> Daemon {
        Daemon::start_with(None, variables).await
    }

    /// As [`Daemon::start`], with a configuration, which is written to `antiphon.toml` in its folder.
    pub async fn start_with(config: Option<&str>, variables: &[(&str, &str)]) -> Daemon {
        let folder = folder();
        let notify = folder.join("notify");
        let notifications = UnixDatagram::bind(&notify).unwrap();
        let ready_file = folder.join("ready.json");
        let mut command = command(variables);
        command.arg("run").arg("--ready-file").arg(&ready_file).env("NOTIFY_SOCKET", &notify);
        if let Some(config) = config {
            let file = folder.join("antiphon.toml");
            std::fs::write(&file, config).unwrap();
            command.arg("--config").arg(file);
        }
        command.stdout(Stdio::null()).stderr(std::fs::File::create(folder.join("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        tokio::select! {
            () = wait_for(&notifications, "READY=1") => {}
            status = child.wait() => {
                panic!("it ended with {}: {}", status.unwrap(), std::fs::read_to_string(folder.join("stderr")).unwrap());
            }
        }
        let bound: Value = serde_json::from_str(&std::fs::read_to_string(&ready_file).unwrap()).unwrap();
        let address = |key: &str| bound[key].as_str().unwrap().parse().unwrap();
        let webrtc = bound["webrtc"].as_str().map(|address| address.parse().unwrap());
        let quic = bound["quic"].as_str().map(|address| address.parse().unwrap());
        Daemon { child, http: address("http"), control: address("control"), webrtc, quic, folder, notifications }
    }

    /// Waits for a state sent to the service manager.
    pub async fn notified(&self, state: &str) {
        timeout(PATIENCE, wait_for(&self.notifications, state)).await.unwrap_or_else(|_| panic!("{state} never came"));
    }

    /// Sends a signal, like `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it does not end").unwrap()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// The record of its only call, once that has ended.
    pub async fn call_record(&self) -> Value {
        let looking = async {
            loop {
                if let Some((_, record)) = self.log().split_once("call ended record=") {
                    let record = record.lines().next().unwrap();
                    let record: String = serde_json::from_str(record).unwrap();
                    return serde_json::from_str(&record).unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, looking).await.expect("the call does not end")
    }

    /// The sum of all series of a metric whose labels contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, _, text) = get(self.control, "/metrics").await;
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
        });
        series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn wait_for(notifications: &UnixDatagram, state: &str) {
    let mut buffer = [0; 4096];
    loop {
        let count = notifications.recv(&mut buffer).await.unwrap();
        if String::from_utf8_lossy(&buffer[..count]).lines().any(|line| line == state) {
            return;
        }
    }
}

/// Runs the binary to its end.
pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    run_for(PATIENCE, arguments, variables).await
}

/// Runs the binary to its end, which may take so long.
pub async fn run_for(patience: Duration, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    timeout(patience, command(variables).args(arguments).output()).await.expect("it does not end").unwrap()
}

/// Status, head and body of a GET.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, tcp.read_to_string(&mut answer)).await.expect("no answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body =
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body)
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// What a client can hear.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// A control message.
    Control(Value),
    /// An audio frame.
    Audio(Bytes),
    /// The close frame.
    Closed(u16, String),
    /// The end of the connection.
    Gone,
}

/// The next thing that comes on a socket, whichever end this is.
pub async fn hear(socket: &mut WebSocketStream<TcpStream>) -> Heard {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("nothing comes") {
            Some(Ok(Message::Text(text))) => return Heard::Control(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Binary(bytes))) => return Heard::Audio(bytes),
            Some(Ok(Message::Close(Some(frame)))) => {
                return Heard::Closed(frame.code.into(), frame.reason.to_string());
            }
            Some(Ok(Message::Close(None))) => return Heard::Closed(1005, String::new()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Heard::Gone,
        }
    }
}

/// Asks for a session's WebSocket by hand; gives the socket and the head of the answer.
pub async fn upgrade(daemon: &Daemon) -> (TcpStream, String) {
    let mut tcp = TcpStream::connect(daemon.http).await.unwrap();
    let request = format!(
        "GET /v1/session HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        daemon.http
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, tcp.read_u8()).await.unwrap().unwrap());
    }
    (tcp, String::from_utf8(head).unwrap())
}

/// A client of the native protocol.
pub struct Caller {
    /// Its socket.
    pub socket: WebSocketStream<TcpStream>,
}

impl Caller {
    /// Connects and upgrades.
    pub async fn connect(daemon: &Daemon) -> Caller {
        Caller::connect_to(daemon.http).await
    }

    /// As [`Caller::connect`], to an address.
    pub async fn connect_to(address: SocketAddr) -> Caller {
        Caller::try_connect_to(address).await.unwrap()
    }

    /// As [`Caller::connect`]; the HTTP status if that is refused.
    pub async fn try_connect(daemon: &Daemon) -> Result<Caller, u16> {
        Caller::try_connect_to(daemon.http).await
    }

    async fn try_connect_to(address: SocketAddr) -> Result<Caller, u16> {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut request = format!("ws://{address}/v1/session").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "antiphon.v1".parse().unwrap());
        match timeout(PATIENCE, tokio_tungstenite::client_async(request, tcp)).await.unwrap() {
            Ok((socket, _)) => Ok(Caller { socket }),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Connects, and upgrades by hand, so that raw bytes can be sent first.
    pub async fn connect_raw(daemon: &Daemon, raw: &[u8]) -> Caller {
        let (mut tcp, _) = upgrade(daemon).await;
        tcp.write_all(raw).await.unwrap();
        Caller { socket: WebSocketStream::from_raw_socket(tcp, Role::Client, None).await }
    }

    /// Connects and starts a session with an agent, PCM at 16 kHz both ways; gives `started` too.
    pub async fn call(daemon: &Daemon, agent: &str) -> (Caller, Value) {
        Caller::call_at(daemon.http, agent).await
    }

    /// As [`Caller::call`], at an address.
    pub async fn call_at(address: SocketAddr, agent: &str) -> (Caller, Value) {
        let mut caller = Caller::connect_to(address).await;
        let format = json!({ "codec": "pcm16", "rate": 16000 });
        caller.say(json!({ "type": "start", "agent": agent, "audio": { "in": format, "out": format } })).await;
        let started = caller.hear_type("started").await;
        (caller, started)
    }

    /// Sends a control message.
    pub async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Sends an audio frame.
    pub async fn speak(&mut self, frame: Bytes) {
        self.socket.send(Message::Binary(frame)).await.unwrap();
    }

    /// The next thing that comes.
    pub async fn hear(&mut self) -> Heard {
        hear(&mut self.socket).await
    }

    /// The next control message of a type; others and audio are passed over.
    pub async fn hear_type(&mut self, kind: &str) -> Value {
        loop {
            match self.hear().await {
                Heard::Control(message) if message["type"] == kind => return message,
                Heard::Control(_) | Heard::Audio(_) => {}
                end => panic!("`{kind}` never came, but {end:?}"),
            }
        }
    }

    /// All control messages until the end, and the close code (1006: none).
    pub async fn hear_out(&mut self) -> (Vec<Value>, u16) {
        let mut messages = Vec::new();
        loop {
            match self.hear().await {
                Heard::Control(message) => messages.push(message),
                Heard::Audio(_) => {}
                Heard::Closed(code, _) => return (messages, code),
                Heard::Gone => return (messages, 1006),
            }
        }
    }
}

/// How a well-behaved call went.
#[derive(Debug)]
pub struct EchoReport {
    /// Bytes that came back other than they were sent, or not at all.
    pub wrong: usize,
    /// The longest time that an echo came later than announced.
    pub latest: Duration,
}

/// Holds a call with `echo`; see [`echo_call_with`].
pub async fn echo_call(daemon: &Daemon, length: Duration) -> EchoReport {
    echo_call_with(daemon, "echo", length).await
}

/// Holds a call with an agent that echoes for `length`, sending a frame every 20 ms, and compares what comes back.
pub async fn echo_call_with(daemon: &Daemon, agent: &str, length: Duration) -> EchoReport {
    echo_call_at(daemon.http, agent, length).await
}

/// As [`echo_call_with`], at an address.
pub async fn echo_call_at(address: SocketAddr, agent: &str, length: Duration) -> EchoReport {
    const FRAME: usize = 640;
    let (caller, started) = Caller::call_at(address, agent).await;
    let delay = Duration::from_millis(started["agent"]["delay_ms"].as_u64().unwrap_or(1000));
    let frames = length.as_millis() as usize / 20;
    let audio: Vec<u8> = (0..frames * FRAME).map(|index| (index * 31 % 251) as u8).collect();
    let (mut sink, mut stream) = caller.socket.split();
    let begun = tokio::time::Instant::now();
    let speaking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let mut sent_at = Vec::new();
        for frame in audio.chunks(FRAME) {
            ticks.tick().await;
            sent_at.push(begun.elapsed());
            sink.send(Message::Binary(Bytes::copy_from_slice(frame))).await.unwrap();
        }
        sent_at
    };
    let hearing = async {
        let (mut back, mut came_at) = (Vec::new(), Vec::new());
        while back.len() < audio.len() {
            match timeout(PATIENCE, stream.next()).await.expect("the echo stopped") {
                Some(Ok(Message::Binary(bytes))) => {
                    back.extend_from_slice(&bytes);
                    came_at.push((back.len(), begun.elapsed()));
                }
                Some(Ok(_)) => {}
                end => panic!("a well-behaved call was ended: {end:?}"),
            }
        }
        (back, came_at)
    };
    let (sent_at, (back, came_at)) = tokio::join!(speaking, hearing);
    let wrong = back.iter().zip(&audio).filter(|(a, b)| a != b).count() + back.len().abs_diff(audio.len());
    let late = came_at.iter().map(|(end, at)| {
        let last = sent_at[(end - 1).min(audio.len() - 1) / FRAME];
        at.saturating_sub(last + delay)
    });
    let _ = timeout(PATIENCE, sink.send(Message::text(json!({ "type": "end" }).to_string()))).await;
    EchoReport { wrong, latest: late.max().unwrap_or_default() }
}

/// Status, head and body of any request.
pub async fn ask(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for header in headers {
        request += header;
        request += "\r\n";
    }
    request += &format!("content-length: {}\r\n\r\n{body}", body.len());
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, tcp.read_to_string(&mut answer)).await.expect("no answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
}

/// The value of a header.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map(|(_, v)| v.trim())
}
