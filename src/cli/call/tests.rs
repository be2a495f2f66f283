//! Whole calls to an emulated agent server, which speaks the same protocol as a relay.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Parser;

use super::*;
use crate::cli::emulate::{AgentMode, AgentProtocol, WsAgent, WsAgentArgs};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    call: CallArgs,
}

fn args(words: &[&str]) -> CallArgs {
    let words = ["call"].iter().chain(words);
    Command::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).call
}

/// A folder of its own that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("antiphon-call-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("folder");
        Folder(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn server(mode: AgentMode) -> (String, tokio::task::JoinSet<()>) {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let protocol = AgentProtocol::Native;
    let (format, close_after, stall) = (None, None, None);
    let options = WsAgentArgs { listen, mode, format, protocol, close_after, close_code: 1011, stall, log: false };
    let server = WsAgent::bind(options, Arc::new(|_| {})).await.expect("binds");
    let url = server.url();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server.serve());
    (url, tasks)
}

async fn report(args: &CallArgs) -> Report {
    let mut report = Report::default();
    call(args, prepare(args).unwrap_or_else(|error| panic!("{error}")), &mut report).await;
    report
}

#[test]
fn the_synopsis_is_understood() {
    let all = "speech.wav --url https://h --transport websocket --agent echo --codec pcm16 --rate 16000 --token t --out r.wav --json";
    let args = args(&all.split(' ').collect::<Vec<_>>());
    assert_eq!(args.format(), Format::pcm16(16_000));
    assert_eq!(format!("{:?}", args.token), "Some([secret])");
}

#[test]
fn the_embedded_speech_can_be_spoken_in_every_codec() {
    for codec in ["opus", "pcm16", "pcmu", "pcma"] {
        let format = args(&["--codec", codec]).format();
        let clip = Clip::parse(SPEECH).and_then(|clip| clip.resampled(format.rate)).expect("the embedded speech");
        let mut source = MicrophoneSource::new(clip.samples, format.rate, format).expect(codec);
        assert!((200..350).contains(&source.frames()), "{}", source.frames());
        assert!(source.speech().expect(codec).is_some());
    }
}

#[test]
fn a_wrong_file_or_rate_is_told_before_anything_is_sent() {
    let error = |words: &[&str]| prepare(&args(words)).map(|_| ()).expect_err("wrong");
    assert!(error(&["/no/such/file.wav"]).contains("/no/such/file.wav"));
    assert!(error(&["--codec", "pcmu", "--rate", "16000"]).contains("8000"));
    assert!(error(&["--url", "ftp://h"]).contains("http"));
    assert!(error(&["--out", "/no/such/folder/reply.wav"]).contains("--out"));
}

#[tokio::test]
async fn a_call_to_an_echo_brings_every_sample_back_and_measures_the_round_trip() {
    let folder = Folder::new("echo");
    let spoken = Clip { rate: 16_000, samples: (0..16_000).map(|n| (n * 7 % 20_000) as i16 - 10_000).collect() };
    std::fs::write(folder.file("in.wav"), spoken.to_wav()).expect("writes");
    let (url, _server) = server(AgentMode::Echo).await;
    let (file, out) = (folder.file("in.wav"), folder.file("out.wav"));
    let args = args(&[&file, "--url", &url, "--codec", "pcm16", "--rate", "16000", "--out", &out, "--json"]);
    let report = report(&args).await;
    assert_eq!((report.ok, &report.error), (true, &None), "{report:?}");
    assert_eq!((report.frames.sent, report.frames.received, report.frames.lost), (50, 50, 0));
    let rtt = report.rtt_ms.expect("an echo is measured");
    assert!(rtt.p50 > 0.0 && rtt.p50 < 20.0 && rtt.p50 <= rtt.p99, "{rtt:?}");
    let reply = Clip::parse(&std::fs::read(&out).expect("the reply")).expect("a WAV file");
    assert_eq!(reply, spoken);
    assert!(report.setup_ms.is_some() && report.first_audio_ms.is_some() && report.added_ms.is_some());
}

#[tokio::test]
async fn a_refusal_is_told_in_the_words_of_the_server() {
    let folder = Folder::new("refused");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let _server = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut tcp, _) = listener.accept().await.expect("accepts");
        let mut request = [0; 2048];
        assert!(tcp.read(&mut request).await.expect("reads") > 0);
        let answer = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 17\r\n\r\nno token was sent";
        tcp.write_all(answer).await.expect("writes");
    }));
    let report = report(&args(&["--url", &url, "--out", &folder.file("out.wav"), "--json"])).await;
    let error = report.error.expect("refused");
    assert!(!report.ok && error.contains("401") && error.contains("no token was sent"), "{error}");
    assert!(!PathBuf::from(folder.file("out.wav")).exists(), "an earlier reply is left alone");
}
