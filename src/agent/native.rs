//! An agent server, or another antiphon, that speaks `antiphon.v1` over WebSocket or QUIC; this side is its client
//! (`docs/protocol.md`, "Agent servers").

mod opening;
mod rtp_line;
#[cfg(test)]
mod tests;
mod turns;
mod wire;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::agent::outbox::{Outbox, reported};
use crate::agent::{Agent, AgentOutput, Capabilities, Endpoint, Wire};
use crate::config::settings::{QuicAgent, WebsocketAgent};
use crate::dialect::native::SUBPROTOCOL;
use crate::ids::{FlushId, MessageId};
use crate::media::format::Format;
use crate::media::transcode::payload_ticks;
use crate::message::{
    AgentAudio, AgentError, AgentPlayout, AgentStatus, AgentTranscript, Alert, AudioFormats, FailureClass, FromAgent,
    FromClient, Interrupt, Ping, Playout, Ready, Role, State, TextMessage, ToAgent, Truncate, TurnPhase, Update,
};
use crate::time::Micros;

pub(crate) use opening::{merge, opening};
use rtp_line::{Next, RtpLine};
use turns::TurnLog;
use wire::Said;

/// How long the answer to an agent's `flush` waits for the session's figure, before the last known one is told.
const FLUSH_ANSWER: Duration = Duration::from_millis(500);
/// Flushes that wait for an answer, at most; the oldest is forgotten.
const MAX_FLUSHES: usize = 8;
/// RTP packets that are kept until `started`, at most; more are dropped.
const MAX_EARLY: usize = 32;

/// The client's side of one `antiphon.v1` session with an agent server.
#[derive(Debug)]
pub struct NativeAgent {
    endpoint: Endpoint,
    /// Audio is RTP beside the control messages; else it is in order with them.
    rtp: Option<Box<RtpLine>>,
    /// RTP packets from before `started`.
    early: Vec<(Bytes, Micros)>,
    vendor: Value,
    /// Formats in force: what was asked for, then what `started` says.
    audio: AudioFormats,
    started: bool,
    /// Ticks of the downlink's clock received on this link.
    received: u64,
    turns: TurnLog,
    /// The agent's flushes that were not answered yet, and when the last known figure must do.
    flushes: VecDeque<FlushId>,
    answer_by: Option<Micros>,
    /// Last known position at the caller's ear, in ticks received.
    played: u64,
    ignored: u64,
    told_bad_audio: bool,
    out: Outbox,
}

impl NativeAgent {
    /// An agent that is not connected yet. `vendor` is merged into the `start` message.
    pub fn new(settings: &WebsocketAgent, vendor: Value) -> NativeAgent {
        let audio = AudioFormats { uplink: settings.uplink, downlink: settings.downlink, flow: None };
        NativeAgent::with(endpoint(settings, vec![SUBPROTOCOL.to_owned()]), audio, None, vendor)
    }

    /// The same over QUIC: each [`Wire::Binary`] is one RTP packet (RFC 3550 section 5.1). `seed` gives the
    /// synchronisation source.
    pub fn over_quic(settings: &QuicAgent, vendor: Value, seed: u64) -> NativeAgent {
        let endpoint = Endpoint {
            authorities: settings.authorities.clone(),
            sessions_per_connection: settings.sessions_per_connection,
            ..Endpoint::new(settings.url.clone(), settings.connect_timeout)
        };
        let audio = AudioFormats { uplink: settings.uplink, downlink: settings.downlink, flow: None };
        let rtp = RtpLine::new(settings.downlink, (seed >> 32) as u32 ^ seed as u32);
        NativeAgent::with(endpoint, audio, Some(Box::new(rtp)), vendor)
    }

    fn with(endpoint: Endpoint, audio: AudioFormats, rtp: Option<Box<RtpLine>>, vendor: Value) -> NativeAgent {
        NativeAgent {
            endpoint,
            rtp,
            early: Vec::new(),
            vendor,
            audio,
            started: false,
            received: 0,
            turns: TurnLog::default(),
            flushes: VecDeque::new(),
            answer_by: None,
            played: 0,
            ignored: 0,
            told_bad_audio: false,
            out: Outbox::default(),
        }
    }

    /// Messages and fields of a newer peer that were ignored so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn handle_text(&mut self, text: &str, now: Micros) {
        match wire::read(text) {
            Ok(Some((said, ignored))) => {
                self.ignored += u64::from(ignored);
                self.handle_said(said, now);
            }
            Ok(None) => self.ignored += 1,
            Err(error) => self.out.tell_error(FailureClass::Protocol, "bad_message", &error.message),
        }
    }

    fn handle_said(&mut self, said: Said, now: Micros) {
        match said {
            Said::Started(started) => self.handle_started(&started),
            Said::Agent(status) => self.handle_status(status),
            Said::Turn(turn) => match &mut self.rtp {
                Some(rtp) => rtp.on_turn(turn, now),
                None => self.handle_turn(turn),
            },
            Said::Flush(flush) => self.handle_flush(&flush, now),
            Said::Transcript(transcript) => self.handle_transcript(transcript),
            Said::Delta(delta) => self.out.tell(FromAgent::Delta(delta)),
            Said::Message(message) => self.out.tell(FromAgent::Message(message)),
            Said::Typing(typing) if typing.who != Some(Role::User) => self.out.tell(FromAgent::Typing(typing.on)),
            Said::Speech(speech) if speech.who == Role::User => self.out.tell(FromAgent::Speech(speech.event)),
            Said::State(state) if state.to == State::Processing => self.out.tell(FromAgent::Thinking),
            Said::ToolCall(call) => self.out.tell(FromAgent::ToolCall(call)),
            Said::ToolCancelled(tool) if tool.status == "cancelled" => {
                self.out.tell(FromAgent::ToolCancelled(vec![tool.call_id]));
            }
            Said::Usage(usage) => self.out.tell(FromAgent::Usage(usage)),
            Said::Alert(alert) => self.out.tell(FromAgent::Alert(alert)),
            Said::App(app) => self.out.tell(FromAgent::App(app)),
            Said::Draining(notice) => self.out.tell(FromAgent::GoAway(Duration::from_millis(notice.deadline_ms))),
            Said::Ending(notice) => self.out.tell(FromAgent::GoAway(Duration::from_millis(notice.in_ms))),
            Said::Error(error) => {
                self.out.tell_error(wire::class_of_code(&error.code), error.code.as_str(), &error.message)
            }
            Said::Ended(ended) => self.end(wire::failure_of_reason(&ended.reason)),
            Said::Ping(Ping { t }) => {
                self.out.send(Wire::Text(format!("{{\"type\":\"pong\",\"t\":{t}}}")));
            }
            Said::Typing(_) | Said::Speech(_) | Said::State(_) | Said::ToolCancelled(_) | Said::Nothing => {}
        }
    }

    fn handle_started(&mut self, started: &wire::StartedIn) {
        if self.started {
            return self.out.tell_error(FailureClass::Protocol, "bad_message", "`started` came twice");
        }
        let audio = started.audio.unwrap_or(self.audio);
        if let Err(error) = audio.uplink.check().and_then(|()| audio.downlink.check()) {
            let message = format!("`audio` in `started`: {error}");
            return self.end(Some(reported(FailureClass::Protocol, "bad_format", &message)));
        }
        self.audio = audio;
        if let Some(rtp) = &mut self.rtp {
            rtp.set_format(audio.downlink);
        }
        self.started = true;
        let delay = started.agent.delay_ms.map(|ms| Duration::from_millis(u64::from(ms)));
        self.out.tell(FromAgent::Ready(Ready { uplink: audio.uplink, downlink: audio.downlink, delay }));
        for (packet, at) in std::mem::take(&mut self.early) {
            self.handle_packet(&packet, at);
        }
    }

    fn handle_status(&mut self, agent: wire::StatusIn) {
        let status = serde_json::from_value::<AgentStatus>(Value::String(agent.status));
        match status {
            Ok(AgentStatus::Down) => {
                let reason = agent.reason.as_deref().unwrap_or("the agent behind the agent is down");
                self.out.tell_error(FailureClass::Unreachable, "agent_down", reason);
            }
            Ok(AgentStatus::Fallback | AgentStatus::Text) => {
                let data = serde_json::json!({ "name": agent.name, "reason": agent.reason });
                self.out.tell(FromAgent::Alert(Alert {
                    name: "agent_fallback".to_owned(),
                    severity: "info".to_owned(),
                    data,
                }));
            }
            Ok(AgentStatus::Connecting | AgentStatus::Ready) => {}
            Err(_) => self.ignored += 1,
        }
    }

    fn handle_turn(&mut self, turn: wire::TurnIn) {
        match turn.phase {
            TurnPhase::Start => {
                if let Some(item) = self.turns.start(turn.turn, turn.item, self.received) {
                    self.out.tell(FromAgent::TurnStarted(item));
                }
            }
            TurnPhase::End => {
                if self.turns.end(turn.turn) {
                    self.out.tell(FromAgent::TurnEnded);
                }
            }
        }
    }

    fn handle_flush(&mut self, flush: &wire::FlushIn, now: Micros) {
        let cut = self.turns.cut_of(flush.turn);
        if let Some(rtp) = &mut self.rtp {
            rtp.on_flush(flush.valid_from);
        }
        self.turns.flush();
        self.out.tell(FromAgent::Interrupted);
        self.out.tell(FromAgent::TurnEnded);
        if self.flushes.len() == MAX_FLUSHES {
            self.flushes.pop_front();
        }
        self.flushes.push_back(flush.id);
        match cut {
            Some(pos) => self.answer_flushes(pos, Duration::ZERO),
            None => self.answer_by = Some(now + FLUSH_ANSWER),
        }
    }

    fn answer_flushes(&mut self, received: u64, buffered: Duration) {
        self.answer_by = None;
        self.played = received;
        let pos = self.position(received);
        while let Some(flush) = self.flushes.pop_front() {
            self.out.say_native(&FromClient::Playout(Playout {
                pos,
                buffered_ms: millis(buffered),
                flush: Some(flush),
            }));
        }
    }

    /// The position on the wire of what is `received` ticks into the agent's audio.
    fn position(&self, received: u64) -> u32 {
        self.rtp.as_ref().map_or(received as u32, |rtp| rtp.timestamp_at(received))
    }

    fn handle_transcript(&mut self, transcript: wire::TranscriptIn) {
        let wire::TranscriptIn { item, turn, role, text, is_final } = transcript;
        if let Some(text) = text {
            let item = if role == Role::Agent { self.turns.item_of_text(turn, item) } else { item };
            self.out.tell(FromAgent::Transcript(AgentTranscript { item, role, text, append: false, is_final }));
        }
    }

    fn handle_audio(&mut self, payload: Bytes, now: Micros) {
        let ticks = payload_ticks(&self.audio.downlink, &payload).filter(|_| self.started);
        let Some(ticks) = ticks else {
            let (bytes, format) = (payload.len(), self.audio.downlink);
            return self.tell_bad_audio(&format!("a binary frame of {bytes} bytes is not {format} after `started`"));
        };
        if ticks == 0 {
            return;
        }
        let item = self.turns.audio(self.received);
        self.received += u64::from(ticks);
        self.out.tell(FromAgent::Audio(AgentAudio { arrival: now, item, rtp: None, payload }));
    }

    fn tell_bad_audio(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told_bad_audio, true) {
            let message = format!("{why}; it and others like it are dropped");
            self.out.tell_error(FailureClass::Protocol, "bad_audio", &message);
        }
    }

    /// An RTP packet came.
    fn handle_packet(&mut self, bytes: &Bytes, now: Micros) {
        let Some(rtp) = &mut self.rtp else { return };
        if !self.started {
            // It has overtaken `started`, which tells its format.
            if self.early.len() < MAX_EARLY {
                self.early.push((bytes.clone(), now));
            }
            return;
        }
        if let Err(why) = rtp.on_packet(bytes, now) {
            self.tell_bad_audio(&why);
        }
    }

    /// Takes turns and audio in the order in which they belong.
    fn take_from_rtp(&mut self, now: Micros) {
        if self.out.has_ended() {
            return;
        }
        while let Some(next) = self.rtp.as_mut().and_then(|rtp| rtp.poll(self.turns.is_open(), now)) {
            match next {
                Next::Turn(turn) => self.handle_turn(turn),
                Next::Audio { arrival, payload } => self.handle_audio(payload, arrival),
            }
        }
    }

    fn handle_playout(&mut self, playout: AgentPlayout) {
        let received = ticks(&self.audio.downlink, playout.played);
        self.played = received;
        if playout.flush.is_some() && !self.flushes.is_empty() {
            return self.answer_flushes(received, playout.buffered);
        }
        let pos = self.position(received);
        self.out.say_native(&FromClient::Playout(Playout { pos, buffered_ms: millis(playout.buffered), flush: None }));
    }

    fn handle_truncate(&mut self, truncate: &Truncate) {
        let heard = ticks(&self.audio.downlink, truncate.heard);
        let Some((turn, received)) = self.turns.cut(truncate.item.as_ref(), heard) else { return };
        if self.flushes.is_empty() {
            let pos = Some(self.position(received));
            self.out.say_native(&FromClient::Interrupt(Interrupt { turn, pos, action: None }));
        } else {
            self.answer_flushes(received, Duration::ZERO);
        }
    }

    fn end(&mut self, failure: Option<AgentError>) {
        self.answer_by = None;
        self.out.end(failure);
    }
}

impl Agent for NativeAgent {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            continuous: true,
            server_vad: true,
            truncation: true,
            playout: true,
            tools: true,
            text: true,
            manual_turns: true,
            context: true,
            ..Capabilities::default()
        }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        Some(self.endpoint.clone())
    }

    fn handle_open(&mut self, _now: Micros) {}

    fn handle_session(&mut self, message: ToAgent, _now: Micros) {
        match message {
            ToAgent::Audio(audio) => {
                let ready = audio.ready;
                let Some(rtp) = &mut self.rtp else {
                    return self.out.send_audio(Wire::Binary(audio.payload), ready);
                };
                for packet in rtp.packets(&audio, &self.audio.uplink) {
                    self.out.send_audio(Wire::Binary(packet), ready);
                }
            }
            ToAgent::Playout(playout) => self.handle_playout(playout),
            ToAgent::Start(start) => {
                let text = opening(start, self.audio, &self.vendor);
                self.out.send(Wire::Text(text));
            }
            ToAgent::Truncate(truncate) => self.handle_truncate(&truncate),
            ToAgent::Cancel(_) => {
                let turn = self.turns.current();
                self.out.say_native(&FromClient::Interrupt(Interrupt { turn, ..Interrupt::default() }));
            }
            ToAgent::Message(message) => self.out.say_native(&FromClient::Message(message)),
            ToAgent::Prompt(text) => {
                let message = TextMessage { id: MessageId::from("prompt"), text, role: None };
                self.out.say_native(&FromClient::Message(message));
            }
            ToAgent::Typing(typing) => self.out.say_native(&FromClient::Typing(typing)),
            ToAgent::Input(input) => self.out.say_native(&FromClient::Input(input)),
            ToAgent::Dtmf(dtmf) => self.out.say_native(&FromClient::Dtmf(dtmf)),
            ToAgent::ToolResult(result) => self.out.say_native(&FromClient::ToolResult(result)),
            ToAgent::App(app) => self.out.say_native(&FromClient::App(app)),
            ToAgent::Update(setup) => self.out.say_native(&FromClient::Update(Update { setup })),
            ToAgent::History(items) => self.out.say_native(&opening::history(items)),
            ToAgent::End => self.out.say_native(&FromClient::End),
        }
    }

    fn handle_wire(&mut self, wire: Wire, now: Micros) {
        match wire {
            Wire::Close(code, reason) => self.end(wire::failure_of_close(code, &reason, self.started)),
            _ if self.out.has_ended() => {}
            Wire::Binary(packet) if self.rtp.is_some() => self.handle_packet(&packet, now),
            Wire::Binary(payload) => self.handle_audio(payload, now),
            Wire::Text(text) => self.handle_text(&text, now),
        }
        self.take_from_rtp(now);
    }

    fn handle_deadline(&mut self, now: Micros) {
        if self.answer_by.is_some_and(|by| by <= now) {
            self.answer_flushes(self.played, Duration::ZERO);
        }
        self.take_from_rtp(now);
    }

    fn poll(&mut self, _now: Micros) -> AgentOutput {
        let of_rtp = self.rtp.as_ref().and_then(|rtp| rtp.deadline());
        self.out.poll([self.answer_by, of_rtp].into_iter().flatten().min())
    }
}

/// Where a WebSocket agent is reached.
pub(crate) fn endpoint(settings: &WebsocketAgent, subprotocols: Vec<String>) -> Endpoint {
    Endpoint {
        headers: settings.headers.clone(),
        subprotocols,
        authorities: settings.authorities.clone(),
        ..Endpoint::new(settings.url.clone(), settings.connect_timeout)
    }
}

/// Ticks in `span`, rounded to the nearest: spans come from ticks, cut to whole microseconds.
fn ticks(format: &Format, span: Duration) -> u64 {
    (span.as_micros() as u64 * u64::from(format.clock()) + 500_000) / 1_000_000
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
