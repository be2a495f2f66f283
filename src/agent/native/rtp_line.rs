//! The audio of one `antiphon.v1` session with an agent server over QUIC: RTP packets beside the control messages
//! (`docs/protocol.md`, "QUIC and WebTransport").
//!
//! Control messages and audio overtake each other there. Packets are put in order, short losses are concealed, and
//! `turn` messages take effect where the audio has reached their position.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::wire::TurnIn;
use crate::media::format::{Codec, Format};
use crate::media::order::{self, Order, Ordered, Pushed};
use crate::media::packet;
use crate::media::rtp::{self, Extender, Header};
use crate::media::transcode::payload_ticks;
use crate::message::{AgentAudioOut, TurnPhase};
use crate::route::plan::GapMode;
use crate::time::Micros;

/// How long a missing packet is waited for once its successor is there.
const GAP_WAIT: Duration = Duration::from_millis(40);
/// How long the first packet of a voice waits for the `turn` that announces it.
const ANNOUNCEMENT_WAIT: Duration = Duration::from_millis(40);
/// How long a `turn` waits for the audio before its position.
const AUDIO_WAIT: Duration = Duration::from_millis(100);
/// Lost audio that is made up for; what is lost beyond it in a row is left out.
const MAX_CONCEALED: Duration = Duration::from_millis(200);
/// The longest payload of one packet, in bytes: with its headers it fits into a datagram on any path (RFC 9000
/// section 14).
const MAX_PAYLOAD: usize = 1100;
/// `turn` messages, beginnings of voices, and runs of positions that are remembered at most.
const REMEMBERED: usize = 64;

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// A turn begins or ends here.
    Turn(TurnIn),
    /// Audio of so many ticks.
    Audio {
        /// When it arrived.
        arrival: Micros,
        payload: Bytes,
    },
}

/// A packet in its place.
#[derive(Debug)]
struct Piece {
    timestamp: u32,
    ticks: u32,
    /// It begins a voice.
    begins: bool,
    arrival: Micros,
    payload: Bytes,
}

/// A `turn` that waits for the audio before it.
#[derive(Debug)]
struct Mark {
    turn: TurnIn,
    pos: u32,
    by: Micros,
}

/// Audio whose timestamps run on without a jump, from `received` ticks on.
#[derive(Clone, Copy, Debug)]
struct Run {
    received: u64,
    timestamp: u32,
}

/// Both directions of a session's audio.
#[derive(Debug)]
pub(super) struct RtpLine {
    ssrc: u32,
    seq: u16,
    sent: Option<u64>,
    /// The agent's format and synchronisation source.
    format: Format,
    source: Option<u32>,
    extender: Extender,
    order: Order,
    beginnings: VecDeque<u32>,
    /// Timestamp after the last packet in order.
    expected: Option<u32>,
    last: Bytes,
    audio: VecDeque<Piece>,
    marks: VecDeque<Mark>,
    /// Timestamp after the last audio that was given.
    reached: Option<u32>,
    received: u64,
    runs: VecDeque<Run>,
    valid_from: Option<u32>,
    /// Whether the agent announces its turns, once that is known.
    announces: Option<bool>,
}

impl RtpLine {
    /// A line that has carried nothing.
    pub fn new(format: Format, ssrc: u32) -> RtpLine {
        RtpLine {
            ssrc,
            seq: ssrc as u16,
            sent: None,
            format,
            source: None,
            extender: Extender::default(),
            order: new_order(&format),
            beginnings: VecDeque::new(),
            expected: None,
            last: Bytes::new(),
            audio: VecDeque::with_capacity(8),
            marks: VecDeque::with_capacity(4),
            reached: None,
            received: 0,
            runs: VecDeque::with_capacity(4),
            valid_from: None,
            announces: None,
        }
    }

    /// The agent's format is known now.
    pub fn set_format(&mut self, format: Format) {
        if format != self.format {
            self.format = format;
            self.order = new_order(&format);
        }
    }

    /// The RTP packets of a frame towards the agent; more than one where it is too long for a datagram.
    pub fn packets(&mut self, audio: &AgentAudioOut, format: &Format) -> impl Iterator<Item = Bytes> {
        let parts = match format.bytes_per_sample() {
            Some(_) => audio.payload.len().div_ceil(MAX_PAYLOAD).max(1),
            None => 1,
        };
        let sample = format.bytes_per_sample().unwrap_or(1);
        let samples = audio.payload.len() / sample;
        let mut packets = Vec::with_capacity(parts);
        for part in 0..parts {
            let (from, to) = match format.bytes_per_sample() {
                Some(_) => (samples * part / parts, samples * (part + 1) / parts),
                None => (0, samples),
            };
            let header = Header {
                marker: part == 0 && self.sent != Some(audio.pos),
                payload_type: rtp::payload_type(format),
                seq: self.seq,
                timestamp: (audio.pos + if parts > 1 { from as u64 } else { 0 }) as u32,
                ssrc: self.ssrc,
            };
            self.seq = self.seq.wrapping_add(1);
            let mut packet = BytesMut::with_capacity(rtp::HEADER_BYTES + (to - from) * sample);
            header.write(&mut packet);
            packet.extend_from_slice(&audio.payload[from * sample..to * sample]);
            packets.push(packet.freeze());
        }
        self.sent = Some(audio.pos + u64::from(audio.ticks));
        packets.into_iter()
    }

    /// An RTP packet came.
    ///
    /// # Errors
    /// Why it is of no use, for the agent's developer.
    pub fn on_packet(&mut self, bytes: &Bytes, now: Micros) -> Result<(), String> {
        let rtp::Packet { header, payload } = rtp::Packet::parse(bytes).map_err(|error| error.to_string())?;
        let wanted = rtp::payload_type(&self.format);
        if header.payload_type != wanted {
            let got = header.payload_type;
            return Err(format!("an RTP packet has payload type {got}; that of {} is {wanted}", self.format));
        }
        let ticks = match payload_ticks(&self.format, &payload) {
            Some(ticks) => ticks,
            None if payload.is_empty() => 0,
            None => return Err(format!("an RTP packet of {} bytes is not {}", payload.len(), self.format)),
        };
        if self.source.replace(header.ssrc).is_some_and(|source| source != header.ssrc) {
            self.order.flush(now);
            self.sort(now);
            (self.extender, self.order) = (Extender::default(), new_order(&self.format));
        }
        let pushed = self.order.push(order::Packet {
            seq: self.extender.extend(header.seq),
            timestamp: header.timestamp,
            arrival: now,
            ticks,
            lbrr: false,
            level: None,
            payload,
        });
        if header.marker && pushed == Pushed::Taken {
            bounded(&mut self.beginnings, header.timestamp);
        }
        Ok(())
    }

    /// A `turn` message came.
    pub fn on_turn(&mut self, turn: TurnIn, now: Micros) {
        self.announces = Some(true);
        let pos = turn.pos.or(self.reached).unwrap_or_default();
        bounded(&mut self.marks, Mark { turn, pos, by: now + AUDIO_WAIT });
    }

    /// A `flush` message came: audio before `valid_from` is worthless.
    pub fn on_flush(&mut self, valid_from: Option<u32>) {
        let Some(from) = valid_from else {
            self.audio.clear();
            return self.marks.clear();
        };
        self.valid_from = Some(from);
        self.audio.retain(|piece| !is_before(piece.timestamp, from));
        self.marks.retain(|mark| !is_before(mark.pos, from));
    }

    /// What comes next; `turn_open`: whether a turn is going on.
    pub fn poll(&mut self, turn_open: bool, now: Micros) -> Option<Next> {
        self.sort(now);
        loop {
            let turn_first = match (self.marks.front(), self.audio.front()) {
                (None, None) => return None,
                (Some(mark), Some(piece)) => !is_before(piece.timestamp, mark.pos),
                (Some(mark), None) => {
                    let reached = self.reached.is_some_and(|reached| !is_before(reached, mark.pos));
                    let begins = mark.turn.phase == TurnPhase::Start && !turn_open;
                    if !reached && !begins && now < mark.by {
                        return None;
                    }
                    true
                }
                (None, Some(_)) => false,
            };
            if turn_first {
                return self.marks.pop_front().map(|mark| Next::Turn(mark.turn));
            }
            let piece = self.audio.front()?;
            if !turn_open && self.announces != Some(false) {
                if !piece.begins && self.announces.is_some() {
                    // The silence that a voice ends with.
                    self.audio.pop_front();
                    continue;
                }
                if now < piece.arrival + ANNOUNCEMENT_WAIT {
                    return None;
                }
                self.announces.get_or_insert(false);
            }
            let piece = self.audio.pop_front()?;
            self.note(&piece);
            return Some(Next::Audio { arrival: piece.arrival, payload: piece.payload });
        }
    }

    /// When to poll again though nothing came.
    pub fn deadline(&self) -> Option<Micros> {
        let waiting = match (self.audio.front(), self.marks.front()) {
            (Some(piece), _) => Some(piece.arrival + ANNOUNCEMENT_WAIT),
            (None, Some(mark)) => Some(mark.by),
            (None, None) => None,
        };
        [self.order.deadline(), waiting].into_iter().flatten().min()
    }

    /// The RTP timestamp of what is `received` ticks into the audio that was given.
    pub fn timestamp_at(&self, received: u64) -> u32 {
        let run = self.runs.iter().rev().find(|run| run.received <= received).or(self.runs.front());
        run.map_or(received as u32, |run| run.timestamp.wrapping_add(received.wrapping_sub(run.received) as u32))
    }

    /// Takes what order lets out, and makes up for what is lost.
    fn sort(&mut self, now: Micros) {
        while let Some(ordered) = self.order.poll(now) {
            match ordered {
                Ordered::Packet(packet) if packet.ticks > 0 => {
                    self.last = packet.payload.clone();
                    let begins = self.expected.is_none() || self.beginnings.contains(&packet.timestamp);
                    self.keep(Piece {
                        timestamp: packet.timestamp,
                        ticks: packet.ticks,
                        begins,
                        arrival: packet.arrival,
                        payload: packet.payload,
                    });
                }
                Ordered::Conceal { ticks, ready, .. } | Ordered::Recover { ticks, ready, .. } => {
                    self.conceal(ticks, ready);
                }
                Ordered::Packet(_) | Ordered::DtxGap { .. } | Ordered::GapEnded { .. } | Ordered::Resync => {}
            }
        }
    }

    fn keep(&mut self, piece: Piece) {
        self.expected = Some(piece.timestamp.wrapping_add(piece.ticks));
        if self.valid_from.is_none_or(|from| !is_before(piece.timestamp, from)) {
            self.audio.push_back(piece);
        }
    }

    /// Fills up to [`MAX_CONCEALED`] of lost audio: for Opus with packets that say that their frame was lost (RFC 6716
    /// section 3.2.1), so that the last decoder conceals, else with silence.
    fn conceal(&mut self, ticks: u32, ready: Micros) {
        let Some(start) = self.expected else { return };
        if self.format.ticks_to_time(ticks.into()) > MAX_CONCEALED {
            self.expected = Some(start.wrapping_add(ticks));
            return;
        }
        let (unit, payload) = match self.format.codec {
            Codec::Opus => {
                let Some(last) = packet::Packet::parse(&self.last) else { return };
                (last.frame_ticks, Bytes::copy_from_slice(&[self.last[0] & !3]))
            }
            codec => {
                let silence = match codec {
                    Codec::Pcmu => 0xFF,
                    Codec::Pcma => 0xD5,
                    _ => 0,
                };
                let bytes = ticks as usize * self.format.bytes_per_sample().unwrap_or(1);
                (ticks, Bytes::from(vec![silence; bytes]))
            }
        };
        for part in 0..ticks / unit.max(1) {
            let timestamp = start.wrapping_add(part * unit);
            self.keep(Piece { timestamp, ticks: unit, begins: false, arrival: ready, payload: payload.clone() });
        }
        self.expected = Some(start.wrapping_add(ticks));
    }

    fn note(&mut self, piece: &Piece) {
        if self.reached != Some(piece.timestamp) {
            bounded(&mut self.runs, Run { received: self.received, timestamp: piece.timestamp });
        }
        self.received += u64::from(piece.ticks);
        self.reached = Some(piece.timestamp.wrapping_add(piece.ticks));
    }
}

fn new_order(format: &Format) -> Order {
    Order::new(GapMode::Fast, GAP_WAIT, format.clock())
}

/// Pushes, and forgets the oldest beyond [`REMEMBERED`].
fn bounded<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == REMEMBERED {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// Serial number arithmetic (RFC 1982) on timestamps.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TurnId;

    const FRAME: u32 = 960;
    /// CELT, fullband, 20 ms.
    const SPEECH: &[u8] = &[0xf8, 1, 2, 3];

    struct Rig {
        line: RtpLine,
        now: Micros,
        /// Whether a turn is going on, and what came out.
        open: bool,
        heard: Vec<String>,
        received: u64,
    }

    impl Rig {
        fn new() -> Rig {
            let line = RtpLine::new(Format::OPUS, 7);
            Rig { line, now: Micros(1_000_000), open: false, heard: Vec::new(), received: 0 }
        }

        fn packet(&mut self, seq: u16, timestamp: u32, marker: bool) {
            let header = Header { marker, payload_type: 111, seq, timestamp, ssrc: 9 };
            let mut bytes = BytesMut::new();
            header.write(&mut bytes);
            bytes.extend_from_slice(SPEECH);
            self.line.on_packet(&bytes.freeze(), self.now).unwrap();
            self.take();
        }

        fn turn(&mut self, turn: u32, phase: TurnPhase, pos: u32) {
            let turn = TurnIn { turn: TurnId(turn), item: None, phase, pos: Some(pos) };
            self.line.on_turn(turn, self.now);
            self.take();
        }

        fn take(&mut self) {
            while let Some(next) = self.line.poll(self.open, self.now) {
                self.heard.push(match next {
                    Next::Turn(turn) => {
                        self.open = turn.phase == TurnPhase::Start;
                        format!("{:?} {}", turn.phase, turn.turn)
                    }
                    Next::Audio { payload, .. } => {
                        let ticks = payload_ticks(&Format::OPUS, &payload).unwrap();
                        self.received += u64::from(ticks);
                        if payload.len() == 1 { "lost".to_owned() } else { "audio".to_owned() }
                    }
                });
            }
        }

        fn wait(&mut self) {
            self.now = self.line.deadline().expect("something is waited for");
            self.take();
        }

        fn heard(&mut self) -> String {
            std::mem::take(&mut self.heard).join(", ")
        }
    }

    #[test]
    fn turns_and_audio_come_in_their_order_however_they_overtake_each_other() {
        let mut rig = Rig::new();
        rig.packet(1, 0, true);
        assert_eq!(rig.heard(), "", "the turn that it belongs to is on its way");
        rig.turn(1, TurnPhase::Start, 0);
        assert_eq!(rig.heard(), "Start 1, audio");
        rig.turn(1, TurnPhase::End, 3 * FRAME);
        rig.turn(2, TurnPhase::Start, 3 * FRAME);
        assert_eq!(rig.heard(), "", "the turn's last frames are on their way");
        rig.packet(3, 2 * FRAME, false);
        rig.packet(2, FRAME, false);
        assert_eq!(rig.heard(), "audio, audio, End 1, Start 2");
        rig.packet(4, 3 * FRAME, true);
        rig.turn(2, TurnPhase::End, 4 * FRAME);
        assert_eq!(rig.heard(), "audio, End 2");
    }

    #[test]
    fn the_silence_that_a_voice_ends_with_is_no_answer() {
        let mut rig = Rig::new();
        rig.turn(1, TurnPhase::Start, 0);
        rig.packet(1, 0, true);
        rig.turn(1, TurnPhase::End, FRAME);
        rig.packet(2, FRAME, false);
        rig.packet(3, 2 * FRAME, false);
        assert_eq!(rig.heard(), "Start 1, audio, End 1");
    }

    #[test]
    fn the_end_of_a_turn_is_told_although_its_last_frame_is_lost() {
        let mut rig = Rig::new();
        rig.turn(1, TurnPhase::Start, 0);
        rig.packet(1, 0, true);
        rig.turn(1, TurnPhase::End, 2 * FRAME);
        assert_eq!(rig.heard(), "Start 1, audio");
        rig.wait();
        assert_eq!(rig.heard(), "End 1");
    }

    #[test]
    fn a_lost_packet_is_waited_for_and_then_told_to_the_last_decoder() {
        let mut rig = Rig::new();
        rig.turn(1, TurnPhase::Start, 0);
        rig.packet(1, 0, true);
        rig.packet(3, 2 * FRAME, false);
        assert_eq!(rig.heard(), "Start 1, audio");
        rig.wait();
        assert_eq!(rig.heard(), "lost, audio");
        assert_eq!(rig.received, 3 * u64::from(FRAME));
    }

    #[test]
    fn a_flush_makes_late_audio_worthless_and_no_other() {
        let mut rig = Rig::new();
        rig.turn(1, TurnPhase::Start, 0);
        rig.packet(1, 0, true);
        rig.heard();
        rig.line.on_flush(Some(2 * FRAME));
        rig.open = false;
        rig.packet(2, FRAME, false);
        rig.turn(2, TurnPhase::Start, 2 * FRAME);
        rig.packet(3, 2 * FRAME, true);
        assert_eq!(rig.heard(), "Start 2, audio");
    }

    #[test]
    fn positions_are_timestamps_over_pauses_and_the_wrap() {
        let mut rig = Rig::new();
        rig.turn(1, TurnPhase::Start, u32::MAX - FRAME + 1);
        rig.packet(1, u32::MAX - FRAME + 1, true);
        rig.packet(2, 0, false);
        rig.turn(1, TurnPhase::End, FRAME);
        rig.turn(2, TurnPhase::Start, 100 * FRAME);
        rig.packet(3, 100 * FRAME, true);
        let frame = u64::from(FRAME);
        assert_eq!(rig.line.timestamp_at(480), u32::MAX - FRAME + 1 + 480);
        assert_eq!(rig.line.timestamp_at(frame + 480), 480);
        assert_eq!(rig.line.timestamp_at(2 * frame + 480), 100 * FRAME + 480);
    }

    #[test]
    fn a_server_that_announces_no_turns_is_heard_too() {
        let mut rig = Rig::new();
        rig.packet(1, 0, true);
        rig.packet(2, FRAME, false);
        rig.wait();
        assert_eq!(rig.heard(), "audio, audio");
        rig.packet(3, 2 * FRAME, false);
        assert_eq!(rig.heard(), "audio");
    }

    #[test]
    fn a_frame_that_is_too_long_for_a_datagram_goes_in_parts() {
        let format = Format::pcm16(48_000);
        let mut line = RtpLine::new(format, 7);
        let frame = |pos: u64| AgentAudioOut {
            pos,
            ticks: 960,
            ready: Micros::ZERO,
            filled: false,
            payload: Bytes::from(vec![pos as u8; 1920]),
        };
        let mut sent = Vec::new();
        for pos in [0, 960] {
            sent.extend(line.packets(&frame(pos), &format).map(|bytes| rtp::Packet::parse(&bytes).unwrap()));
        }
        let seen: Vec<_> = sent.iter().map(|packet| (packet.header.timestamp, packet.header.marker)).collect();
        assert_eq!(seen, [(0, true), (480, false), (960, false), (1440, false)]);
        assert!(sent.iter().all(|packet| packet.payload.len() == 960 && packet.header.payload_type == 96));
        assert!(sent.windows(2).all(|pair| pair[1].header.seq == pair[0].header.seq.wrapping_add(1)));
    }
}
