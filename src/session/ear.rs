//! When the caller speaks, by the relay's own detection of voice; and what is only the agent's echo.

use std::time::Duration;

use crate::media::level::SILENT;
use crate::media::voice::{VoiceWindow, WINDOW};
use crate::route::plan::BargeInPolicy;
use crate::time::Micros;

/// Once the caller speaks, so much less of a score is still voice.
const HYSTERESIS: f32 = 0.2;
/// A voice is as loud as its loudest part of late, about a syllable long.
const PEAK_WINDOWS: usize = 15;
/// Quiet for so long ends what was taken for an echo.
const ECHO_PAUSE: Duration = Duration::from_millis(400);

/// Why a voice does not interrupt the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// It may be the agent's own echo.
    Echo,
    /// The agent has only just begun to speak for the first time.
    WarmUp,
}

impl Ignored {
    /// All of them.
    pub const ALL: [Ignored; 2] = [Ignored::Echo, Ignored::WarmUp];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Ignored::Echo => "echo",
            Ignored::WarmUp => "warm_up",
        }
    }
}

/// What the agent's own audio does at that moment.
#[derive(Clone, Copy, Debug)]
pub struct AgentSound {
    /// The loudest level in -dBov that an echo can come from; [`SILENT`] if there is none.
    pub level: u8,
    /// Whether it has only just begun to speak for the first time.
    pub warming_up: bool,
}

/// What the ear finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The caller began to speak at this instant.
    Started(Micros),
    /// The caller stopped at this instant.
    Stopped(Micros),
    /// A voice was heard, and not taken for the caller's.
    Ignored(Ignored),
}

/// Voice gathered so far: it grows with what is voice and shrinks with what is none.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    voice: Duration,
    since: Micros,
}

impl Evidence {
    /// `most`: what is beyond it would take long to forget.
    fn add(&mut self, voiced: bool, at: Micros, most: Duration) {
        if !voiced {
            self.voice = self.voice.saturating_sub(WINDOW / 2);
            return;
        }
        if self.voice.is_zero() {
            self.since = at.before(WINDOW);
        }
        self.voice = (self.voice + WINDOW).min(most);
    }
}

/// Listens to the caller.
#[derive(Debug)]
pub struct Ear {
    threshold: f32,
    /// Levels (-dBov) from which on nothing is voice.
    quiet: u8,
    min_speech: Duration,
    silence: Duration,
    echo_guard: u8,
    /// The latest first.
    levels: [u8; PEAK_WINDOWS],
    /// Of the caller, and of any voice.
    caller: Evidence,
    any: Evidence,
    last_voice: Micros,
    /// Since when the caller speaks, and when the last voice was heard.
    speaking: Option<(Micros, Micros)>,
    /// A voice that would have been enough was not taken for the caller's.
    ignored: Option<Ignored>,
}

impl Ear {
    /// An ear that hears nobody yet; what is not louder than `threshold_dbov` (negative) is no voice.
    pub fn new(policy: &BargeInPolicy, threshold_dbov: i8) -> Ear {
        Ear {
            threshold: policy.threshold,
            quiet: threshold_dbov.min(0).unsigned_abs().min(SILENT),
            min_speech: policy.min_speech,
            silence: policy.silence,
            echo_guard: policy.echo_guard_db.min(0).unsigned_abs(),
            levels: [SILENT; PEAK_WINDOWS],
            caller: Evidence::default(),
            any: Evidence::default(),
            last_voice: Micros::ZERO,
            speaking: None,
            ignored: None,
        }
    }

    /// Audio of the caller that ended at `at`, while the agent sounded like this.
    pub fn on_window(&mut self, window: VoiceWindow, at: Micros, agent: AgentSound) -> Option<Found> {
        let needed = if self.speaking.is_some() { self.threshold - HYSTERESIS } else { self.threshold };
        let voiced = window.score >= needed && window.level < self.quiet;
        let louder = self.peak(window.level) <= agent.level.saturating_add(self.echo_guard);
        let most = self.min_speech * 2;
        self.any.add(voiced, at, most);
        self.caller.add(voiced && louder, at, most);
        if voiced {
            self.last_voice = at;
        }
        if let Some((_, last)) = &mut self.speaking {
            if voiced && louder {
                *last = at;
                return None;
            }
            return self.on_deadline(at);
        }
        let begun = if voiced { self.begin(at, agent) } else { None };
        begun.or_else(|| self.forget_echo(at))
    }

    /// The loudest level of late: what is compared with the loudest that an echo can come from.
    fn peak(&mut self, level: u8) -> u8 {
        self.levels.rotate_right(1);
        self.levels[0] = level;
        self.levels.iter().copied().min().unwrap_or(level)
    }

    fn begin(&mut self, at: Micros, agent: AgentSound) -> Option<Found> {
        if self.any.voice < self.min_speech {
            return None;
        }
        if self.caller.voice < self.min_speech {
            self.ignored.get_or_insert(Ignored::Echo);
            return None;
        }
        if agent.warming_up {
            self.ignored = Some(Ignored::WarmUp);
            return None;
        }
        self.ignored = None;
        self.speaking = Some((self.caller.since, at));
        Some(Found::Started(self.caller.since))
    }

    fn forget_echo(&mut self, at: Micros) -> Option<Found> {
        if at - self.last_voice < ECHO_PAUSE {
            return None;
        }
        (self.caller, self.any) = Default::default();
        self.ignored.take().map(Found::Ignored)
    }

    /// Time has passed, maybe without audio: the caller may have stopped.
    pub fn on_deadline(&mut self, now: Micros) -> Option<Found> {
        let (_, last) = self.speaking.filter(|(_, last)| now - *last >= self.silence)?;
        self.speaking = None;
        (self.caller, self.any) = Default::default();
        Some(Found::Stopped(last))
    }

    /// When the caller has stopped if nothing more is heard.
    pub fn deadline(&self) -> Option<Micros> {
        self.speaking.map(|(_, last)| last + self.silence)
    }

    /// Since when the caller speaks, and when a voice was heard last.
    pub fn speaking(&self) -> Option<(Micros, Micros)> {
        self.speaking
    }

    /// The present stretch of speech is over before its time: what comes is another one.
    pub fn forget(&mut self) {
        self.speaking = None;
        (self.caller, self.any) = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET_AGENT: AgentSound = AgentSound { level: SILENT, warming_up: false };

    /// Windows of this score and level, one after the other; what was found and when, in ms.
    fn hear(ear: &mut Ear, from: u64, windows: &[(f32, u8)], agent: AgentSound) -> Vec<(u64, Found)> {
        let at = |n: usize| Micros::from_millis(from + 16 * (n as u64 + 1));
        let heard = windows.iter().enumerate();
        heard
            .filter_map(|(n, &(score, level))| {
                Some((at(n).0 / 1000, ear.on_window(VoiceWindow { score, level }, at(n), agent)?))
            })
            .collect()
    }

    fn ear() -> Ear {
        Ear::new(&BargeInPolicy::default(), -45)
    }

    #[test]
    fn speech_begins_after_enough_voice_and_ends_after_enough_silence() {
        let mut ear = ear();
        let found = hear(&mut ear, 1_000, &[(0.9, 25); 20], QUIET_AGENT);
        assert_eq!(found, [(1_096, Found::Started(Micros::from_millis(1_000)))]);
        assert_eq!(ear.deadline(), Some(Micros::from_millis(1_320 + 600)));
        let found = hear(&mut ear, 1_320, &[(0.1, 60); 50], QUIET_AGENT);
        assert_eq!(found, [(1_928, Found::Stopped(Micros::from_millis(1_320)))]);
    }

    #[test]
    fn a_click_or_a_hum_is_no_speech() {
        let mut ear = ear();
        let mut clicks = vec![(0.1, 50); 100];
        clicks.iter_mut().step_by(10).for_each(|window| *window = (0.9, 20));
        assert_eq!(hear(&mut ear, 0, &clicks, QUIET_AGENT), []);
        assert_eq!(hear(&mut ear, 2_000, &[(0.95, 50); 50], QUIET_AGENT), [], "too quiet to be meant");
    }

    #[test]
    fn what_is_below_the_guard_of_the_agent_is_its_echo_and_counted_once() {
        let mut ear = ear();
        let agent = AgentSound { level: 20, warming_up: false };
        assert_eq!(hear(&mut ear, 0, &[(0.95, 33); 100], agent), []);
        let silence = hear(&mut ear, 1_600, &[(0.0, 90); 100], QUIET_AGENT);
        assert_eq!(silence, [(2_000, Found::Ignored(Ignored::Echo))]);
        let louder = hear(&mut ear, 4_000, &[(0.95, 32); 10], agent);
        assert_eq!(louder, [(4_096, Found::Started(Micros::from_millis(4_000)))]);
    }

    #[test]
    fn a_voice_that_outlasts_the_warm_up_interrupts_at_its_end() {
        let mut ear = ear();
        let warm = AgentSound { level: 40, warming_up: true };
        assert_eq!(hear(&mut ear, 0, &[(0.95, 25); 30], warm), []);
        let over = AgentSound { level: 40, warming_up: false };
        assert_eq!(hear(&mut ear, 480, &[(0.95, 25); 3], over), [(496, Found::Started(Micros::ZERO))]);
        let mut ear = self::ear();
        hear(&mut ear, 0, &[(0.95, 25); 30], warm);
        let found = hear(&mut ear, 480, &[(0.0, 90); 60], QUIET_AGENT);
        assert_eq!(found, [(880, Found::Ignored(Ignored::WarmUp))]);
    }
}
