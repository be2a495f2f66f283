//! What agents say, and what the relay says by itself, on its way into the store.

use std::time::Duration;

use bytes::Bytes;

use super::{DEPTH_STEP, Downlink, DownlinkOutput, OWN, OpenTurn, STALE_PAUSE};
use crate::ids::{ItemId, TurnId};
use crate::media::announcement::Announcement;
use crate::media::format::Format;
use crate::media::transcode::payload_ticks;
use crate::message::AgentAudio;
use crate::session::{Measure, Queue};
use crate::time::Micros;

impl Downlink {
    /// The agent begins a new answer.
    pub fn on_turn_started(&mut self, item: Option<ItemId>) {
        self.on_turn_ended();
        self.next_item = item;
    }

    /// The agent's present answer is complete.
    pub fn on_turn_ended(&mut self) {
        self.stale = None;
        self.close_turn();
    }

    fn close_turn(&mut self) {
        if let Some(turn) = self.turns.back_mut() {
            turn.ended = true;
        }
    }

    /// Audio of the agent arrived.
    pub fn on_audio(&mut self, audio: AgentAudio, now: Micros) {
        let Some(format) = self.agent else { return };
        let Some(ticks) = payload_ticks(&format, &audio.payload).filter(|&ticks| ticks > 0) else {
            self.dropped(Queue::Playout, Duration::ZERO);
            return;
        };
        let (length, before) = (format.ticks_to_time(ticks.into()), self.received);
        self.received += length;
        if self.is_stale(&audio, now) {
            self.dropped(Queue::Stale, length);
            return;
        }
        let present = self.agents;
        let goes_on = self.turns.back_mut().filter(|turn| turn.speaker == present).is_some_and(|turn| {
            let same = turn.item == audio.item;
            // An agent may find out late that an item goes on; the client has not been told of its end.
            turn.ended &= !(same && audio.item.is_some() && turn.end.is_none());
            !turn.ended && (audio.item.is_none() || turn.item.is_none() || same)
        });
        if !goes_on {
            let item = audio.item.clone().or(self.next_item.take());
            self.next_item = None;
            let turn = self.open_turn(present, item.clone(), format, before);
            self.outputs.push_back(DownlinkOutput::Begun { turn, item });
        }
        self.keep(audio.payload, ticks, audio.arrival);
        self.check();
    }

    fn open_turn(&mut self, speaker: u32, item: Option<ItemId>, format: Format, before: Duration) -> TurnId {
        self.close_turn();
        let turn = self.next_turn;
        self.next_turn = turn.next();
        self.turns.push_back(OpenTurn {
            id: turn,
            generation: self.generation,
            speaker,
            item,
            format,
            received: 0,
            before,
            ended: false,
            refused: false,
            sent: false,
            end: None,
        });
        self.deepest = Duration::ZERO;
        turn
    }

    fn keep(&mut self, payload: Bytes, ticks: u32, arrival: Micros) {
        let Some(turn) = self.turns.back_mut() else { return };
        let (id, format) = (turn.id, turn.format);
        let pushed = !turn.refused && self.store.push(id, format, turn.received, ticks, arrival, payload).is_ok();
        if pushed {
            let first = turn.received == 0;
            turn.received += u64::from(ticks);
            let depth = self.store.depth();
            if first || depth > self.deepest {
                self.deepest = depth + DEPTH_STEP;
                self.outputs.push_back(DownlinkOutput::Measure(Measure::PlayoutDepth(depth)));
            }
            return;
        }
        let first = !std::mem::replace(&mut turn.refused, true);
        if first && turn.speaker != OWN {
            self.outputs.push_back(DownlinkOutput::Refused(id));
        }
        self.dropped(Queue::Playout, format.ticks_to_time(ticks.into()));
    }

    fn is_stale(&mut self, audio: &AgentAudio, now: Micros) -> bool {
        if audio.item.as_ref().is_some_and(|item| self.flushed.contains(item)) {
            return true;
        }
        match self.stale {
            Some(last) if audio.item.is_none() && !self.endless && now - last < STALE_PAUSE => {
                self.stale = Some(now);
                true
            }
            _ => {
                self.stale = None;
                false
            }
        }
    }

    pub(super) fn dropped(&mut self, queue: Queue, audio: Duration) {
        self.outputs.push_back(DownlinkOutput::Measure(Measure::Dropped { queue, audio }));
    }

    /// The relay says something by itself, after what waits already.
    pub fn announce(&mut self, announcement: &Announcement, now: Micros) {
        let format = announcement.format();
        self.open_turn(OWN, None, format, Duration::ZERO);
        for payload in announcement.runs().iter().cloned() {
            let Some(ticks) = payload_ticks(&format, &payload) else { continue };
            self.keep(payload, ticks, now);
        }
        self.close_turn();
        self.check();
    }
}
