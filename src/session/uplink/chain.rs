//! From a link's packets to the agent's frames: untouched where the wire is the same, else decoded, cut into frames
//! and encoded.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::media::format::{Codec, Format};
use crate::media::level::level;
use crate::media::packet::Packet;
use crate::media::transcode::{Decoder, Encoder, MediaError, same_wire, working_rate};
use crate::route::plan::OpusSettings;
use crate::session::uplink::UplinkOutput;
use crate::session::uplink::line::{AgentLine, FRAME};
use crate::time::Micros;

/// Opus that passes through untouched is decoded at this rate where somebody listens to the samples.
const METER_RATE: u32 = 16_000;
/// Beyond this a decoder's concealment has faded out: the rest is plain silence.
const MAX_PLC: Duration = Duration::from_millis(200);
/// Silent frames that an Opus encoder still encodes, so that it fades out; after them the same one is repeated.
const FADE_FRAMES: u32 = 2;
/// Every Opus table of contents: such a packet alone says that its frame was lost (RFC 6716 section 3.2.1).
static LOST_FRAMES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

type Out = VecDeque<UplinkOutput>;

/// A link's format paired with an agent's.
#[derive(Debug)]
pub(super) enum Chain {
    /// The same on both wires.
    Pass(Box<Pass>),
    /// Decoded and encoded.
    Coded(Box<Coded>),
}

/// Packets go on as they came.
#[derive(Debug)]
pub(super) struct Pass {
    client: Format,
    /// For the level of formats that are decoded at almost no cost, and of all where somebody listens to the samples.
    meter: Option<Decoder>,
    pcm: Vec<i16>,
    /// The packet that waits for [`Chain::commit`], with its length in ticks.
    taken: Option<(Bytes, u32)>,
    last_toc: Option<u8>,
}

/// Packets are decoded, cut into frames of 20 ms and encoded.
#[derive(Debug)]
pub(super) struct Coded {
    decoder: Decoder,
    encoder: Encoder,
    rate: u32,
    frame: usize,
    to_opus: bool,
    /// Samples that wait to fill a frame, and those not committed yet.
    pcm: Vec<i16>,
    /// How many of them are committed.
    committed: usize,
    /// Arrival of the earliest packet that begins in the frame that is being filled.
    begun: Option<Micros>,
    /// Whether something in that frame is not made up.
    real: bool,
    silent_frames: u32,
    encoder_stale: bool,
    buffer: BytesMut,
}

impl Chain {
    /// A chain from `client` to `agent`.
    ///
    /// # Errors
    /// If one of the formats is not possible.
    pub fn new(client: Format, agent: Format, opus: &OpusSettings) -> Result<Chain, MediaError> {
        if same_wire(&client, &agent) {
            let meter = (client.codec != Codec::Opus).then(|| Decoder::new(client, client.rate)).transpose()?;
            let pass = Pass { client, meter, pcm: Vec::new(), taken: None, last_toc: None };
            return Ok(Chain::Pass(Box::new(pass)));
        }
        let rate = working_rate(&client, &agent);
        Ok(Chain::Coded(Box::new(Coded {
            decoder: Decoder::new(client, rate)?,
            encoder: Encoder::new(agent, rate, opus)?,
            rate,
            frame: samples_in(FRAME, rate),
            to_opus: agent.codec == Codec::Opus,
            pcm: Vec::with_capacity(samples_in(FRAME, rate) * 4),
            committed: 0,
            begun: None,
            real: false,
            silent_frames: 0,
            encoder_stale: false,
            buffer: BytesMut::new(),
        })))
    }

    /// Decodes what passes through untouched too, for [`Chain::samples`].
    pub fn give_samples(&mut self) {
        if let Chain::Pass(pass) = self
            && pass.meter.is_none()
        {
            pass.meter = Decoder::new(pass.client, METER_RATE).ok();
        }
    }

    /// The samples of what was taken last and is not committed yet, and their rate, where they are known.
    pub fn samples(&self) -> Option<(&[i16], u32)> {
        match self {
            Chain::Pass(pass) => {
                pass.meter.as_ref()?;
                let rate = if pass.client.codec == Codec::Opus { METER_RATE } else { pass.client.rate };
                Some((&pass.pcm, rate))
            }
            Chain::Coded(coded) => Some((&coded.pcm[coded.committed..], coded.rate)),
        }
    }

    /// Delay of decoder, resampler and encoder together.
    pub fn delay(&self) -> Duration {
        match self {
            Chain::Pass(_) => Duration::ZERO,
            Chain::Coded(coded) => coded.decoder.delay() + coded.encoder.delay(),
        }
    }

    /// Whether lost packets can be recovered from their successors.
    pub fn recovers(&self) -> bool {
        matches!(self, Chain::Coded(_))
    }

    /// Takes a packet of `ticks`, without handing it over yet. Gives its level where it can be found.
    ///
    /// # Errors
    /// If it cannot be decoded; nothing was taken then.
    pub fn take(&mut self, payload: &Bytes, ticks: u32) -> Result<Option<u8>, MediaError> {
        match self {
            Chain::Pass(pass) => {
                pass.last_toc = payload.first().copied();
                pass.taken = Some((payload.clone(), ticks));
                let Some(meter) = &mut pass.meter else { return Ok(None) };
                pass.pcm.clear();
                meter.decode(payload, &mut pass.pcm)?;
                Ok(Some(level(&pass.pcm)))
            }
            Chain::Coded(coded) => {
                coded.decoder.decode(payload, &mut coded.pcm)?;
                Ok(Some(level(&coded.pcm[coded.committed..])))
            }
        }
    }

    /// Hands over what was taken; it arrived at `ready`.
    pub fn commit(&mut self, ready: Micros, line: &mut AgentLine, out: &mut Out) {
        match self {
            Chain::Pass(pass) => {
                if let Some(frame) = pass.taken.take() {
                    line.emit(frame, ready, false, out);
                }
            }
            Chain::Coded(coded) => coded.commit(ready, false, line, out),
        }
    }

    /// Forgets what was taken.
    pub fn discard(&mut self) {
        match self {
            Chain::Pass(pass) => pass.taken = None,
            Chain::Coded(coded) => coded.pcm.truncate(coded.committed),
        }
    }

    /// Recovers `span` from `successor`, or conceals it.
    pub fn recover(&mut self, successor: &[u8], span: Duration, ready: Micros, line: &mut AgentLine, out: &mut Out) {
        match self {
            Chain::Pass(_) => self.conceal(span, ready, line, out),
            Chain::Coded(coded) => {
                if coded.decoder.recover(successor, span, &mut coded.pcm).is_err() {
                    coded.decoder.conceal(span, &mut coded.pcm);
                }
                coded.commit(ready, false, line, out);
            }
        }
    }

    /// Makes up `span` of lost audio. An Opus packet cannot be made up without decoding: the agent's own decoder is
    /// told that frames are missing, and conceals them.
    pub fn conceal(&mut self, span: Duration, ready: Micros, line: &mut AgentLine, out: &mut Out) {
        match self {
            Chain::Pass(pass) if pass.client.codec == Codec::Opus => {
                let toc = pass.last_toc.unwrap_or(0xf8) & 0xfc;
                let Some(packet) = LOST_FRAMES.get(usize::from(toc)..usize::from(toc) + 1) else { return };
                let ticks = Packet::parse(packet).map_or(960, |packet| packet.ticks());
                for _ in 0..pass.client.time_to_ticks(span) / u64::from(ticks) {
                    line.emit((Bytes::from_static(packet), ticks), ready, false, out);
                }
            }
            Chain::Pass(pass) => {
                let mut left = pass.client.time_to_ticks(span);
                while left > 0 {
                    let ticks = left.min(u64::from(line.frame_ticks()));
                    let bytes = pass.client.bytes_per_sample().unwrap_or(0) * ticks as usize;
                    line.emit((line.silence().slice(..bytes), ticks as u32), ready, false, out);
                    left -= ticks;
                }
            }
            Chain::Coded(coded) => {
                let concealed = span.min(MAX_PLC);
                coded.decoder.conceal(concealed, &mut coded.pcm);
                let silent = samples_in(span - concealed, coded.rate);
                coded.pcm.resize(coded.pcm.len() + silent, 0);
                coded.commit(ready, false, line, out);
            }
        }
    }

    /// Makes up silence to the end of a frame. Gives how much.
    pub fn fill_frame(&mut self, at: Micros, line: &mut AgentLine, out: &mut Out) -> Duration {
        let rest = match self {
            Chain::Pass(_) => FRAME,
            Chain::Coded(coded) => time_of(coded.frame - coded.committed, coded.rate),
        };
        self.fill(rest, at, line, out)
    }

    /// Makes up `span` of silence, or what of it are whole frames. Gives how much.
    pub fn fill(&mut self, span: Duration, at: Micros, line: &mut AgentLine, out: &mut Out) -> Duration {
        let before = line.sent();
        match self {
            Chain::Pass(_) => {
                for _ in 0..span.as_micros() / FRAME.as_micros() {
                    line.emit((line.silence(), line.frame_ticks()), at, true, out);
                }
            }
            Chain::Coded(coded) => {
                coded.pcm.resize(coded.committed + samples_in(span, coded.rate), 0);
                coded.commit(at, true, line, out);
            }
        }
        let filled = line.sent() - before;
        line.on_filled(filled, at);
        filled
    }

    /// Hands over what waits to fill a frame, at the end of a stream.
    pub fn finish(&mut self, now: Micros, line: &mut AgentLine, out: &mut Out) -> Duration {
        match self {
            Chain::Coded(coded) if coded.committed > 0 => self.fill_frame(now, line, out),
            _ => Duration::ZERO,
        }
    }

    /// Encoder complexity, 0 to 10.
    pub fn set_complexity(&mut self, complexity: u8) {
        if let Chain::Coded(coded) = self {
            coded.encoder.set_complexity(complexity);
        }
    }

    /// Panics if the state contradicts itself.
    pub fn check_invariants(&self) {
        match self {
            Chain::Pass(pass) => debug_assert!(pass.taken.is_none(), "what was taken was handed over or left out"),
            Chain::Coded(coded) => {
                debug_assert!(coded.committed < coded.frame, "a whole frame never waits");
                debug_assert_eq!(coded.committed, coded.pcm.len(), "what was taken was handed over or left out");
            }
        }
    }
}

impl Coded {
    /// Counts the samples decoded since the last call as given at `ready`, and hands over every whole frame.
    ///
    /// Added latency counts from the arrival of a packet to the hand-over of the first byte made of it: a frame is as
    /// old as the earliest packet that begins in it.
    fn commit(&mut self, ready: Micros, made_up: bool, line: &mut AgentLine, out: &mut Out) {
        if self.pcm.len() == self.committed {
            return;
        }
        self.begun = Some(self.begun.map_or(ready, |begun| begun.min(ready)));
        self.real |= !made_up;
        let mut from = 0;
        while self.pcm.len() - from >= self.frame {
            let ready = self.begun.take().unwrap_or(ready);
            let filled = !self.real;
            self.real = !made_up;
            let payload = self.encode(from, filled, line, out);
            line.emit((payload, line.frame_ticks()), ready, filled, out);
            from += self.frame;
        }
        self.pcm.copy_within(from.., 0);
        self.pcm.truncate(self.pcm.len() - from);
        self.committed = self.pcm.len();
        if self.committed == 0 {
            (self.begun, self.real) = (None, false);
        }
        line.set_pending(time_of(self.committed, self.rate));
    }

    /// Encodes the frame that starts at `from`. Silence is not worth an encoder's time: after a fade-out the same frame
    /// is repeated, and the encoder starts afresh afterwards, as the agent's decoder does.
    fn encode(&mut self, from: usize, filled: bool, line: &AgentLine, out: &mut Out) -> Bytes {
        self.silent_frames = if filled { self.silent_frames.saturating_add(1) } else { 0 };
        if filled && (!self.to_opus || self.silent_frames > FADE_FRAMES) {
            self.encoder_stale = self.to_opus;
            return line.silence();
        }
        if std::mem::take(&mut self.encoder_stale) {
            self.encoder.reset();
        }
        match self.encoder.encode(&self.pcm[from..from + self.frame], &mut self.buffer) {
            Ok(payload) => payload,
            Err(error) => {
                out.push_back(UplinkOutput::BadAudio(error.to_string()));
                line.silence()
            }
        }
    }
}

fn samples_in(span: Duration, rate: u32) -> usize {
    (span.as_nanos() * u128::from(rate) / 1_000_000_000) as usize
}

/// Time of `samples`, rounded up, so that [`samples_in`] gives them again.
fn time_of(samples: usize, rate: u32) -> Duration {
    Duration::from_nanos((samples as u64 * 1_000_000_000).div_ceil(u64::from(rate)))
}
