//! Loudness of a frame, and where speech begins and ends.

use std::time::Duration;

use crate::message::SpeechEvent;
use crate::time::Micros;

/// Level of digital silence.
pub const SILENT: u8 = 127;

/// Level of a frame in -dBov (RFC 6464): 0 is the loudest, 127 silent. A full-scale sine has 3.
pub fn level(samples: &[i16]) -> u8 {
    if samples.is_empty() {
        return SILENT;
    }
    let energy: u64 = samples.iter().map(|&sample| u64::from(sample.unsigned_abs()).pow(2)).sum();
    let mean = energy as f64 / samples.len() as f64;
    let full = 32_768.0 * 32_768.0;
    // The logarithm of zero is minus infinity, which becomes the limit.
    (-10.0 * (mean / full).log10()).round().clamp(0.0, f64::from(SILENT)) as u8
}

/// Beginning or end of speech, and when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeechChange {
    /// Beginning or end.
    pub event: SpeechEvent,
    /// The start of the first voiced frame, or the end of the last one.
    pub at: Micros,
}

/// Finds speech by level, with a threshold and a hangover.
#[derive(Clone, Debug)]
pub struct SpeechDetector {
    threshold: u8,
    hangover: Duration,
    speaking: bool,
    last_voiced: Option<Micros>,
}

impl SpeechDetector {
    /// Frames above `threshold_dbov` (negative, in dBov) are voiced; speech has ended once the last one is `hangover`
    /// ago.
    pub fn new(threshold_dbov: i8, hangover: Duration) -> SpeechDetector {
        let threshold = threshold_dbov.min(0).unsigned_abs().min(SILENT);
        SpeechDetector { threshold, hangover, speaking: false, last_voiced: None }
    }

    /// A frame of length `span` and `level` (-dBov, as from [`level`] or RFC 6464) that ended at `now`.
    pub fn on_frame(&mut self, level: u8, span: Duration, now: Micros) -> Option<SpeechChange> {
        if level >= self.threshold {
            return self.on_deadline(now);
        }
        self.last_voiced = Some(now);
        if self.speaking {
            return None;
        }
        self.speaking = true;
        Some(SpeechChange { event: SpeechEvent::Started, at: now.before(span) })
    }

    /// Time has passed, maybe without frames: speech may have ended.
    pub fn on_deadline(&mut self, now: Micros) -> Option<SpeechChange> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        self.speaking = false;
        self.last_voiced.map(|at| SpeechChange { event: SpeechEvent::Stopped, at })
    }

    /// When speech ends if no voiced frame comes; `None` while nobody speaks.
    pub fn deadline(&self) -> Option<Micros> {
        self.last_voiced.filter(|_| self.speaking).map(|at| at + self.hangover)
    }

    /// Whether speech has begun and not ended.
    pub fn is_speaking(&self) -> bool {
        self.speaking
    }

    /// The end of the last voiced frame.
    pub fn last_voiced(&self) -> Option<Micros> {
        self.last_voiced
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    fn sine(amplitude: f64) -> Vec<i16> {
        (0..480).map(|n| (amplitude * (TAU * f64::from(n) / 48.0).sin()) as i16).collect()
    }

    #[test]
    fn levels_are_those_of_rfc_6464() {
        assert_eq!(level(&[i16::MIN; 480]), 0, "a full-scale square wave is the overload point");
        assert_eq!(level(&sine(32_767.0)), 3);
        assert_eq!(level(&sine(3_276.7)), 23);
        assert_eq!(level(&sine(327.67)), 43);
        assert_eq!(level(&sine(32.767)), 63);
        assert_eq!(level(&[0; 480]), 127);
        assert_eq!(level(&[]), 127);
        assert_eq!(level(&[i16::MIN; 5000]), 0);
    }

    #[test]
    fn speech_ends_one_hangover_after_the_last_voiced_frame_and_names_that_instant() {
        let mut detector = SpeechDetector::new(-45, Duration::from_millis(300));
        let span = Duration::from_millis(20);
        let mut changes = Vec::new();
        for n in 1..=50 {
            let level = if (5..10).contains(&n) { 20 } else { 60 };
            changes.extend(detector.on_frame(level, span, Micros::from_millis(n * 20)).map(|change| (n, change)));
        }
        let started = SpeechChange { event: SpeechEvent::Started, at: Micros::from_millis(80) };
        let stopped = SpeechChange { event: SpeechEvent::Stopped, at: Micros::from_millis(180) };
        assert_eq!(changes, [(5, started), (24, stopped)]);
        assert_eq!(detector.last_voiced(), Some(Micros::from_millis(180)));
    }

    #[test]
    fn a_pause_shorter_than_the_hangover_is_part_of_speech() {
        let mut detector = SpeechDetector::new(-45, Duration::from_millis(300));
        let span = Duration::from_millis(20);
        assert!(detector.on_frame(20, span, Micros::from_millis(20)).is_some());
        assert_eq!(detector.on_frame(60, span, Micros::from_millis(300)), None);
        assert_eq!(detector.on_frame(20, span, Micros::from_millis(310)), None);
        assert_eq!(detector.on_frame(60, span, Micros::from_millis(600)), None);
        assert!(detector.is_speaking());
    }

    #[test]
    fn speech_ends_without_further_frames() {
        let mut detector = SpeechDetector::new(-45, Duration::from_millis(300));
        assert_eq!(detector.deadline(), None);
        detector.on_frame(10, Duration::from_millis(20), Micros::from_millis(100));
        assert_eq!(detector.deadline(), Some(Micros::from_millis(400)));
        assert_eq!(detector.on_deadline(Micros::from_millis(399)), None);
        let stopped = SpeechChange { event: SpeechEvent::Stopped, at: Micros::from_millis(100) };
        assert_eq!(detector.on_deadline(Micros::from_millis(400)), Some(stopped));
        assert_eq!(detector.on_deadline(Micros::from_millis(500)), None);
    }
}
