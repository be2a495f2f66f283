//! Signals for tests.

use std::f64::consts::TAU;

/// A sine of `hertz` at half of full scale.
pub fn sine(hertz: f64, rate: u32, samples: usize) -> Vec<i16> {
    (0..samples).map(|n| (16_384.0 * (TAU * hertz * n as f64 / f64::from(rate)).sin()) as i16).collect()
}

/// Something like speech: syllables of a gliding pitch through three formants, with hiss and pauses between them.
pub fn speech(rate: u32, samples: usize) -> Vec<i16> {
    let rate = f64::from(rate);
    let mut noise: u32 = 1;
    let mut phase = 0.0;
    (0..samples)
        .map(|n| {
            let time = n as f64 / rate;
            let syllable = (time * 4.0).fract();
            let pitch = 110.0 + 40.0 * (TAU * 0.7 * time).sin();
            phase = (phase + pitch / rate).fract();
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let hiss = f64::from(noise >> 16) / 32_768.0 - 1.0;
            let vowel = (time * 4.0).floor() % 3.0;
            let formants = [500.0 + 150.0 * vowel, 1_500.0 + 300.0 * vowel, 2_500.0 + 100.0 * vowel];
            let since_pulse = phase / pitch;
            let voice: f64 = formants
                .iter()
                .enumerate()
                .map(|(k, formant)| (TAU * formant * since_pulse).sin() * (-since_pulse * 250.0).exp() / (1 + k) as f64)
                .sum();
            let loud = (TAU * syllable / 2.0).sin().max(0.0) * if (time * 4.0) as u64 % 7 == 6 { 0.0 } else { 1.0 };
            (9_000.0 * loud * (voice + 0.05 * hiss)).clamp(-32_768.0, 32_767.0) as i16
        })
        .collect()
}

/// Correlation of two signals, 1 for equal shapes, with `b` delayed against `a` by the best of 0 to `most` samples;
/// gives the delay too.
pub fn correlation(a: &[i16], b: &[i16], most: usize) -> (f64, usize) {
    let at = |delay: usize| {
        let pairs = a.iter().zip(&b[delay.min(b.len())..]);
        let (mut ab, mut aa, mut bb) = (0.0, 1e-9, 1e-9);
        for (&a, &b) in pairs {
            let (a, b) = (f64::from(a), f64::from(b));
            ab += a * b;
            aa += a * a;
            bb += b * b;
        }
        ab / f64::sqrt(aa * bb)
    };
    (0..=most).map(|delay| (at(delay), delay)).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}
