//! What comes in: frames are measured, put in order, and go to the agent.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::media::format::Codec;
use crate::media::order::{Ordered, Packet, Pushed};
use crate::media::transcode::{has_lbrr, payload_ticks};
use crate::message::AudioIn;
use crate::session::uplink::backlog::Waiting;
use crate::session::uplink::chain::Chain;
use crate::session::uplink::line::{AgentLine, FRAME};
use crate::session::uplink::{LinkSide, Uplink, UplinkOutput};
use crate::session::{Carriage, Measure};
use crate::time::Micros;

/// Longest frame that is taken.
const MAX_FRAME: Duration = Duration::from_millis(250);
/// Opus packets up to this many bytes mean that the sender pauses (DTX).
const DTX_BYTES: usize = 2;
/// Frames at or below this level (-dBov) are silence: they may be left out to repay surplus.
const QUIET: u8 = 60;

impl Uplink {
    /// Measures a frame and refuses it if its size is not possible. On RTP, where it has its place in a sequence, it
    /// goes on without its payload: its time is concealed.
    pub(super) fn examine(&mut self, mut audio: AudioIn, link: LinkSide) -> Option<Waiting> {
        let ordered = link.carriage == Carriage::Ordered || audio.rtp.is_none();
        if audio.payload.is_empty() && !ordered {
            return Some(Waiting { link: link.number, ticks: 0, span: Duration::ZERO, audio });
        }
        let reason = match payload_ticks(&link.format, &audio.payload) {
            Some(ticks) if ticks > 0 => {
                let span = link.format.ticks_to_time(u64::from(ticks));
                if span <= MAX_FRAME {
                    return Some(Waiting { link: link.number, ticks, span, audio });
                }
                format!("a frame of {} ms; send at most {} ms in each", span.as_millis(), MAX_FRAME.as_millis())
            }
            Some(_) => format!("an empty frame; send 20 ms of {} in each", link.format),
            None => format!("{} bytes are no {} frame", audio.payload.len(), link.format),
        };
        self.out.push_back(UplinkOutput::BadAudio(reason));
        if ordered {
            return None;
        }
        audio.payload = Bytes::new();
        let ticks = link.format.time_to_ticks(FRAME) as u32;
        Some(Waiting { link: link.number, ticks, span: FRAME, audio })
    }

    /// Takes a frame on its way to the agent, at once or through order.
    pub(super) fn accept(&mut self, waiting: Waiting, now: Micros) {
        let Waiting { ticks, span, audio, .. } = waiting;
        let Some(path) = &mut self.path else { return };
        let (Some(order), Some(rtp)) = (&mut path.order, audio.rtp) else {
            let level = audio.rtp.and_then(|rtp| rtp.level);
            self.last = Some((now, span, false));
            self.on_packet((audio.payload, ticks), level, audio.arrival, now);
            return;
        };
        let recovers = path.link.format.codec == Codec::Opus && path.chain.as_ref().is_some_and(Chain::recovers);
        let lbrr = recovers && has_lbrr(&audio.payload);
        let pushed = order.push(Packet {
            seq: rtp.seq,
            timestamp: rtp.timestamp,
            arrival: audio.arrival,
            ticks,
            lbrr,
            level: rtp.level,
            payload: audio.payload,
        });
        if pushed == Pushed::Taken {
            self.last = Some((now, span, false));
            self.await_audio(now);
        }
        self.drain_order(now);
    }

    /// Takes from order what is due, if somebody listens.
    pub(super) fn drain_order(&mut self, now: Micros) {
        if self.line.is_none() {
            return;
        }
        while let Some(ordered) = self.path.as_mut().and_then(|path| path.order.as_mut()?.poll(now)) {
            self.on_ordered(ordered, now);
        }
        self.count_order();
    }

    pub(super) fn on_ordered(&mut self, ordered: Ordered, now: Micros) {
        let Some(format) = self.path.as_ref().map(|path| path.link.format) else { return };
        let span_of = |ticks: u32| format.ticks_to_time(u64::from(ticks));
        match ordered {
            Ordered::Packet(packet) => {
                self.on_packet((packet.payload, packet.ticks), packet.level, packet.arrival, now);
            }
            Ordered::Recover { successor, ticks, ready } => {
                if let Some((chain, line, out)) = self.parts() {
                    chain.recover(&successor, span_of(ticks), ready, line, out);
                }
            }
            Ordered::Conceal { ticks, ready, .. } => self.conceal(span_of(ticks), ready),
            Ordered::DtxGap { ticks, ready } => self.fill_pause(span_of(ticks), ready, now),
            Ordered::GapEnded { waited } => self.measure(Measure::GapWait(waited)),
            Ordered::Resync => {}
        }
    }

    /// A packet whose turn it is.
    pub(super) fn on_packet(
        &mut self,
        (payload, ticks): (Bytes, u32),
        level: Option<u8>,
        arrival: Micros,
        now: Micros,
    ) {
        let Some(format) = self.path.as_ref().map(|path| path.link.format) else { return };
        let span = format.ticks_to_time(u64::from(ticks));
        if payload.is_empty() {
            return self.conceal(span, arrival);
        }
        let Some((chain, _, out)) = self.parts() else { return };
        let level = match chain.take(&payload, ticks) {
            Ok(found) => level.or(found),
            Err(error) => {
                chain.discard();
                out.push_back(UplinkOutput::BadAudio(error.to_string()));
                return self.conceal(span, arrival);
            }
        };
        self.listen(arrival);
        let Some((chain, line, out)) = self.parts() else { return };
        let dtx = format.codec == Codec::Opus && payload.len() <= DTX_BYTES;
        let quiet = dtx || level.is_some_and(|level| level >= QUIET);
        let first = line.is_untouched();
        let left_out = line.on_packet(span, quiet, now);
        if left_out {
            chain.discard();
        } else {
            chain.commit(arrival, line, out);
        }
        if first {
            line.anchor_at(arrival);
        }
        line.bound(now);
        self.shortened += if left_out { span } else { Duration::ZERO };
        if let Some(change) = level.and_then(|level| self.speech.on_frame(level, span, arrival)) {
            self.push_speech(change);
        }
        self.last = Some((now, span, dtx));
        self.await_audio(now);
    }

    /// Looks for voice in the packet that was taken.
    fn listen(&mut self, arrival: Micros) {
        let chain = self.path.as_ref().and_then(|path| path.chain.as_ref());
        let (Some(voice), Some((pcm, rate))) = (&mut self.voice, chain.and_then(Chain::samples)) else { return };
        let out = &mut self.out;
        voice.hear(pcm, rate, |window| out.push_back(UplinkOutput::Voice(window, arrival)));
    }

    /// What audio passes through, while an agent listens and there is a link.
    pub(super) fn parts(&mut self) -> Option<(&mut Chain, &mut AgentLine, &mut VecDeque<UplinkOutput>)> {
        Some((self.path.as_mut()?.chain.as_mut()?, self.line.as_mut()?, &mut self.out))
    }
}
