//! The floor of WebRTC: a bare str0m loop on one socket. It gives back every packet of audio, or hands it on to an agent,
//! and back, as it is or by libopus; nothing else. What the relay adds is judged against it, in the same run, with the same
//! callers, on the same core.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::epoll;
use rustix::time::Timespec;
use serde_json::{Value, json};
use str0m::change::SdpOffer;
use str0m::config::{CryptoProvider, DtlsCert};
use str0m::ice::StunMessage;
use str0m::media::{Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::{Extension, RtpWrite};
use str0m::{Candidate, Event, Input, Output, Rtc};

use tokio_tungstenite::tungstenite::Message;

use crate::child::{listening, serve_counter};
use crate::ends::{self, Read, Socket};
use crate::floor::{Codec, decode, encode};

/// RTCP reports as often as the relay's.
const REPORTS: Duration = Duration::from_secs(1);
/// The UDP socket among the sockets; the others are agents, by the number of their peer.
const PEERS: u64 = u64::MAX;
/// Opus among the payload types that str0m takes.
const OPUS: u8 = 111;
/// Ticks of Opus in a frame.
const TICKS: u32 = 960;

/// The agent of a peer.
struct Agent {
    socket: Socket,
    /// What makes PCM of Opus, and Opus of PCM; without it Opus is handed on.
    codecs: Option<[Codec; 2]>,
}

/// One peer.
struct Peer {
    rtc: Rtc,
    mid: Mid,
    seq: u64,
    agent: Option<Box<Agent>>,
    /// The deadline that is in the heap.
    queued: Option<Instant>,
}

/// Runs until its standard input ends. With `agents`, callers talk with one of them per call, which speak PCM16 with
/// `codec`, else Opus; without, they talk with themselves.
///
/// # Errors
/// If it cannot listen.
pub fn run(agents: Option<SocketAddr>, codec: bool) -> std::io::Result<()> {
    serve_counter(|| 0);
    let http = TcpListener::bind("127.0.0.1:0")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    let (news, new) = sync_channel(64);
    let front = Front::new(socket.local_addr()?, agents, codec, news)?;
    listening(http.local_addr()?);
    std::thread::spawn(move || {
        for tcp in http.incoming().flatten() {
            if let Err(error) = front.answer(tcp) {
                eprintln!("bare: {error}");
            }
        }
    });
    Loop::new(socket, new, agents.is_some())?.run()
}

/// What the loop is told.
enum News {
    /// A peer whose answer is about to go out.
    Peer(Box<Peer>),
    /// Its agent.
    Agent(Box<Agent>),
}

/// Takes offers.
struct Front {
    provider: Arc<CryptoProvider>,
    certificate: DtlsCert,
    address: SocketAddr,
    agents: Option<SocketAddr>,
    codec: bool,
    news: SyncSender<(String, News)>,
}

impl Front {
    fn new(
        address: SocketAddr,
        agents: Option<SocketAddr>,
        codec: bool,
        news: SyncSender<(String, News)>,
    ) -> std::io::Result<Front> {
        let provider = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = provider.dtls_provider.generate_certificate().ok_or(ErrorKind::Other)?;
        Ok(Front { provider, certificate, address, agents, codec, news })
    }

    fn answer(&self, tcp: TcpStream) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut reader = BufReader::new(tcp);
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            reader.read_line(&mut line).map_err(|error| text(&error))?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| "bad length")?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).map_err(|error| text(&error))?;
        let body: Value = serde_json::from_slice(&body).map_err(|error| text(&error))?;
        let mut rtc = Rtc::builder()
            .set_crypto_provider(self.provider.clone())
            .set_dtls_cert(self.certificate.clone())
            .clear_codecs()
            .enable_opus(true, false)
            .set_rtp_mode(true)
            .set_ice_lite(true)
            .clear_extension_map()
            .set_extension(1, Extension::AudioLevel)
            .set_extension(4, Extension::RtpMid)
            .set_rtcp_report_interval_audio(REPORTS)
            .set_stats_interval(Some(REPORTS))
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(self.address, "udp").map_err(|error| text(&error))?);
        let sdp = body["sdp"].as_str().ok_or("no offer")?;
        let mid = sdp.lines().find_map(|line| line.strip_prefix("a=mid:")).ok_or("no mid")?.into();
        let offer = SdpOffer::from_sdp_string(sdp).map_err(|error| text(&error))?;
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|error| text(&error))?.to_sdp_string();
        let ufrag = rtc.direct_api().local_ice_credentials().ufrag;
        // The first STUN request comes as soon as the answer is out.
        let news = |news| self.news.send((ufrag.clone(), news)).map_err(|_| "the loop has ended".to_owned());
        news(News::Peer(Box::new(Peer { rtc, mid, seq: 1, agent: None, queued: None })))?;
        let metadata = &body["start"]["metadata"];
        let answer = json!({ "sdp": answer }).to_string();
        let head = "HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-type: application/json";
        write!(reader.into_inner(), "{head}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())
            .map_err(|error| text(&error))?;
        match self.agents {
            Some(agents) => {
                let codecs = || Ok::<_, String>([decode(Arc::default())?, encode(Arc::default())?]);
                let codecs = self.codec.then(codecs).transpose()?;
                news(News::Agent(Box::new(Agent { socket: ends::call_agent(agents, metadata)?, codecs })))
            }
            None => Ok(()),
        }
    }
}

struct Loop {
    socket: UdpSocket,
    local: SocketAddr,
    epoll: std::os::fd::OwnedFd,
    new: Receiver<(String, News)>,
    to_agents: bool,
    peers: Vec<Peer>,
    by_ufrag: HashMap<String, usize>,
    by_address: HashMap<SocketAddr, usize>,
    deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Loop {
    fn new(socket: UdpSocket, new: Receiver<(String, News)>, to_agents: bool) -> std::io::Result<Loop> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(PEERS), epoll::EventFlags::IN)?;
        Ok(Loop {
            local: socket.local_addr()?,
            socket,
            epoll,
            new,
            to_agents,
            peers: Vec::new(),
            by_ufrag: HashMap::new(),
            by_address: HashMap::new(),
            deadlines: BinaryHeap::new(),
        })
    }

    fn run(mut self) -> std::io::Result<()> {
        let (mut buffer, mut events) = ([0; 2048], Vec::with_capacity(64));
        loop {
            let wait = self.deadlines.peek().map_or(Duration::from_millis(50), |Reverse((at, _))| {
                at.saturating_duration_since(Instant::now()).min(Duration::from_millis(50))
            });
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
            events.clear();
            if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)).is_err() {
                continue;
            }
            for event in &events {
                match event.data.u64() {
                    PEERS => {
                        while let Ok((count, source)) = self.socket.recv_from(&mut buffer) {
                            self.on_datagram(&buffer[..count], source);
                        }
                    }
                    agent => self.hear_agent(agent as usize),
                }
            }
            let now = Instant::now();
            while let Some(&Reverse((at, index))) = self.deadlines.peek()
                && at <= now
            {
                self.deadlines.pop();
                self.peers[index].queued = None;
                let _ = self.peers[index].rtc.handle_input(Input::Timeout(now));
                self.drain(index, now);
            }
        }
    }

    /// What the agent says goes to its caller at once.
    fn hear_agent(&mut self, index: usize) {
        loop {
            let Some(peer) = self.peers.get_mut(index) else { return };
            let Some(agent) = &mut peer.agent else { return };
            match ends::read(&mut agent.socket) {
                Read::Message(Message::Binary(frame)) => {
                    let packet = match &mut agent.codecs {
                        Some([_, encode]) => encode(frame),
                        None => frame,
                    };
                    let now = Instant::now();
                    peer.say(&packet, OPUS.into(), (peer.seq as u32).wrapping_mul(TICKS), now);
                    self.drain(index, now);
                }
                Read::Message(_) => {}
                Read::Nothing => return,
                Read::End(_) => {
                    let _ = epoll::delete(&self.epoll, agent.socket.get_ref().as_fd());
                    peer.agent = None;
                }
            }
        }
    }

    fn take_new(&mut self) {
        for (ufrag, news) in self.new.try_iter() {
            match news {
                News::Peer(peer) => {
                    self.by_ufrag.insert(ufrag, self.peers.len());
                    self.peers.push(*peer);
                }
                News::Agent(agent) => {
                    let Some(&index) = self.by_ufrag.get(&ufrag) else { continue };
                    let data = epoll::EventData::new_u64(index as u64);
                    let _ = epoll::add(&self.epoll, agent.socket.get_ref().as_fd(), data, epoll::EventFlags::IN);
                    self.peers[index].agent = Some(agent);
                }
            }
        }
    }

    fn find(&mut self, datagram: &[u8], source: SocketAddr) -> Option<usize> {
        if datagram.first().is_some_and(|&first| first <= 3)
            && let Ok(message) = StunMessage::parse(datagram)
            && message.is_binding_request()
        {
            self.take_new();
            let index = *self.by_ufrag.get(message.split_username()?.0)?;
            self.by_address.insert(source, index);
            return Some(index);
        }
        self.by_address.get(&source).copied()
    }

    fn on_datagram(&mut self, datagram: &[u8], source: SocketAddr) {
        let Some(index) = self.find(datagram, source) else { return };
        if self.to_agents && self.peers[index].agent.is_none() {
            self.take_new();
        }
        let now = Instant::now();
        if let Ok(receive) = Receive::new(Protocol::Udp, source, self.local, datagram) {
            let _ = self.peers[index].rtc.handle_input(Input::Receive(now, receive));
            self.drain(index, now);
        }
    }

    fn drain(&mut self, index: usize, now: Instant) {
        let peer = &mut self.peers[index];
        let mut again = false;
        let deadline = loop {
            match peer.rtc.poll_output() {
                Ok(Output::Transmit(transmit)) => {
                    let _ = self.socket.send_to(&transmit.contents, transmit.destination);
                }
                Ok(Output::Event(Event::RtpPacket(packet))) => {
                    let header = &packet.header;
                    if !self.to_agents {
                        peer.say(&packet.payload, header.payload_type, header.timestamp, now);
                    } else if let Some(agent) = &mut peer.agent {
                        let packet = Bytes::copy_from_slice(&packet.payload);
                        let frame = match &mut agent.codecs {
                            Some([decode, _]) => decode(packet),
                            None => packet,
                        };
                        let _ = ends::speak(&mut agent.socket, frame);
                    }
                }
                Ok(Output::Event(_)) => {}
                Ok(Output::Timeout(at)) if at <= now && !again => {
                    again = true;
                    let _ = peer.rtc.handle_input(Input::Timeout(now));
                }
                Ok(Output::Timeout(at)) => break at,
                Err(_) => return,
            }
        };
        if peer.queued.is_none_or(|queued| deadline < queued) {
            peer.queued = Some(deadline);
            self.deadlines.push(Reverse((deadline, index)));
        }
    }
}

impl Peer {
    fn say(&mut self, payload: &[u8], payload_type: Pt, timestamp: u32, now: Instant) {
        let mut api = self.rtc.direct_api();
        let Some(stream) = api.stream_tx_by_mid(self.mid, None) else { return };
        stream.write_rtp(RtpWrite::new(payload_type, self.seq.into(), timestamp, now, payload));
        self.seq += 1;
    }
}
