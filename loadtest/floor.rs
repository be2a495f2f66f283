//! The floor: a bare WebSocket proxy that does nothing but hand frames on, and, on demand, call libopus on each. What
//! the relay adds is judged against it, in the same run, with the same swarm, on the same core.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use antiphon::dialect::native::SUBPROTOCOL;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{accept_hdr_async_with_config, client_async_with_config};

use crate::child::{listening, serve_counter};
use crate::ends::request;
use crate::material::{AGENT, encoder, samples};

/// What libopus took in this process, in nanoseconds of wall time.
#[derive(Debug, Default)]
pub struct Spent {
    decoding: AtomicU64,
    encoding: AtomicU64,
}

/// Runs the proxy until its standard input ends. Each line on it is answered with the nanoseconds that libopus took.
///
/// # Errors
/// If it cannot listen.
pub fn run(agents: SocketAddr, codec: bool) -> std::io::Result<()> {
    let spent = Arc::new(Spent::default());
    let counted = spent.clone();
    serve_counter(move || counted.decoding.load(Relaxed) + counted.encoding.load(Relaxed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        listening(listener.local_addr()?);
        loop {
            let (tcp, _) = listener.accept().await?;
            let spent = spent.clone();
            tokio::spawn(async move {
                if let Err(error) = carry(tcp, agents, codec.then_some(spent)).await {
                    eprintln!("proxy: {error}");
                }
            });
        }
    })
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(8 << 10).write_buffer_size(0)
}

async fn carry(caller: TcpStream, agents: SocketAddr, codec: Option<Arc<Spent>>) -> Result<(), String> {
    caller.set_nodelay(true).map_err(|error| error.to_string())?;
    #[allow(clippy::result_large_err, reason = "the library's signature")]
    let choose = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        Ok(response)
    };
    let caller = accept_hdr_async_with_config(caller, choose, Some(config())).await.map_err(|e| e.to_string())?;
    let agent = TcpStream::connect(agents).await.map_err(|error| error.to_string())?;
    agent.set_nodelay(true).map_err(|error| error.to_string())?;
    let (agent, _) =
        client_async_with_config(request(agents)?, agent, Some(config())).await.map_err(|error| error.to_string())?;
    let ((to_caller, from_caller), (to_agent, from_agent)) = (caller.split(), agent.split());
    let (up, down) = match codec {
        None => (None, None),
        Some(spent) => (Some(decode(spent.clone())?), Some(encode(spent)?)),
    };
    // The first end of a side ends both.
    tokio::select! {
        () = hand_on(from_caller, to_agent, up) => {}
        () = hand_on(from_agent, to_caller, down) => {}
    }
    Ok(())
}

/// Makes of a frame of one end what the other takes.
pub type Codec = Box<dyn FnMut(Bytes) -> Bytes + Send>;

async fn hand_on(
    mut from: impl Stream<Item = Result<Message, Error>> + Unpin,
    mut to: impl Sink<Message, Error = Error> + Unpin,
    mut codec: Option<Codec>,
) {
    while let Some(Ok(message)) = from.next().await {
        let message = match message {
            Message::Binary(frame) => Message::Binary(match &mut codec {
                Some(codec) => codec(frame),
                None => frame,
            }),
            Message::Text(_) => message,
            _ => continue,
        };
        if to.send(message).await.is_err() {
            return;
        }
    }
}

/// From the caller's Opus to what agents take.
///
/// # Errors
/// If libopus refuses.
pub fn decode(spent: Arc<Spent>) -> Result<Codec, String> {
    let mut decoder = opus::Decoder::new(AGENT.rate, opus::Channels::Mono).map_err(|error| error.to_string())?;
    let (mut pcm, mut bytes) = ([0; 2880], BytesMut::new());
    Ok(Box::new(move |packet| {
        let begun = Instant::now();
        let count = decoder.decode(&packet, &mut pcm, false).unwrap_or(0);
        spent.decoding.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
        bytes.reserve(2 * count);
        pcm[..count].iter().for_each(|&sample| bytes.put_i16_le(sample));
        bytes.split().freeze()
    }))
}

/// From what agents say to the caller's Opus.
///
/// # Errors
/// If libopus refuses.
pub fn encode(spent: Arc<Spent>) -> Result<Codec, String> {
    let mut encoder = encoder().map_err(|error| error.to_string())?;
    let mut packet = [0; 1276];
    Ok(Box::new(move |frame| {
        let pcm = samples(&frame);
        let begun = Instant::now();
        let count = encoder.encode(&pcm, &mut packet).unwrap_or(0);
        spent.encoding.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
        Bytes::copy_from_slice(&packet[..count])
    }))
}
