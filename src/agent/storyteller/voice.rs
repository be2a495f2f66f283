//! Hears when the caller speaks, by energy.

use crate::message::SpeechEvent;

/// Samples of one window: 20 ms at 16 kHz.
const WINDOW: u32 = 320;
/// Milliseconds of one window.
const WINDOW_MS: u32 = 20;
/// Voiced time after which speech has begun.
const START_MS: u32 = 120;
/// Unvoiced time after which it has stopped.
const STOP_MS: u32 = 600;
/// Below this level (dBov) nothing is voiced.
const LEAST: f32 = -45.0;
/// Voiced is louder than the noise by this much (dB).
const ABOVE_NOISE: f32 = 10.0;
/// How fast the noise estimate rises (dB per window); it falls at once.
const NOISE_RISE: f32 = 0.02;
/// The noise estimate stays in this range (dBov).
const NOISE: (f32, f32) = (-80.0, -40.0);

/// Finds the beginning and end of speech in mono PCM16 at 16 kHz: a window is voiced if it is louder than -45 dBov and
/// than the noise by 10 dB; speech begins after 120 ms of voice and stops after 600 ms without.
#[derive(Debug)]
pub struct VoiceDetector {
    /// Sum of squares and count of the present window, and a byte of a sample whose other half is in the next payload.
    energy: u64,
    samples: u32,
    half: Option<u8>,
    noise: f32,
    voiced_ms: u32,
    unvoiced_ms: u32,
    speaking: bool,
}

impl Default for VoiceDetector {
    fn default() -> Self {
        Self { energy: 0, samples: 0, half: None, noise: NOISE.0, voiced_ms: 0, unvoiced_ms: 0, speaking: false }
    }
}

impl VoiceDetector {
    /// Takes a payload of any length; gives the last change in it, if there is one.
    pub fn on_pcm16(&mut self, payload: &[u8]) -> Option<SpeechEvent> {
        let mut event = None;
        for &byte in payload {
            let Some(low) = self.half.take() else {
                self.half = Some(byte);
                continue;
            };
            let sample = i64::from(i16::from_le_bytes([low, byte]));
            self.energy += (sample * sample) as u64;
            self.samples += 1;
            if self.samples == WINDOW {
                event = self.on_window().or(event);
            }
        }
        event
    }

    fn on_window(&mut self) -> Option<SpeechEvent> {
        let mean = self.energy as f32 / WINDOW as f32 / (32_768.0 * 32_768.0);
        let level = 10.0 * mean.max(1e-9).log10();
        (self.energy, self.samples) = (0, 0);
        self.noise = level.min(self.noise + NOISE_RISE).clamp(NOISE.0, NOISE.1);
        if level > LEAST.max(self.noise + ABOVE_NOISE) {
            self.voiced_ms += WINDOW_MS;
            self.unvoiced_ms = 0;
        } else {
            self.voiced_ms = self.voiced_ms.saturating_sub(WINDOW_MS);
            self.unvoiced_ms += WINDOW_MS;
        }
        if !self.speaking && self.voiced_ms >= START_MS {
            self.speaking = true;
            return Some(SpeechEvent::Started);
        }
        if self.speaking && self.unvoiced_ms >= STOP_MS {
            self.speaking = false;
            self.voiced_ms = 0;
            return Some(SpeechEvent::Stopped);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(ms: u32, amplitude: f32) -> Vec<u8> {
        (0..ms * 16).flat_map(|n| ((amplitude * (n as f32 * 0.3).sin()) as i16).to_le_bytes()).collect()
    }

    /// When (ms) each change is found, fed in 20 ms frames.
    fn changes(detector: &mut VoiceDetector, audio: &[u8]) -> Vec<(usize, SpeechEvent)> {
        let frames = audio.chunks(640).enumerate();
        frames.filter_map(|(n, frame)| detector.on_pcm16(frame).map(|event| ((n + 1) * 20, event))).collect()
    }

    #[test]
    fn speech_begins_after_120_ms_of_voice_and_stops_after_600_ms_without() {
        let audio = [tone(500, 0.0), tone(1000, 5000.0), tone(400, 0.0), tone(300, 5000.0), tone(700, 0.0)].concat();
        let found = changes(&mut VoiceDetector::default(), &audio);
        assert_eq!(found, [(620, SpeechEvent::Started), (2800, SpeechEvent::Stopped)]);
    }

    #[test]
    fn a_click_and_steady_noise_are_no_speech() {
        let click = [tone(100, 0.0), tone(60, 20_000.0), tone(1000, 0.0)].concat();
        assert_eq!(changes(&mut VoiceDetector::default(), &click), []);
        let noise = tone(3000, 150.0);
        assert_eq!(changes(&mut VoiceDetector::default(), &noise), []);
    }

    #[test]
    fn a_sample_split_between_payloads_is_read_whole() {
        let audio = tone(400, 5000.0);
        let mut detector = VoiceDetector::default();
        let found: Vec<_> = audio.chunks(333).filter_map(|chunk| detector.on_pcm16(chunk)).collect();
        assert_eq!(found, [SpeechEvent::Started]);
    }
}
