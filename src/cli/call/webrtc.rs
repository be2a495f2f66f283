//! Calls over WebRTC, by the crate `webrtc`: an implementation that shares no code with the relay's own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use rtc::media_stream::MediaStreamTrack;
use rtc::rtp::header::Header;
use rtc::rtp::packet::Packet;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::{Method, Request, StatusCode};
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCPeerConnectionState,
    RTCSessionDescription, Registry, SettingEngineBuilder, SrtpProtectionProfile, register_default_interceptors,
};

use super::carrier::{Arrived, NotSent};
use super::connect::{ConnectError, Opened, bearer, open};
use super::microphone::FRAME;
use crate::dialect::native::SUBPROTOCOL;
use crate::dialect::native::codec;
use crate::media::format::{Codec, Format};
use crate::message::{Start, Started};

/// Between two connectivity checks; the crate's own default of 200 ms would be most of the set-up.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long media may take after the HTTP answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Frames and messages that wait for the call at most; more than ten seconds of audio.
const WAITING: usize = 512;

/// Stages of the set-up.
#[derive(Clone, Copy, Debug)]
pub struct Stages {
    /// Name look-up, TCP and TLS.
    pub connect: Duration,
    /// From the offer to the answer.
    pub admission: Duration,
    /// From the answer until media can flow.
    pub media: Duration,
}

/// A connected peer.
pub struct Peer {
    connection: Arc<dyn PeerConnection>,
    track: Arc<TrackLocalStaticRTP>,
    channel: Arc<dyn DataChannel>,
    arrived: mpsc::Receiver<Arrived>,
    /// Of the next packet.
    header: Header,
    ticks: u32,
    /// Messages that wait for the channel to open.
    waiting: Option<Vec<String>>,
    opened: watch::Receiver<bool>,
    _reader: AbortOnDropHandle<()>,
}

/// What a call gets from the relay before media flows.
pub struct Connected {
    /// The peer.
    pub peer: Peer,
    /// When the offer was sent.
    pub offered: Instant,
    /// What the relay answered; it comes later where the call has to be decided on first.
    pub started: Option<Started>,
    /// How long it took.
    pub stages: Stages,
}

/// The URL of the native endpoint, given the WebSocket's.
///
/// # Errors
/// [`ConnectError::Url`].
pub fn endpoint(session: &Url) -> Result<Url, ConnectError> {
    let mut url = session.clone();
    let scheme = if session.scheme() == "wss" { "https" } else { "http" };
    let wrong = || ConnectError::Url { url: session.to_string(), why: "it cannot be one of HTTP".to_owned() };
    url.set_scheme(scheme).map_err(|()| wrong())?;
    url.set_path(&format!("{}/webrtc", session.path()));
    Ok(url)
}

/// Offers a call at `url` and waits until media can flow.
///
/// # Errors
/// [`ConnectError`], each with what to do about it.
pub async fn connect(url: &Url, token: Option<&str>, start: &Start, format: Format) -> Result<Connected, ConnectError> {
    let begun = Instant::now();
    let opened = open(url).await?;
    let connect = begun.elapsed();
    let failed = |error: String| ConnectError::Webrtc(opened.peer.clone(), error);
    let (arriving, arrived) = mpsc::channel(WAITING);
    let (state_told, mut state) = watch::channel(RTCPeerConnectionState::New);
    let handler = Arc::new(Handler { arriving: arriving.clone(), state: state_told });
    let (connection, track, ssrc, channel) = offer_media(opened.local.ip(), format, handler)
        .await
        .map_err(|error| failed(format!("no peer connection can be made: {error}")))?;
    let offering = async {
        let offer = connection.create_offer(None).await?;
        connection.set_local_description(offer.clone()).await?;
        Ok::<_, webrtc::error::Error>(offer)
    };
    let offer = offering.await.map_err(|error| failed(format!("no offer can be made: {error}")))?;
    let offered = Instant::now();
    let told = post(url, token, opened, &offer.sdp, start).await?;
    let admission = offered.elapsed();
    let failed = |error: String| ConnectError::Webrtc(url.to_string(), error);
    let answer = RTCSessionDescription::answer(told.sdp).map_err(|error| failed(error.to_string()))?;
    connection.set_remote_description(answer).await.map_err(|error| failed(format!("the answer: {error}")))?;
    let ready = state.wait_for(|state| {
        matches!(
            state,
            RTCPeerConnectionState::Connected | RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed
        )
    });
    match timeout(PATIENCE, ready).await.map(|ready| ready.map(|state| *state)) {
        Ok(Ok(RTCPeerConnectionState::Connected)) => {}
        Err(_) => return Err(failed(NO_MEDIA.to_owned())),
        Ok(_) => return Err(failed("the peer connection failed".to_owned())),
    }
    let stages = Stages { connect, admission, media: offered.elapsed() - admission };
    let (open_told, opened) = watch::channel(false);
    let reader = tokio::spawn(read_channel(channel.clone(), arriving, open_told));
    let header = Header { version: 2, payload_type: payload_type(format), ssrc, marker: true, ..Header::default() };
    let ticks = format.time_to_ticks(FRAME) as u32;
    let reader = AbortOnDropHandle::new(reader);
    let peer =
        Peer { connection, track, channel, arrived, header, ticks, waiting: Some(Vec::new()), opened, _reader: reader };
    Ok(Connected { peer, offered, started: told.started, stages })
}

const NO_MEDIA: &str = "the relay answered, but no media came through within 10 s; is its UDP port of WebRTC open, \
    and does `listen.webrtc_public` name an address that can be reached from here?";

/// The static payload types of RFC 3551 table 4, and the dynamic one that everybody uses.
const fn payload_type(format: Format) -> u8 {
    match format.codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
        Codec::Opus | Codec::Pcm16 => 111,
    }
}

fn codec_of(format: Format) -> RTCRtpCodec {
    let (mime_type, channels, sdp_fmtp_line) = match format.codec {
        Codec::Pcmu => ("audio/PCMU", 0, ""),
        Codec::Pcma => ("audio/PCMA", 0, ""),
        // RFC 7587 section 7: the mapping always says two channels.
        Codec::Opus | Codec::Pcm16 => ("audio/opus", 2, "minptime=10;useinbandfec=1"),
    };
    RTCRtpCodec {
        mime_type: mime_type.to_owned(),
        clock_rate: format.clock(),
        channels,
        sdp_fmtp_line: sdp_fmtp_line.to_owned(),
        rtcp_feedback: Vec::new(),
    }
}

type Media = (Arc<dyn PeerConnection>, Arc<TrackLocalStaticRTP>, u32, Arc<dyn DataChannel>);

/// A connection with a track in `format` and the control channel. It sends from `local`, by which the relay's HTTP was
/// reached.
async fn offer_media(local: IpAddr, format: Format, handler: Arc<Handler>) -> webrtc::error::Result<Media> {
    let codec = codec_of(format);
    let mut media = MediaEngine::default();
    let payload_type = payload_type(format);
    let parameters = RTCRtpCodecParameters { rtp_codec: codec.clone(), payload_type };
    media.register_codec(parameters, RtpCodecKind::Audio)?;
    let registry = register_default_interceptors(Registry::new(), &mut media)?;
    let settings = SettingEngineBuilder::new()
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), None)
        .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm])
        .with_include_loopback_candidate(true)
        .build();
    let connection = PeerConnectionBuilder::new()
        .with_media_engine(media)
        .with_interceptor_registry(registry)
        .with_setting_engine(settings)
        .with_handler(handler)
        .with_udp_addrs(vec![SocketAddr::new(local, 0)])
        .build()
        .await?;
    let ssrc = rand::random();
    let coding = RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() };
    let encodings = vec![RTCRtpEncodingParameters { rtp_coding_parameters: coding, codec, ..Default::default() }];
    let name = || "microphone".to_owned();
    let track = MediaStreamTrack::new(name(), name(), name(), RtpCodecKind::Audio, encodings);
    let track = Arc::new(TrackLocalStaticRTP::new(track));
    connection.add_track(track.clone()).await?;
    let channel = connection.create_data_channel(SUBPROTOCOL, None).await?;
    Ok((Arc::new(connection), track, ssrc, channel))
}

/// The answer of the native endpoint.
#[derive(Deserialize)]
struct Told {
    sdp: String,
    started: Option<Started>,
}

async fn post(url: &Url, token: Option<&str>, opened: Opened, sdp: &str, start: &Start) -> Result<Told, ConnectError> {
    let peer = opened.peer.clone();
    let failed = |error: String| ConnectError::Webrtc(peer.clone(), error);
    let start = codec::encode_start(start).and_then(|text| RawValue::from_string(text).ok());
    let body = serde_json::json!({ "sdp": sdp, "start": start }).to_string();
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
        .header("host", &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header("content-type", "application/json");
    if let Some(value) = token.map(bearer).transpose()? {
        request = request.header("authorization", value);
    }
    let request = request.body(Full::<Bytes>::from(body)).map_err(|error| failed(error.to_string()))?;
    let (status, body) = opened.ask(request, "answering the offer", failed).await?;
    if status != StatusCode::CREATED {
        let text: String = String::from_utf8_lossy(&body).chars().take(500).collect();
        let body = if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) };
        return Err(ConnectError::Http { url: url.to_string(), status, body });
    }
    serde_json::from_slice(&body).map_err(|error| failed(format!("its answer is not understood: {error}")))
}

/// Hands on what the connection tells.
struct Handler {
    arriving: mpsc::Sender<Arrived>,
    state: watch::Sender<RTCPeerConnectionState>,
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.state.send_replace(state);
        if matches!(state, RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed) {
            // A call that takes nothing any more has noticed otherwise.
            let _ = self.arriving.try_send(Arrived::Closed(format!("the peer connection is {state}")));
        }
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let arriving = self.arriving.clone();
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(Packet { header, payload }) = event
                    && !payload.is_empty()
                {
                    // A frame that nobody takes is lost, as on the way.
                    let _ = arriving.try_send(Arrived::Audio { payload, timestamp: Some(header.timestamp) });
                }
            }
        });
    }
}

async fn read_channel(channel: Arc<dyn DataChannel>, arriving: mpsc::Sender<Arrived>, opened: watch::Sender<bool>) {
    while let Some(event) = channel.poll().await {
        let arrived = match event {
            DataChannelEvent::OnOpen => {
                opened.send_replace(true);
                continue;
            }
            DataChannelEvent::OnMessage(message) => match String::from_utf8(message.data.to_vec()) {
                Ok(text) => Arrived::Message(text),
                Err(_) => Arrived::Nothing,
            },
            DataChannelEvent::OnClose => Arrived::Closed("the data channel is closed".to_owned()),
            _ => continue,
        };
        if arriving.send(arrived).await.is_err() {
            return;
        }
    }
}

async fn opens(opened: &mut watch::Receiver<bool>) -> bool {
    opened.wait_for(|open| *open).await.is_ok()
}

impl Peer {
    /// Sends a control message, or keeps it until the channel is open.
    ///
    /// # Errors
    /// If the channel is gone.
    pub async fn send_message(&mut self, text: &str) -> Result<(), NotSent> {
        if !*self.opened.borrow() {
            self.waiting.get_or_insert_default().push(text.to_owned());
            return Ok(());
        }
        self.send_waiting().await?;
        self.channel.send_text(text).await.map_err(|error| NotSent::Failed(error.to_string()))
    }

    async fn send_waiting(&mut self) -> Result<(), NotSent> {
        for text in self.waiting.take().unwrap_or_default() {
            self.channel.send_text(&text).await.map_err(|error| NotSent::Failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Sends a frame of 20 ms.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_audio(&mut self, payload: Bytes) -> Result<(), NotSent> {
        let packet = Packet { header: self.header.clone(), payload };
        self.header.sequence_number = self.header.sequence_number.wrapping_add(1);
        self.header.timestamp = self.header.timestamp.wrapping_add(self.ticks);
        self.header.marker = false;
        self.track.write_rtp(packet).await.map_err(|error| NotSent::Failed(error.to_string()))
    }

    /// The next thing from the relay.
    pub async fn next(&mut self) -> Arrived {
        tokio::select! {
            arrived = self.arrived.recv() => arrived.unwrap_or_else(|| Arrived::Closed("it ended".to_owned())),
            true = opens(&mut self.opened), if self.waiting.is_some() => match self.send_waiting().await {
                Ok(()) => Arrived::Nothing,
                Err(NotSent::Closed) => Arrived::Closed("it ended".to_owned()),
                Err(NotSent::Failed(how)) => Arrived::Closed(how),
            },
        }
    }

    /// Says goodbye.
    pub async fn close(&mut self) {
        let _ = self.connection.close().await;
    }
}
