//! A WebRTC client for tests: `str0m` on one socket, controlling ICE.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::channel::ChannelId;
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive, TcpType};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Daemon, PATIENCE, ask, header};

/// What 20 ms of audio that is no silence looks like, as far as a relay that passes Opus through is concerned.
pub const PACKET: [u8; 40] = {
    let mut packet = [0x5A; 40];
    packet[0] = 0x78;
    packet
};

/// One client.
pub struct Peer {
    pub rtc: Rtc,
    pub socket: Arc<UdpSocket>,
    pub local: SocketAddr,
    /// With it nothing goes by UDP: the connection, and the candidate that the peer believes to talk to.
    pub tcp: Option<(Framed<TcpStream, LengthDelimitedCodec>, SocketAddr)>,
    mid: Mid,
    channel: ChannelId,
    seq: u64,
    pub connected: Option<Instant>,
    pub open: bool,
    /// Timestamp, marker and payload of what came.
    pub heard: Vec<(u32, bool, Vec<u8>, u16)>,
    pub told: Vec<Value>,
    pub closed: bool,
    leaving: bool,
    /// Where the last datagram came from.
    pub answered_by: Option<SocketAddr>,
    /// The signalling resource.
    pub resource: String,
    pub etag: String,
    pub answer: Value,
}

impl Peer {
    /// A client with its offer.
    pub async fn offer() -> (Rtc, Arc<UdpSocket>, SocketAddr, Mid, ChannelId, String, SdpPendingOffer) {
        Peer::offer_from(Ipv4Addr::LOCALHOST.into(), Codec::Opus).await
    }

    async fn offer_from(
        own: IpAddr,
        codec: Codec,
    ) -> (Rtc, Arc<UdpSocket>, SocketAddr, Mid, ChannelId, String, SdpPendingOffer) {
        let socket = Arc::new(UdpSocket::bind((own, 0)).await.unwrap());
        let local = socket.local_addr().unwrap();
        let mut rtc = Rtc::builder()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(codec == Codec::Opus, false)
            .enable_pcmu(codec == Codec::PCMU, false)
            .enable_pcma(codec == Codec::PCMA, false)
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
        let (mid, channel, sdp, pending) = offer_media(&mut rtc);
        (rtc, socket, local, mid, channel, sdp, pending)
    }

    /// Offers a call with an agent, and takes the answer; nothing is sent over UDP yet.
    pub async fn signal(daemon: &Daemon, agent: &str) -> Peer {
        Peer::signal_with(daemon, json!({ "agent": agent })).await
    }

    /// As [`Peer::signal`], with a `start` of one's own.
    pub async fn signal_with(daemon: &Daemon, start: Value) -> Peer {
        let (rtc, socket, local, mid, channel, sdp, pending) = Peer::offer().await;
        let mut peer = Peer::answered(daemon, start, rtc, (mid, channel), sdp, pending).await;
        (peer.socket, peer.local) = (socket, local);
        peer
    }

    /// As [`Peer::signal_with`], with this codec, and an offer that `shape` has changed.
    pub async fn signal_shaped(daemon: &Daemon, start: Value, codec: Codec, shape: fn(String) -> String) -> Peer {
        let (rtc, socket, local, mid, channel, sdp, pending) =
            Peer::offer_from(Ipv4Addr::LOCALHOST.into(), codec).await;
        let mut peer = Peer::answered(daemon, start, rtc, (mid, channel), shape(sdp), pending).await;
        (peer.socket, peer.local) = (socket, local);
        peer
    }

    /// A call with the echo from this address of ours to that one of the daemon, which it must announce.
    pub async fn call_between(daemon: &Daemon, own: IpAddr, theirs: IpAddr) -> Peer {
        let (rtc, socket, local, mid, channel, sdp, pending) = Peer::offer_from(own, Codec::Opus).await;
        let start = json!({ "agent": "echo" });
        let mut peer = Peer::answered_at(daemon, start, rtc, (mid, channel), sdp, pending, Some(theirs)).await;
        (peer.socket, peer.local) = (socket, local);
        peer.until(|peer| peer.open && peer.connected.is_some()).await;
        peer
    }

    async fn answered(
        daemon: &Daemon,
        start: Value,
        rtc: Rtc,
        media: (Mid, ChannelId),
        sdp: String,
        pending: SdpPendingOffer,
    ) -> Peer {
        Peer::answered_at(daemon, start, rtc, media, sdp, pending, None).await
    }

    async fn answered_at(
        daemon: &Daemon,
        start: Value,
        rtc: Rtc,
        media: (Mid, ChannelId),
        sdp: String,
        pending: SdpPendingOffer,
        theirs: Option<IpAddr>,
    ) -> Peer {
        let body = json!({ "sdp": sdp, "start": start }).to_string();
        let kind = ["content-type: application/json"];
        let (status, head, body) = ask(daemon.http, "POST", "/v1/session/webrtc", &kind, &body).await;
        assert_eq!(status, 201, "{head}\n{body}");
        Peer::take((&head, &body), rtc, media, pending, theirs).await
    }

    /// Takes the answer of the native endpoint.
    pub async fn take(
        (head, body): (&str, &str),
        mut rtc: Rtc,
        (mid, channel): (Mid, ChannelId),
        pending: SdpPendingOffer,
        theirs: Option<IpAddr>,
    ) -> Peer {
        let answer: Value = serde_json::from_str(body).unwrap();
        let sdp = answer["sdp"].as_str().unwrap();
        let wanted = |line: &&str| {
            let unwanted = theirs.is_some_and(|ip| !line.contains(&format!(" {ip} ")));
            !(line.starts_with("a=candidate:") && unwanted)
        };
        let chosen: String = sdp.lines().filter(wanted).flat_map(|line| [line, "\r\n"]).collect();
        assert!(chosen.contains("a=candidate:"), "{theirs:?} is not announced: {sdp}");
        let sdp = SdpAnswer::from_sdp_string(&chosen).unwrap();
        rtc.sdp_api().accept_answer(pending, sdp).unwrap();
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        Peer {
            local: socket.local_addr().unwrap(),
            rtc,
            socket,
            tcp: None,
            mid,
            channel,
            seq: 1,
            connected: None,
            open: false,
            heard: Vec::new(),
            told: Vec::new(),
            closed: false,
            leaving: false,
            answered_by: None,
            resource: header(head, "location").unwrap().to_owned(),
            etag: header(head, "etag").unwrap().to_owned(),
            answer,
        }
    }

    /// A call with an agent, data channel open.
    pub async fn call(daemon: &Daemon, agent: &str) -> Peer {
        let mut peer = Peer::signal(daemon, agent).await;
        peer.until(|peer| peer.open && peer.connected.is_some()).await;
        peer
    }

    /// As [`Peer::signal`], for a client that has only TCP (RFC 6544), and reaches the daemon through `through`.
    pub async fn signal_by_tcp(daemon: &Daemon, agent: &str, through: SocketAddr) -> Peer {
        let stream = TcpStream::connect(through).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let local = stream.local_addr().unwrap();
        let mut rtc = Rtc::builder()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .set_rtp_mode(true)
            .build(Instant::now());
        let own = Candidate::builder().tcp().host(local).tcptype(TcpType::Active).build().unwrap();
        rtc.add_local_candidate(own);
        let (mid, channel, sdp, pending) = offer_media(&mut rtc);
        let mut peer = Peer::answered(daemon, json!({ "agent": agent }), rtc, (mid, channel), sdp, pending).await;
        let answer = peer.answer["sdp"].as_str().unwrap();
        let passive = answer.lines().find(|line| line.contains(" tcp ") && line.contains("tcptype passive")).unwrap();
        let remote = Candidate::from_sdp_string(passive.strip_prefix("a=").unwrap()).unwrap().addr();
        let codec = LengthDelimitedCodec::builder().length_field_type::<u16>().new_codec();
        peer.tcp = Some((Framed::new(stream, codec), remote));
        peer.local = local;
        peer
    }

    /// Moves to another socket and restarts ICE, as after a change of network; gives the new ETag.
    pub async fn restart(&mut self, daemon: &Daemon) -> String {
        let old = self.answer["sdp"].as_str().unwrap().to_owned();
        self.socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        self.local = self.socket.local_addr().unwrap();
        let mut api = self.rtc.sdp_api();
        let own = api.ice_restart(false);
        let (_, pending) = api.apply().unwrap();
        let headers = ["content-type: application/trickle-ice-sdpfrag", "if-match: \"*\""];
        let fragment = format!("a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", own.ufrag, own.pass);
        let (status, head, body) = ask(daemon.http, "PATCH", &self.resource, &headers, &fragment).await;
        assert_eq!(status, 200, "{head}\n{body}");
        assert!(body.contains("a=candidate:"), "{body}");
        let new = |name: &str| body.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let line = |line: &str| {
            let changed = ["a=ice-ufrag:", "a=ice-pwd:"].into_iter().find(|name| line.starts_with(name));
            // A candidate may name the user name that it is for (RFC 8839 section 5.1).
            let kept = line.split(" ufrag ").next().unwrap_or(line);
            changed.map_or(kept.to_owned(), new) + "\r\n"
        };
        let answer: String = old.lines().map(line).collect();
        self.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
        self.rtc.add_local_candidate(Candidate::host(self.local, "udp").unwrap());
        self.answer["sdp"] = answer.into();
        header(&head, "etag").unwrap().to_owned()
    }

    /// Lives until `done`, and speaks meanwhile if it is connected.
    pub async fn until(&mut self, done: impl Fn(&Peer) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "it never came to that; told: {:?}", self.told);
            self.live(Duration::from_millis(20)).await;
        }
    }

    /// Speaks for a while: a packet each 20 ms.
    pub async fn speak(&mut self, length: Duration) {
        for _ in 0..length.as_millis() / 20 {
            self.speak_frame(111, 960, &PACKET).await;
        }
    }

    /// Speaks a frame of 20 ms, of this payload type and so many ticks.
    pub async fn speak_frame(&mut self, payload_type: u8, ticks: u64, frame: &[u8]) {
        let seq = self.seq;
        self.seq += 1;
        let mut api = self.rtc.direct_api();
        let stream = api.stream_tx_by_mid(self.mid, None).unwrap();
        stream.write_rtp(RtpWrite::new(payload_type.into(), seq.into(), (seq * ticks) as u32, Instant::now(), frame));
        self.live(Duration::from_millis(20)).await;
    }

    /// Speaks these packets of 20 ms.
    pub async fn speak_packets(&mut self, packets: &[bytes::Bytes]) {
        for packet in packets {
            self.speak_frame(111, 960, packet).await;
        }
    }

    /// Says something on the data channel.
    pub async fn say(&mut self, message: Value) {
        assert!(self.rtc.channel(self.channel).unwrap().write(false, message.to_string().as_bytes()).unwrap());
        self.live(Duration::from_millis(1)).await;
    }

    /// Whether a message of this type came.
    pub fn was_told(&self, kind: &str) -> bool {
        self.told.iter().any(|message| message["type"] == kind)
    }

    /// Lives for a while.
    pub async fn live(&mut self, length: Duration) {
        let end = Instant::now() + length;
        let mut buffer = vec![0; 2000];
        loop {
            let timeout = loop {
                match self.rtc.poll_output() {
                    Ok(Output::Timeout(at)) => break at,
                    Ok(Output::Transmit(transmit)) => match &mut self.tcp {
                        Some((stream, _)) => {
                            let sent = stream.send(Bytes::copy_from_slice(&transmit.contents)).await;
                            assert!(sent.is_ok() || self.closed, "{sent:?}");
                        }
                        None => {
                            self.socket.send_to(&transmit.contents, transmit.destination).await.unwrap();
                        }
                    },
                    Ok(Output::Event(event)) => self.on_event(event),
                    // Its own goodbye came before its data channel was there: SCTP has nothing to shut down.
                    Err(_) if self.leaving => return,
                    Err(error) => panic!("{error}"),
                }
            };
            let now = Instant::now();
            if now >= end || !self.rtc.is_alive() {
                return;
            }
            let wait = timeout.min(end).saturating_duration_since(now).max(Duration::from_millis(1));
            match tokio::time::timeout(wait, self.receive(&mut buffer)).await {
                Ok(Some((count, protocol, source))) => {
                    if let Ok(receive) = Receive::new(protocol, source, self.local, &buffer[..count]) {
                        self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
                    }
                }
                _ => self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap(),
            }
        }
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Protocol, SocketAddr)> {
        match &mut self.tcp {
            Some((stream, remote)) => match stream.next().await {
                Some(frame) => {
                    let frame = frame.unwrap();
                    buffer[..frame.len()].copy_from_slice(&frame);
                    Some((frame.len(), Protocol::Tcp, *remote))
                }
                None => std::future::pending().await,
            },
            None => {
                let (count, source) = self.socket.recv_from(buffer).await.ok()?;
                self.answered_by = Some(source);
                Some((count, Protocol::Udp, source))
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = Some(Instant::now()),
            Event::ChannelOpen(..) => self.open = true,
            Event::ChannelData(data) => self.told.push(serde_json::from_slice(&data.data).unwrap()),
            Event::RtpPacket(packet) => {
                let header = &packet.header;
                self.heard.push((header.timestamp, header.marker, packet.payload.to_vec(), header.sequence_number));
            }
            Event::Closed => self.closed = true,
            _ => {}
        }
    }

    /// Hangs up as browsers do.
    pub async fn close(mut self) {
        self.leaving = true;
        // The engine refuses while SCTP is being set up.
        let deadline = Instant::now() + PATIENCE;
        while self.rtc.close().is_err() {
            assert!(Instant::now() < deadline, "it cannot hang up");
            self.live(Duration::from_millis(5)).await;
        }
        self.live(Duration::from_millis(5)).await;
    }
}

fn offer_media(rtc: &mut Rtc) -> (Mid, ChannelId, String, SdpPendingOffer) {
    let mut api = rtc.sdp_api();
    let mid = api.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
    let channel = api.add_channel("antiphon.v1".into());
    let (offer, pending) = api.apply().unwrap();
    (mid, channel, offer.to_sdp_string(), pending)
}
