//! A caller over any transport: a microphone, a speaker that reports, and control messages.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use antiphon::cli::call::carrier::{Arrived, Carrier};
use antiphon::cli::call::player::{Played, Player, PlayerOutput};
use antiphon::cli::call::{CallTransport, Called, Progress, dial, endpoint};
use antiphon::dialect::native::codec::{self, Decoded};
use antiphon::media::format::Format;
use antiphon::media::transcode::{Decoder, Encoder};
use antiphon::message::{AgentStatus, AudioFormats, FromClient, Start, ToClient};
use antiphon::route::plan::OpusSettings;
use antiphon::time::Micros;
use bytes::BytesMut;
use tokio::time::{sleep_until, timeout};

use super::{Daemon, PATIENCE};

/// How far the speaker plays behind what arrived.
const SPEAKER_BUFFER: Duration = Duration::from_millis(20);

/// A call.
pub struct Phone {
    carrier: Carrier,
    begun: Instant,
    /// The speaker.
    pub player: Player,
    /// Of both directions.
    pub format: Format,
    decoder: Decoder,
    encoder: Encoder,
    buffer: BytesMut,
    /// What the speaker gave while something else was looked for.
    given: VecDeque<PlayerOutput>,
}

/// What came of the relay.
pub enum Came {
    /// An audio frame: its samples and, unless it came too late, its position.
    Audio(Vec<i16>, Option<u32>),
    /// A control message; the speaker knows of it already.
    Said(ToClient),
    /// Nothing until the instant that was given.
    Nothing,
}

/// A format in which samples come through each transport unchanged, or nearly: PCM, or over WebRTC µ-law.
pub fn format_of(transport: CallTransport) -> Format {
    if transport == CallTransport::Webrtc { Format::PCMU } else { Format::pcm16(24_000) }
}

impl Phone {
    /// Calls over `transport` with these fields of `start`; the agent is ready then.
    pub async fn call(daemon: &Daemon, transport: CallTransport, start: Start) -> Phone {
        let format = format_of(transport);
        let start = Start { audio: Some(AudioFormats { uplink: format, downlink: format, flow: None }), ..start };
        let url = endpoint(transport, &format!("http://{}", daemon.http)).unwrap();
        let dialled = dial(transport, &url, None, &start, &mut Default::default()).await;
        let Called { mut carrier, progress, .. } = dialled.unwrap_or_else(|error| panic!("{error}"));
        if matches!(progress, Progress::Unsent) {
            carrier.send_message(codec::encode_start(&start).unwrap()).await.expect("the link is there");
        }
        let mut phone = Phone {
            carrier,
            begun: Instant::now(),
            player: Player::new(format, SPEAKER_BUFFER),
            format,
            decoder: Decoder::new(format, format.rate).unwrap(),
            encoder: Encoder::new(format, format.rate, &OpusSettings::default()).unwrap(),
            buffer: BytesMut::new(),
            given: VecDeque::new(),
        };
        let ready = async {
            loop {
                let until = phone.now() + PATIENCE;
                match phone.next(until).await {
                    Came::Said(ToClient::Agent(agent)) if agent.status == AgentStatus::Ready => return,
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, ready).await.expect("the agent is never ready");
        phone
    }

    /// Time since the call began.
    pub fn now(&self) -> Micros {
        Micros(self.begun.elapsed().as_micros() as u64)
    }

    /// Says something.
    pub async fn say(&mut self, message: &FromClient) {
        self.carrier.send_message(codec::encode_from_client(message).unwrap()).await.expect("the link is there");
    }

    /// Speaks 20 ms.
    pub async fn speak(&mut self, samples: &[i16]) {
        let payload = self.encoder.encode(samples, &mut self.buffer).unwrap();
        self.carrier.send_audio(payload).await.expect("the link is there");
    }

    /// The samples of a frame.
    pub fn samples(&mut self, payload: &[u8]) -> Vec<i16> {
        let mut pcm = Vec::new();
        self.decoder.decode(payload, &mut pcm).unwrap();
        pcm
    }

    /// What has left the speaker since the last time: when, from which position, and the samples. Sends what it reports.
    pub async fn played(&mut self) -> Vec<(Micros, u32, Vec<i16>)> {
        let mut heard = Vec::new();
        loop {
            let now = self.now();
            match self.given.pop_front().unwrap_or_else(|| self.player.poll(now)) {
                PlayerOutput::Idle { .. } => return heard,
                PlayerOutput::Send(message) => self.say(&message).await,
                PlayerOutput::Played(Played { at, pos, ticks, payload }) => {
                    let mut samples = self.samples(&payload);
                    samples.truncate(ticks as usize);
                    heard.push((at, pos, samples));
                }
            }
        }
    }

    /// The next thing that comes, at `until` at the latest, or when the speaker has something to tell.
    pub async fn next(&mut self, until: Micros) -> Came {
        let playing = match self.player.poll(self.now()) {
            PlayerOutput::Idle { deadline } => deadline,
            output => {
                self.given.push_back(output);
                return Came::Nothing;
            }
        };
        let until = playing.map_or(until, |at| at.min(until)).max(self.now() + Duration::from_millis(1));
        let arrived = tokio::select! {
            arrived = self.carrier.next() => arrived,
            () = sleep_until((self.begun + Duration::from_micros(until.0)).into()) => return Came::Nothing,
        };
        let now = self.now();
        match arrived {
            Arrived::Audio { payload, timestamp } => {
                let samples = self.samples(&payload);
                let pos = match timestamp {
                    Some(timestamp) => self.player.handle_rtp(payload, timestamp, now),
                    None => self.player.handle_audio(payload, now),
                };
                Came::Audio(samples, pos)
            }
            Arrived::Message(text) => match codec::decode_to_client(&text) {
                Ok(Decoded::Message { message, .. }) => {
                    self.player.handle_message(&message, now);
                    if let ToClient::Error(error) = &message {
                        panic!("{}", error.message);
                    }
                    Came::Said(message)
                }
                _ => Came::Nothing,
            },
            Arrived::Nothing => Came::Nothing,
            Arrived::Closed(how) => panic!("the call was ended: {how}"),
        }
    }

    /// Hangs up.
    pub async fn hang_up(mut self) {
        self.say(&FromClient::End).await;
        self.carrier.close().await;
    }
}
