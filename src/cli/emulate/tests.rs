//! A real server, real sockets, and the relay's own agent protocol as its client.

use super::*;
use crate::cli::call::SPEECH;
use crate::media::clip::Clip;
use bytes::Bytes;
use std::sync::Mutex;
use tokio_tungstenite::client_async;

struct Peer {
    socket: WebSocketStream<TcpStream>,
    log: Arc<Mutex<Vec<Value>>>,
    _server: tokio::task::JoinSet<()>,
}

impl Peer {
    async fn new(args: WsAgentArgs) -> Peer {
        let log = Arc::new(Mutex::new(Vec::new()));
        let told = log.clone();
        let sink: Log = Arc::new(move |line| told.lock().expect("log").push(line));
        let server = WsAgent::bind(args, sink).await.expect("binds");
        let (address, url) = (server.address, server.url());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(server.serve());
        let tcp = TcpStream::connect(address).await.expect("connects");
        let (socket, _) = client_async(url, tcp).await.expect("upgrades");
        Peer { socket, log, _server: tasks }
    }

    async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sends");
    }

    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(Duration::from_secs(10), self.socket.next());
        next.await.expect("something comes").expect("open").expect("no error")
    }

    /// The next control message of this type, and the audio bytes before it.
    async fn until(&mut self, kind: &str) -> (Value, usize) {
        let mut audio = 0;
        loop {
            match self.next().await {
                Message::Binary(payload) => audio += payload.len(),
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    if message["type"] == kind {
                        return (message, audio);
                    }
                }
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }
}

fn args(mode: AgentMode, protocol: AgentProtocol) -> WsAgentArgs {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let (format, close_after, stall) = (None, None, None);
    WsAgentArgs { listen, mode, format, protocol, close_after, close_code: 1011, stall, log: true }
}

const START: &str =
    r#"{"type":"start","audio":{"in":{"codec":"pcm16","rate":16000},"out":{"codec":"pcm16","rate":16000}}}"#;

#[tokio::test]
async fn a_talking_agent_is_interrupted_by_speech_and_answers_it() {
    let mut peer = Peer::new(args(AgentMode::Talk, AgentProtocol::Native)).await;
    peer.send(START).await;
    let (started, _) = peer.until("started").await;
    assert_eq!(started["audio"]["out"]["rate"], 16_000);
    assert_eq!(peer.until("turn").await.0["phase"], "start");
    assert!(peer.until("transcript").await.0["text"].as_str().is_some_and(|text| text.len() > 20));
    let (end, audio) = peer.until("turn").await;
    assert_eq!(end["phase"], "end");
    assert!((3 * 32_000..10 * 32_000).contains(&audio), "a sentence at once: {audio} bytes");

    let speech = Clip::parse(SPEECH).and_then(|clip| clip.resampled(16_000)).expect("embedded speech");
    let frame = |samples: &[i16]| {
        Message::Binary(Bytes::from(samples.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>()))
    };
    for samples in speech.samples.chunks(320) {
        peer.socket.send(frame(samples)).await.expect("sends");
    }
    for _ in 0..40 {
        peer.socket.send(frame(&[0; 320])).await.expect("sends");
    }
    assert_eq!(peer.until("flush").await.0["turn"], 1);
    assert_eq!(peer.until("speech").await.0["event"], "started");
    assert_eq!(peer.until("turn").await.0["turn"], 2);
    peer.send(r#"{"type":"playout","pos":5,"flush":1}"#).await;
    peer.send(r#"{"type":"message","id":"m","text":"hi"}"#).await;
    assert_eq!(peer.until("message").await.0["text"], "you wrote: hi");
    let log = peer.log.lock().expect("log");
    assert!(log.iter().any(|line| line["message"]["flush"] == 1), "{log:?}");
    assert!(log.iter().any(|line| line["event"] == "stopped"), "{log:?}");
}

#[tokio::test]
async fn an_echo_sends_frames_back_as_they_are() {
    for protocol in [AgentProtocol::Native, AgentProtocol::Plain] {
        let mut peer = Peer::new(args(AgentMode::Echo, protocol)).await;
        peer.send(START).await;
        for n in 0..5u8 {
            peer.socket.send(Message::Binary(Bytes::from(vec![n; 640]))).await.expect("sends");
        }
        let mut back = Vec::new();
        while back.len() < 5 {
            if let Message::Binary(payload) = peer.next().await {
                back.push(payload[0]);
            }
        }
        assert_eq!(back, [0, 1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_burst_is_longer_than_50_s_and_an_interrupt_stops_what_is_left_of_it() {
    let mut options = args(AgentMode::Burst, AgentProtocol::Plain);
    options.format = Some(Format::PCMU);
    let mut peer = Peer::new(options.clone()).await;
    let mut audio = 0;
    while audio < 50 * 8000 {
        if let Message::Binary(payload) = peer.next().await {
            audio += payload.len();
        }
    }
    options.protocol = AgentProtocol::Native;
    let mut peer = Peer::new(options).await;
    peer.send(r#"{"type":"start"}"#).await;
    peer.until("turn").await;
    peer.send(r#"{"type":"interrupt"}"#).await;
    peer.until("flush").await;
}

#[tokio::test]
async fn it_closes_and_stalls_as_told() {
    let mut options = args(AgentMode::Silent, AgentProtocol::Native);
    options.close_after = Some(Duration::from_millis(50));
    options.close_code = 1013;
    let mut peer = Peer::new(options).await;
    peer.send(START).await;
    peer.until("started").await;
    let frame = loop {
        if let Message::Close(frame) = peer.next().await {
            break frame;
        }
    };
    assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(1013));
}
