//! What a running session is counted by: its caller's audio, messages and bytes, and what its agents cost.

use std::time::Duration;

use bytes::Bytes;

use crate::config::settings::OnReach;
use crate::limit::{Meters, Refusal, Spending};
use crate::media::transcode::payload_ticks;
use crate::message::{Alert, AudioIn, CloseReason, Error, ErrorCode, FromClient, ToClient};
use crate::session::Session;
use crate::session::event::{Measure, Output};
use crate::time::Micros;

/// A client whose audio is refused is told so often at most: it sends many frames in a second.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often time is charged that costs money.
const CHARGE_EVERY: Duration = Duration::from_secs(5);

/// The cells of a session, and what was told of them.
#[derive(Debug, Default)]
pub(super) struct Limiting {
    meters: Meters,
    /// What came last was too much by its bytes.
    over: Option<Refusal>,
    /// When the client was last told that its audio is refused.
    told: Option<Micros>,
    /// Up to when time is charged.
    charged: Option<Micros>,
    /// A budget is used up: the session ends when the agent has spoken out.
    ends: bool,
}

impl Limiting {
    pub(super) fn new(meters: Meters) -> Limiting {
        Limiting { meters, ..Limiting::default() }
    }
}

impl Session {
    /// So many bytes came from a client; what they mean follows.
    pub fn on_bytes(&mut self, bytes: usize, now: Micros) {
        if self.limits.meters.counts_bytes() {
            self.limits.over = self.limits.meters.take_bytes(bytes, now).err();
        }
    }

    /// What is left of a message when the limits have been asked.
    pub(super) fn admit(&mut self, message: FromClient, now: Micros) -> Option<FromClient> {
        self.charge_time(now);
        let refused = match &message {
            FromClient::Audio(audio) => self.limits.over.take().map_or_else(|| self.take_audio(audio, now), Err),
            FromClient::Message(_) => self.limits.over.take().map_or_else(|| self.limits.meters.take_message(now), Err),
            _ => Ok(()),
        };
        let Err(refusal) = refused else { return Some(message) };
        self.outputs.push_back(Output::Measure(Measure::Refused));
        let audio = match message {
            FromClient::Audio(audio) => Some(audio),
            _ => None,
        };
        let told = self.limits.told.is_some_and(|told| now.since(told) < TELL_EVERY);
        if !(audio.is_some() && told) {
            self.say(ToClient::Error(limited(&refusal)));
        }
        let audio = audio?;
        if !told {
            self.limits.told = Some(now);
        }
        // On RTP its place in the sequence stays: its time goes on without it.
        audio.rtp.is_some().then(|| FromClient::Audio(AudioIn { payload: Bytes::new(), ..audio }))
    }

    fn take_audio(&self, audio: &AudioIn, now: Micros) -> Result<(), Refusal> {
        let meters = &self.limits.meters;
        if !meters.counts_audio() {
            return Ok(());
        }
        let span = self.links.attached().and_then(|(_, info)| {
            let format = &info.audio.uplink;
            Some(format.ticks_to_time(u64::from(payload_ticks(format, &audio.payload)?)))
        });
        meters.take_audio(span.unwrap_or_default(), now)
    }

    /// Charges the time since the last charge, where time costs money.
    fn charge_time(&mut self, now: Micros) {
        if !self.limits.meters.counts_cost() || self.upstreams.ready().is_none() {
            return;
        }
        let since = *self.limits.charged.get_or_insert(now);
        if now.since(since) >= CHARGE_EVERY {
            self.limits.charged = Some(now);
            let minutes = now.since(since).as_secs_f64() / 60.0;
            self.charge([("minute", minutes)].into_iter(), now);
        }
    }

    /// Charges what the agent in use is known to have cost.
    pub(super) fn charge<'a>(&mut self, used: impl Iterator<Item = (&'a str, f64)>, now: Micros) {
        let rung = self.upstreams.active().and_then(|active| self.plan.rungs.get(active.rung));
        let price = rung.and_then(|rung| rung.agent.price.as_ref());
        let Some(price) = price.filter(|_| self.limits.meters.counts_cost()) else { return };
        let amount: f64 = used.filter_map(|(unit, amount)| Some(price.units.get(unit)? * amount)).sum();
        if amount > 0.0 {
            let spending = self.limits.meters.spend(amount, now);
            self.act_on(spending, now);
        }
    }

    fn act_on(&mut self, spending: Spending, now: Micros) {
        if let Some(warned) = spending.warned {
            let data =
                serde_json::json!({ "limit": &*warned.limit.name, "used": (warned.used * 100.0).round() / 100.0 });
            self.say(ToClient::Alert(Alert { name: "budget".into(), severity: "warning".into(), data }));
        }
        let Some((_, then)) = spending.reached.filter(|_| !self.limits.ends) else { return };
        if then == OnReach::End {
            return self.close(CloseReason::Budget, now);
        }
        self.limits.ends = true;
        self.say_ending(CloseReason::Budget, Duration::ZERO);
        self.end_if_spent(now);
    }

    /// Ends the session if its budget is used up and the agent has spoken out.
    pub(super) fn end_if_spent(&mut self, now: Micros) {
        if self.limits.ends && !self.downlink.is_busy() && !self.awaited {
            self.close(CloseReason::Budget, now);
        }
    }

    /// Charges the last of the time; nothing follows from it.
    pub(super) fn settle_cost(&mut self, now: Micros) {
        if let Some(since) = self.limits.charged.take() {
            self.limits.ends = true;
            let minutes = now.since(since).as_secs_f64() / 60.0;
            self.charge([("minute", minutes)].into_iter(), now);
        }
    }
}

fn limited(refusal: &Refusal) -> Error {
    let after = Some(refusal.retry_after.as_millis() as u64);
    Error { retryable: true, retry_after_ms: after, ..Error::new(ErrorCode::RateLimited, refusal.to_string()) }
}
