//! A caller over WebRTC: str0m on a socket of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon::dialect::native::SUBPROTOCOL;
use serde_json::{Value, json};
use str0m::change::SdpAnswer;
use str0m::config::CryptoProvider;
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, RtpWrite};
use str0m::{Candidate, Event, Input, Output, Rtc};

/// Opus among the payload types that str0m offers.
const OPUS: u8 = 111;
/// Packets up to this many bytes are silence after the last word.
const SILENCE: usize = 3;

/// One caller.
pub struct Caller {
    rtc: Rtc,
    /// Where its packets come and go.
    pub socket: UdpSocket,
    local: SocketAddr,
    mid: Mid,
    seq: u64,
    /// When it must be looked at again.
    pub deadline: Instant,
    /// Whether audio can flow.
    pub connected: bool,
    /// Whether the peer is gone.
    pub closed: bool,
}

impl Caller {
    /// Offers a call with `agent` and takes the answer; then it is to be driven until it is connected.
    ///
    /// # Errors
    /// What went wrong.
    pub fn dial(provider: &Arc<CryptoProvider>, http: SocketAddr, agent: &str, call: usize) -> Result<Caller, String> {
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        let local = socket.local_addr().map_err(|error| error.to_string())?;
        let mut rtc = Rtc::builder()
            .set_crypto_provider(provider.clone())
            .clear_codecs()
            .enable_opus(true, false)
            .set_rtp_mode(true)
            .clear_extension_map()
            .set_extension(1, Extension::AudioLevel)
            .set_extension(4, Extension::RtpMid)
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").map_err(|error| error.to_string())?);
        let mut api = rtc.sdp_api();
        let mid = api.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        api.add_channel(SUBPROTOCOL.into());
        let (offer, pending) = api.apply().ok_or("no offer")?;
        let start = json!({ "agent": agent, "metadata": { "call": call } });
        let answer = post(http, &json!({ "sdp": offer.to_sdp_string(), "start": start }))?;
        let sdp = answer["sdp"].as_str().ok_or_else(|| answer.to_string())?;
        let answer = SdpAnswer::from_sdp_string(sdp).map_err(|error| error.to_string())?;
        rtc.sdp_api().accept_answer(pending, answer).map_err(|error| error.to_string())?;
        let (deadline, seq) = (Instant::now(), 1);
        Ok(Caller { rtc, socket, local, mid, seq, deadline, connected: false, closed: false })
    }

    /// Says a frame.
    pub fn speak(&mut self, payload: &[u8]) {
        let (seq, now) = (self.seq, Instant::now());
        let timestamp = (seq as u32).wrapping_mul(960);
        if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(self.mid, None) {
            stream.write_rtp(RtpWrite::new(OPUS.into(), seq.into(), timestamp, now, payload));
            self.seq += 1;
        }
        self.drain(now);
    }

    /// Reads what is there; gives how many frames of audio came.
    pub fn read(&mut self) -> u64 {
        let mut buffer = [0; 2048];
        let mut frames = 0;
        while let Ok((count, source)) = self.socket.recv_from(&mut buffer) {
            let now = Instant::now();
            if let Ok(receive) = Receive::new(Protocol::Udp, source, self.local, &buffer[..count]) {
                let _ = self.rtc.handle_input(Input::Receive(now, receive));
                frames += self.drain(now);
            }
        }
        frames
    }

    /// Its deadline has passed.
    pub fn on_deadline(&mut self) {
        let now = Instant::now();
        let _ = self.rtc.handle_input(Input::Timeout(now));
        self.drain(now);
    }

    /// Says goodbye.
    pub fn hang_up(&mut self) {
        let _ = self.rtc.close();
        self.drain(Instant::now());
    }

    fn drain(&mut self, now: Instant) -> u64 {
        let (mut frames, mut again) = (0, false);
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Transmit(transmit)) => {
                    let _ = self.socket.send_to(&transmit.contents, transmit.destination);
                }
                Ok(Output::Event(Event::Connected)) => self.connected = true,
                Ok(Output::Event(Event::RtpPacket(packet))) => {
                    frames += u64::from(packet.payload.len() > SILENCE);
                }
                Ok(Output::Event(Event::Closed)) => self.closed = true,
                Ok(Output::Event(_)) => {}
                Ok(Output::Timeout(at)) if at <= now && !again => {
                    again = true;
                    let _ = self.rtc.handle_input(Input::Timeout(now));
                }
                Ok(Output::Timeout(at)) => {
                    // What is due cannot be done at once again.
                    self.deadline = at.max(now + Duration::from_micros(100));
                    return frames;
                }
                Err(_) => {
                    self.closed = true;
                    self.deadline = now + Duration::from_secs(3600);
                    return frames;
                }
            }
        }
    }
}

fn post(http: SocketAddr, body: &Value) -> Result<Value, String> {
    let mut tcp = TcpStream::connect(http).map_err(|error| format!("connect: {error}"))?;
    tcp.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
    let body = body.to_string();
    let head = format!("POST /v1/session/webrtc HTTP/1.1\r\nhost: {http}\r\nconnection: close");
    let head = format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    tcp.write_all((head + &body).as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).map_err(|error| format!("no answer: {error}"))?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
}
