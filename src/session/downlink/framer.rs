//! From the agent's audio in the playout store to frames of the client's format.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::loss::Setting;
use crate::ids::TurnId;
use crate::media::format::{Codec, Format};
use crate::media::level::level;
use crate::media::playout::Playout;
use crate::media::transcode::{Decoder, Encoder, MediaError, payload_ticks, same_wire, working_rate};
use crate::route::plan::OpusSettings;
use crate::session::Carriage;
use crate::time::Micros;

/// Length of a frame towards the client.
pub const FRAME: Duration = Duration::from_millis(20);
/// How long a partial frame waits for the rest before it is padded.
pub const PARTIAL_WAIT: Duration = Duration::from_millis(40);

/// A frame for the client.
#[derive(Debug)]
pub struct Frame {
    /// The turn that it belongs to.
    pub turn: TurnId,
    /// Offset of its first sample in the turn.
    pub start: Duration,
    /// Length in ticks of the client's format.
    pub ticks: u32,
    /// When the last byte that it was made of arrived.
    pub arrival: Micros,
    /// Its level in -dBov, where it is measured.
    pub level: Option<u8>,
    /// The coded audio.
    pub payload: Bytes,
}

/// What [`Framer::next`] gives.
#[derive(Debug)]
pub enum Next {
    /// A frame.
    Frame(Frame),
    /// Part of a frame is there; it is padded at this instant.
    Partial(Micros),
    /// Nothing is there.
    Empty,
    /// A piece of this length cannot be decoded and was left out.
    Bad(Duration),
}

/// Makes frames: untouched where both formats are the same on the wire, else decoded and encoded.
#[derive(Debug)]
pub struct Framer {
    from: Format,
    to: Format,
    carriage: Carriage,
    coder: Option<Box<Coder>>,
    meter: Option<Box<Meter>>,
}

/// Finds the level of frames that pass through untouched.
#[derive(Debug)]
struct Meter {
    decoder: Decoder,
    pcm: Vec<i16>,
}

#[derive(Debug)]
struct Coder {
    decoder: Decoder,
    encoder: Encoder,
    rate: u32,
    pcm: Vec<i16>,
    turn: TurnId,
    start: Duration,
    arrival: Micros,
    buffer: BytesMut,
    opus: OpusSettings,
    /// What the encoder uses.
    complexity: u8,
    /// Whether the level of each frame is found.
    levels: bool,
}

impl Meter {
    fn new(format: Format) -> Option<Box<Meter>> {
        // Opus is decoded for less at a low rate, and most of a voice is below 4 kHz.
        let rate = if format.codec == Codec::Opus { 8_000 } else { format.rate };
        let decoder = Decoder::new(format, rate).ok()?;
        Some(Box::new(Meter { decoder, pcm: Vec::new() }))
    }

    fn level(&mut self, payload: &[u8]) -> Option<u8> {
        self.pcm.clear();
        self.decoder.decode(payload, &mut self.pcm).ok().map(|()| level(&self.pcm))
    }
}

impl Framer {
    /// A framer from the agent's format to the client's.
    ///
    /// # Errors
    /// If one of the formats cannot be served.
    pub fn new(from: Format, to: Format, carriage: Carriage, opus: &OpusSettings) -> Result<Framer, MediaError> {
        let coder = if same_wire(&from, &to) {
            None
        } else {
            let rate = working_rate(&to, &from);
            Some(Box::new(Coder {
                decoder: Decoder::new(from, rate)?,
                encoder: Encoder::new(to, rate, opus)?,
                rate,
                pcm: Vec::with_capacity(rate as usize / 4),
                turn: TurnId::default(),
                start: Duration::ZERO,
                arrival: Micros::ZERO,
                buffer: BytesMut::with_capacity(16 * 1024),
                opus: *opus,
                complexity: opus.complexity,
                levels: false,
            }))
        };
        Ok(Framer { from, to, carriage, coder, meter: None })
    }

    /// The format that it reads.
    pub fn from(&self) -> Format {
        self.from
    }

    /// Whether the level of each frame is found.
    pub fn measure_levels(&mut self, on: bool) {
        match &mut self.coder {
            Some(coder) => coder.levels = on,
            None => self.meter = Some(self.from).filter(|_| on).and_then(Meter::new),
        }
    }

    /// Whether frames pass through untouched.
    pub fn passes(&self) -> bool {
        self.coder.is_none()
    }

    /// Delay of decoder, resampler and encoder together.
    pub fn delay(&self) -> Duration {
        self.coder.as_ref().map_or(Duration::ZERO, |coder| coder.decoder.delay() + coder.encoder.delay())
    }

    /// Complexity of the Opus encoder, if there is one.
    pub fn complexity(&self) -> Option<u8> {
        self.coder.as_ref().filter(|_| self.to.codec == Codec::Opus).map(|coder| coder.complexity)
    }

    /// Has the Opus encoder use its configured complexity, but at most `most`; what it uses now if that changed.
    pub fn limit_complexity(&mut self, most: u8) -> Option<u8> {
        let coder = self.coder.as_mut().filter(|_| self.to.codec == Codec::Opus)?;
        let complexity = coder.opus.complexity.min(most);
        (complexity != coder.complexity).then(|| {
            coder.complexity = complexity;
            coder.encoder.set_complexity(complexity);
            complexity
        })
    }

    /// Ticks of the client's clock in a usual frame.
    pub fn frame_ticks(&self) -> u64 {
        self.to.time_to_ticks(FRAME)
    }

    /// Sets the encoder to what the client's reports of loss call for.
    pub fn follow(&mut self, setting: Setting) {
        if let Some(coder) = &mut self.coder {
            coder.encoder.set_expected_loss(setting.loss);
            coder.encoder.set_bitrate(setting.bitrate);
        }
    }

    /// A frame of silence, and its length in ticks of the client's clock.
    pub fn silence(&mut self) -> (Bytes, u32) {
        let ticks = self.frame_ticks() as u32;
        let coded = self.coder.as_mut().and_then(|coder| {
            let samples = (u64::from(coder.rate) * FRAME.as_micros() as u64 / 1_000_000) as usize;
            let held = coder.pcm.len();
            coder.pcm.resize(held + samples, 0);
            let payload = coder.encoder.encode(&coder.pcm[held..], &mut coder.buffer);
            coder.pcm.truncate(held);
            payload.ok().filter(|payload| payload_ticks(&self.to, payload) == Some(ticks))
        });
        (coded.unwrap_or_else(|| silence(self.to)), ticks)
    }

    /// Forgets what was begun, so that nothing of an old generation leaks into the next.
    pub fn reset(&mut self) {
        if let Some(coder) = &mut self.coder {
            coder.pcm.clear();
            coder.encoder.reset();
            // A decoder that cannot be made anew was made from the same values before.
            if let Ok(decoder) = Decoder::new(self.from, coder.rate) {
                coder.decoder = decoder;
            }
        }
    }

    /// Whether part of a frame is held.
    pub fn is_partial(&self) -> bool {
        self.coder.as_ref().is_some_and(|coder| !coder.pcm.is_empty())
    }

    /// Whether part of a frame of `turn` is held.
    pub fn holds(&self, turn: TurnId) -> bool {
        self.coder.as_ref().is_some_and(|coder| coder.turn == turn && !coder.pcm.is_empty())
    }

    /// The next frame. `ended` tells whether a turn's audio is complete.
    pub fn next(&mut self, store: &mut Playout, ended: impl Fn(TurnId) -> bool, now: Micros) -> Next {
        match &mut self.coder {
            None => match store.read(self.from.time_to_ticks(FRAME) as u32) {
                Some(piece) => Next::Frame(Frame {
                    turn: piece.turn,
                    start: self.from.ticks_to_time(piece.start),
                    ticks: piece.ticks,
                    arrival: piece.arrival,
                    level: self.meter.as_mut().and_then(|meter| meter.level(&piece.payload)),
                    payload: piece.payload,
                }),
                None => Next::Empty,
            },
            Some(coder) => loop {
                match coder.next(self.from, self.to, self.carriage, store, &ended, now) {
                    // A resampler swallows its first samples.
                    Next::Frame(frame) if frame.ticks == 0 => {}
                    next => return next,
                }
            },
        }
    }
}

/// A frame of silence that no encoder has made.
fn silence(format: Format) -> Bytes {
    match format.codec {
        // CELT, full band, 20 ms, mono, and nothing in it.
        Codec::Opus => Bytes::from_static(&[0xF8, 0xFF, 0xFE]),
        // The quietest codes of ITU-T G.711.
        Codec::Pcmu => Bytes::from_static(&[0xFF; 160]),
        Codec::Pcma => Bytes::from_static(&[0xD5; 160]),
        Codec::Pcm16 => vec![0; format.bytes_in(FRAME).unwrap_or_default()].into(),
    }
}

impl Coder {
    fn next(
        &mut self,
        from: Format,
        to: Format,
        carriage: Carriage,
        store: &mut Playout,
        ended: &impl Fn(TurnId) -> bool,
        now: Micros,
    ) -> Next {
        let need = (u64::from(self.rate) * FRAME.as_micros() as u64 / 1_000_000) as usize;
        while self.pcm.len() < need {
            if !self.pcm.is_empty() && store.next_turn().is_some_and(|turn| turn != self.turn) {
                break;
            }
            let missing = (need - self.pcm.len()) as u64 * u64::from(from.clock()) / u64::from(self.rate);
            let Some(piece) = store.read(missing.max(1) as u32) else { break };
            if self.pcm.is_empty() {
                self.turn = piece.turn;
                self.start = from.ticks_to_time(piece.start);
            }
            self.arrival = piece.arrival;
            if self.decoder.decode(&piece.payload, &mut self.pcm).is_err() {
                return Next::Bad(from.ticks_to_time(piece.ticks.into()));
            }
        }
        if self.pcm.is_empty() {
            return Next::Empty;
        }
        let mut length = need;
        if self.pcm.len() < need {
            let complete = ended(self.turn) || store.next_turn().is_some_and(|turn| turn != self.turn);
            let padded_at = self.arrival + PARTIAL_WAIT;
            if !complete && now < padded_at {
                return Next::Partial(padded_at);
            }
            if to.codec == Codec::Opus || carriage == Carriage::Rtp {
                self.pcm.resize(need, 0);
            } else {
                length = self.pcm.len();
            }
        }
        self.frame(to, length)
    }

    fn frame(&mut self, to: Format, length: usize) -> Next {
        let span = Duration::from_micros(length as u64 * 1_000_000 / u64::from(self.rate));
        let (turn, start, arrival) = (self.turn, self.start, self.arrival);
        let level = self.levels.then(|| level(&self.pcm[..length]));
        self.start += span;
        let payload = self.encoder.encode(&self.pcm[..length], &mut self.buffer);
        self.pcm.copy_within(length.., 0);
        self.pcm.truncate(self.pcm.len() - length);
        match payload {
            Ok(payload) => {
                let ticks = payload_ticks(&to, &payload).unwrap_or(0);
                Next::Frame(Frame { turn, start, ticks, arrival, level, payload })
            }
            Err(_) => {
                if let Ok(encoder) = Encoder::new(to, self.rate, &self.opus) {
                    self.encoder = encoder;
                    self.complexity = self.opus.complexity;
                }
                Next::Bad(span)
            }
        }
    }
}
