//! What a call travels on.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::connect::Socket;
use super::quic::QuicCall;
use super::webrtc::Peer;

/// An open connection to a relay: control messages and audio both ways.
pub enum Carrier {
    /// A WebSocket: both in order on one connection.
    WebSocket(Box<Socket>),
    /// A WebRTC peer: audio on a track, control messages on a data channel.
    Webrtc(Box<Peer>),
    /// QUIC or WebTransport: audio in datagrams, control messages on a stream.
    Quic(Box<QuicCall>),
}

/// What came from the relay.
#[derive(Debug)]
pub enum Arrived {
    /// A control message as JSON.
    Message(String),
    /// An audio frame.
    Audio {
        /// Its coded samples.
        payload: Bytes,
        /// Its RTP timestamp, where it travelled as RTP.
        timestamp: Option<u32>,
    },
    /// Nothing for a call.
    Nothing,
    /// The end of the connection, and what the relay said about it.
    Closed(String),
}

/// Why something could not be sent.
#[derive(Debug)]
pub enum NotSent {
    /// The relay has closed the connection already.
    Closed,
    /// Something else, in words.
    Failed(String),
}

impl Carrier {
    /// Sends a control message.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_message(&mut self, text: String) -> Result<(), NotSent> {
        match self {
            Carrier::WebSocket(socket) => socket.send(Message::text(text)).await.map_err(not_sent),
            Carrier::Webrtc(peer) => peer.send_message(&text).await,
            Carrier::Quic(call) => call.send_message(&text).await,
        }
    }

    /// Sends a frame of audio.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_audio(&mut self, payload: Bytes) -> Result<(), NotSent> {
        match self {
            Carrier::WebSocket(socket) => socket.send(Message::Binary(payload)).await.map_err(not_sent),
            Carrier::Webrtc(peer) => peer.send_audio(payload).await,
            Carrier::Quic(call) => call.send_audio(payload).await,
        }
    }

    /// The next thing from the relay; may be dropped and called again.
    pub async fn next(&mut self) -> Arrived {
        match self {
            Carrier::WebSocket(socket) => match socket.next().await {
                Some(Ok(Message::Binary(payload))) => Arrived::Audio { payload, timestamp: None },
                Some(Ok(Message::Text(text))) => Arrived::Message(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => {
                    let how =
                        frame.map_or("without a reason".to_owned(), |f| format!("{} {}", u16::from(f.code), f.reason));
                    Arrived::Closed(format!("the relay closed it, {}", how.trim_end()))
                }
                Some(Ok(_)) => Arrived::Nothing,
                Some(Err(error)) => Arrived::Closed(error.to_string()),
                None => Arrived::Closed("it ended".to_owned()),
            },
            Carrier::Webrtc(peer) => peer.next().await,
            Carrier::Quic(call) => call.next().await,
        }
    }

    /// Closes politely; the call is over either way.
    pub async fn close(&mut self) {
        let closing = async {
            match self {
                Carrier::WebSocket(socket) => drop(WebSocketStream::close(socket, None).await),
                Carrier::Webrtc(peer) => peer.close().await,
                Carrier::Quic(call) => call.close().await,
            }
        };
        let _ = timeout(Duration::from_secs(1), closing).await;
    }
}

fn not_sent(error: WsError) -> NotSent {
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed => NotSent::Closed,
        error => NotSent::Failed(error.to_string()),
    }
}
