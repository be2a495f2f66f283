//! Voice in a microphone's audio: a score for each 16 ms, from a small neural network (crate `earshot`).
//!
//! Chosen by measurement (`docs/operations.md`): it tells speech from noise far better than WebRTC's detector or a level,
//! and takes less than a thousandth of a core for a call.

use std::fmt;
use std::time::Duration;

use earshot::Detector;

use crate::media::level::level;
use crate::media::resample::Resampler;

/// What the network was made for.
const RATE: u32 = 16_000;
/// Samples that are judged at once.
const SAMPLES: usize = 256;
/// Time that they take.
pub const WINDOW: Duration = Duration::from_millis(16);

/// What was found in one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VoiceWindow {
    /// From 0, no voice, to 1, voice.
    pub score: f32,
    /// Its level in -dBov (RFC 6464).
    pub level: u8,
}

/// Finds voice in one stream of audio.
pub struct VoiceDetector {
    detector: Box<Detector>,
    /// The rate of the audio, and how it comes to that of the network.
    from: u32,
    resampler: Option<Resampler>,
    pcm: Vec<i16>,
}

impl fmt::Debug for VoiceDetector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VoiceDetector").field("from", &self.from).field("waiting", &self.pcm.len()).finish()
    }
}

impl Default for VoiceDetector {
    fn default() -> VoiceDetector {
        VoiceDetector { detector: Box::default(), from: RATE, resampler: None, pcm: Vec::with_capacity(SAMPLES * 4) }
    }
}

impl VoiceDetector {
    /// Hears mono samples at `rate` (8 to 48 kHz) and tells of each window that they complete. Audio at a rate that
    /// cannot be converted is not heard.
    pub fn hear(&mut self, pcm: &[i16], rate: u32, mut found: impl FnMut(VoiceWindow)) {
        if rate != self.from {
            self.pcm.clear();
            self.resampler = None;
            self.from = rate;
        }
        if rate == RATE {
            self.pcm.extend_from_slice(pcm);
        } else {
            if self.resampler.is_none() {
                self.resampler = Resampler::new(rate, RATE).ok();
            }
            let Some(resampler) = &mut self.resampler else { return };
            resampler.process(pcm, &mut self.pcm);
        }
        let mut from = 0;
        while let Some(window) = self.pcm.get(from..from + SAMPLES) {
            found(VoiceWindow { score: self.detector.predict_i16(window), level: level(window) });
            from += SAMPLES;
        }
        self.pcm.copy_within(from.., 0);
        self.pcm.truncate(self.pcm.len() - from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::clip::Clip;
    use crate::media::level::SpeechDetector;
    use crate::testkit::Rng;
    use crate::time::Micros;

    /// A recording of two sentences at 16 kHz with 1.5 s of silence before and after.
    fn speech() -> Vec<i16> {
        let clip = Clip::parse(crate::cli::call::SPEECH).unwrap().resampled(RATE).unwrap();
        let pause = vec![0; 24_000];
        [&pause[..], &clip.samples, &pause].concat()
    }

    /// Windows with voice, known from the recording alone; `None` near the edges of a stretch.
    fn truth(clean: &[i16]) -> Vec<Option<bool>> {
        let levels: Vec<u8> = clean.chunks_exact(SAMPLES).map(level).collect();
        let loudest = *levels.iter().min().unwrap();
        let voiced = |window: usize| levels.get(window).is_some_and(|level| *level < loudest + 30);
        // Pauses between words belong to what is said.
        let said =
            |window: usize| (window.saturating_sub(10)..=window).any(voiced) && (window..window + 10).any(voiced);
        let all: Vec<bool> = (0..levels.len()).map(said).collect();
        let near =
            |window: usize| (window.saturating_sub(15)..(window + 6).min(all.len())).any(|w| all[w] != all[window]);
        (0..all.len()).map(|window| (!near(window)).then_some(all[window])).collect()
    }

    /// The recording with noise of one low-pass pole, `snr` dB below it.
    fn noisy(clean: &[i16], snr: f64, pole: f64, seed: u64) -> Vec<i16> {
        let mut rng = Rng::new(seed);
        let mut low = 0.0;
        let noise: Vec<f64> = clean
            .iter()
            .map(|_| {
                low = pole * low + (rng.below(2_001) as f64 - 1_000.0);
                low
            })
            .collect();
        let power = |samples: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = samples.fold((0.0, 0), |(sum, count), sample| (sum + sample * sample, count + 1));
            sum / f64::from(count)
        };
        let of_speech = power(&mut clean.iter().map(|&sample| f64::from(sample)).filter(|sample| sample.abs() > 300.0));
        let scale = (of_speech / power(&mut noise.iter().copied()) / 10f64.powf(snr / 10.0)).sqrt();
        clean.iter().zip(noise).map(|(&sample, noise)| (f64::from(sample) + noise * scale) as i16).collect()
    }

    /// Share of what was found that is voice, and of the voice that was found.
    fn quality(found: &[bool], truth: &[Option<bool>]) -> (f64, f64) {
        let count = |hit: bool, voice: bool| {
            found.iter().zip(truth).filter(|(found, truth)| **found == hit && **truth == Some(voice)).count() as f64
        };
        let right = count(true, true);
        (right / (right + count(true, false)).max(1.0), right / (right + count(false, true)).max(1.0))
    }

    fn scores(pcm: &[i16], rate: u32) -> Vec<f32> {
        let (mut detector, mut scores) = (VoiceDetector::default(), Vec::new());
        for frame in pcm.chunks(rate as usize / 50) {
            detector.hear(frame, rate, |window| scores.push(window.score));
        }
        scores
    }

    #[test]
    fn speech_is_told_from_steady_noise_where_its_level_tells_nothing() {
        let clean = speech();
        let truth = truth(&clean);
        for (snr, pole) in [(20.0, 0.0), (10.0, 0.9), (5.0, 0.97), (5.0, 0.0)] {
            let pcm = noisy(&clean, snr, pole, 3);
            let found: Vec<bool> = scores(&pcm, RATE).iter().map(|score| *score >= 0.7).collect();
            let (precision, recall) = quality(&found, &truth);
            let mut by_level = SpeechDetector::new(-45, Duration::from_millis(300));
            let loud: Vec<bool> = (0u64..)
                .zip(pcm.chunks_exact(SAMPLES))
                .map(|(n, window)| {
                    by_level.on_frame(level(window), WINDOW, Micros::from_millis(16 * (n + 1)));
                    by_level.is_speaking()
                })
                .collect();
            let (level_precision, level_recall) = quality(&loud, &truth);
            assert!(precision >= 0.95 && recall >= 0.7, "{snr} dB, pole {pole}: {precision:.3} {recall:.3}");
            assert!(level_precision < 0.8 && level_recall > 0.9, "by level: {level_precision:.3} {level_recall:.3}");
        }
    }

    #[test]
    fn audio_at_any_rate_gives_the_same_voice() {
        let clean = speech();
        let expected = scores(&clean, RATE).iter().filter(|score| **score >= 0.7).count();
        for rate in [8_000, 12_000, 22_050, 24_000, 44_100, 48_000] {
            let clip = Clip { samples: clean.clone(), rate: RATE }.resampled(rate).unwrap();
            let found = scores(&clip.samples, rate).iter().filter(|score| **score >= 0.7).count();
            let share = found as f64 / expected as f64;
            assert!((0.75..1.2).contains(&share), "{rate} Hz: {found} windows, {expected} at 16 kHz");
        }
    }

    #[test]
    fn silence_is_no_voice() {
        assert!(scores(&[0; 32_000], RATE).iter().all(|score| *score < 0.3));
    }
}
