//! Time without audio: silence is made up, pauses and losses are told from it, and long backlogs are cut.

use std::time::Duration;

use crate::session::uplink::Uplink;
use crate::session::uplink::backlog::{Backlog, Waiting};
use crate::session::uplink::line::{AgentLine, FRAME};
use crate::session::{Measure, Queue};
use crate::time::Micros;

/// Time in which a backlog is told from live audio by its rate.
const RATE_WINDOW: Duration = Duration::from_millis(60);

/// Audio held back after a long stall, until its rate shows whether it is a backlog or live.
#[derive(Debug)]
pub(super) struct Hold {
    pub backlog: Backlog,
    pub window_ends: Micros,
    in_window: Duration,
}

impl Uplink {
    /// Sets when silence is made up if nothing comes from now on.
    pub(super) fn await_audio(&mut self, now: Micros) {
        if !self.line.as_ref().is_some_and(AgentLine::is_continuous) {
            return;
        }
        let wait = match self.last {
            None if self.link.is_none() => FRAME,
            None => self.policy.stall,
            Some((_, span, dtx)) if dtx || !self.mic => span.max(FRAME),
            Some((_, span, _)) => self.policy.stall.max(span * 2),
        };
        self.fill_at = Some(now + wait);
    }

    /// Nothing more will come: silence follows one packet time after the last audio.
    pub(super) fn hasten_fill(&mut self, now: Micros) {
        if let (Some(at), Some((last, span, _))) = (self.fill_at, self.last) {
            self.fill_at = Some(at.min((last + span).max(now)));
        }
    }

    /// One tick without audio.
    pub(super) fn fill(&mut self, at: Micros) {
        let Some(line) = &mut self.line else { return };
        let mut filled = Duration::ZERO;
        for _ in 0..line.fill_due(at) {
            filled += match self.path.as_mut().and_then(|path| path.chain.as_mut()) {
                Some(chain) => chain.fill_frame(at, line, &mut self.out),
                None => {
                    line.emit((line.silence(), line.frame_ticks()), at, true, &mut self.out);
                    line.on_filled(FRAME, at);
                    FRAME
                }
            };
        }
        self.count_filled(filled);
    }

    /// The sender sent nothing for `span`: what of it has not been made up meanwhile is owed now.
    pub(super) fn fill_pause(&mut self, span: Duration, ready: Micros, now: Micros) {
        let Some((chain, line, out)) = self.parts() else { return };
        if !line.is_continuous() || line.is_untouched() {
            return;
        }
        let missing = span - line.take_filled(span);
        let filled = chain.fill(missing.min(line.owed(now)), ready, line, out);
        self.count_filled(filled);
    }

    /// Audio of length `span` is lost: what of it has not been filled with silence meanwhile is made up.
    pub(super) fn conceal(&mut self, span: Duration, ready: Micros) {
        let most = self.policy.uplink_max;
        let Some((chain, line, out)) = self.parts() else { return };
        let missing = (span - line.take_filled(span)).min(most);
        if missing.is_zero() {
            return;
        }
        chain.conceal(missing, ready, line, out);
        self.concealed += missing;
        self.measure(Measure::Concealed(missing));
    }

    /// Whether nothing came for longer than late speech is kept: what comes now may be a long backlog.
    pub(super) fn is_after_long_stall(&self, now: Micros) -> bool {
        self.mic && self.last.is_some_and(|(last, _, dtx)| !dtx && now - last > self.policy.uplink_max)
    }

    /// Keeps a frame until it is known whether it is live; the first one says nothing about the rate.
    pub(super) fn hold_back(&mut self, waiting: Waiting, now: Micros) {
        let span = waiting.span;
        let hold = match &mut self.hold {
            Some(hold) => {
                hold.in_window += span;
                hold
            }
            none => none.insert(Hold {
                backlog: Backlog::new(self.policy.uplink_max),
                window_ends: now + RATE_WINDOW,
                in_window: Duration::ZERO,
            }),
        };
        let (dropped, judged) = (hold.backlog.push(waiting), hold.window_ends <= now);
        self.measure_dropped(Queue::Uplink, dropped);
        self.await_audio(now);
        if judged {
            self.judge_hold(now);
        }
    }

    /// A backlog comes faster than real time; what is live does not.
    pub(super) fn judge_hold(&mut self, now: Micros) {
        let Some(hold) = &mut self.hold else { return };
        if hold.in_window > RATE_WINDOW * 2 {
            (hold.window_ends, hold.in_window) = (now + RATE_WINDOW, Duration::ZERO);
        } else {
            self.release_hold(now);
        }
    }

    pub(super) fn release_hold(&mut self, now: Micros) {
        let Some(mut hold) = self.hold.take() else { return };
        while let Some(waiting) = hold.backlog.pop() {
            self.accept(waiting, now);
        }
    }
}
