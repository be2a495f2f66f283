//! Conversion between sampling rates, for PCM on both sides and for 44.1 and 22.05 kHz; Opus converts by itself.

use std::time::Duration;

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use crate::media::transcode::MediaError;

/// Rates that can be converted, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 8_000..=192_000;
/// Samples, at the lower of the two rates, that one block has at least: they set the steepness of the filter.
const MIN_BLOCK: u32 = 80;
/// Longest block: the samples that two rates without a common divisor would need are refused.
const MAX_BLOCK: u32 = 4096;

/// Converts mono samples from one rate to another, keeping its state from call to call.
///
/// It works in blocks of [`Resampler::block`] samples; samples that do not fill one wait for the next call. Blocks
/// are 3.3 to 10 ms long (20 ms between 22.05 kHz and 8 or 16 kHz) and divide a frame of 20 ms, so frames do not wait.
/// The pass band reaches 0.88 of the lower Nyquist frequency.
#[derive(Debug)]
pub struct Resampler {
    fft: Box<Fft<f32>>,
    from: u32,
    to: u32,
    block: Vec<f32>,
    filled: usize,
    converted: Vec<f32>,
    consumed: u64,
    produced: u64,
}

impl Resampler {
    /// A resampler from `from` to `to` Hz, both in 8 to 192 kHz.
    ///
    /// # Errors
    /// If a rate is out of range, or the two have no common divisor that makes a short block.
    pub fn new(from: u32, to: u32) -> Result<Resampler, MediaError> {
        let refuse = || MediaError::Rate { from, to };
        if !RATES.contains(&from) || !RATES.contains(&to) {
            return Err(refuse());
        }
        let common = gcd(from, to);
        let units = units_per_block(common, from.min(to) / common);
        if units * (from.max(to) / common) > MAX_BLOCK {
            return Err(refuse());
        }
        let block = (units * (from / common)) as usize;
        let window = WindowFunction::Blackman2;
        let fft =
            Fft::new_custom(from as usize, to as usize, block, 1, 1, window, FixedSync::Both).map_err(|_| refuse())?;
        let (taken, given) = (fft.input_frames_max(), fft.output_frames_max());
        Ok(Resampler {
            fft: Box::new(fft),
            from,
            to,
            block: vec![0.0; taken],
            filled: 0,
            converted: vec![0.0; given],
            consumed: 0,
            produced: 0,
        })
    }

    /// Converts `input` and appends what is ready to `output`. The sum of what is appended follows the sum of the input
    /// exactly, block by block: there is no drift.
    pub fn process(&mut self, mut input: &[i16], output: &mut Vec<i16>) {
        self.consumed += input.len() as u64;
        while !input.is_empty() {
            let (now, later) = input.split_at(input.len().min(self.block.len() - self.filled));
            for (slot, &sample) in self.block[self.filled..].iter_mut().zip(now) {
                *slot = f32::from(sample) / 32_768.0;
            }
            self.filled += now.len();
            input = later;
            if self.filled == self.block.len() {
                self.convert_block(output);
            }
        }
    }

    /// Appends the rest: all samples given so far have then come out, [`Resampler::delay`] late. Starts afresh.
    pub fn flush(&mut self, output: &mut Vec<i16>) {
        let whole = (self.consumed * u64::from(self.to)).div_ceil(u64::from(self.from));
        let end = whole + self.fft.output_delay() as u64;
        while self.consumed > 0 && self.produced < end {
            self.block[self.filled..].fill(0.0);
            let surplus = (self.produced + self.converted.len() as u64).saturating_sub(end) as usize;
            self.convert_block(output);
            output.truncate(output.len() - surplus);
        }
        self.reset();
    }

    /// Forgets the past.
    pub fn reset(&mut self) {
        self.fft.reset();
        self.filled = 0;
        self.consumed = 0;
        self.produced = 0;
    }

    /// How much later than it went in a sample comes out, waiting for its block left aside.
    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.fft.output_delay() as u64 * 1_000_000_000 / u64::from(self.to))
    }

    /// [`Resampler::delay`] in samples of the output.
    pub fn delay_samples(&self) -> usize {
        self.fft.output_delay()
    }

    /// Samples of the input that are converted at once.
    pub fn block(&self) -> usize {
        self.block.len()
    }

    fn convert_block(&mut self, output: &mut Vec<i16>) {
        self.filled = 0;
        let (taken, given) = (self.block.len(), self.converted.len());
        let adapters =
            (SequentialSlice::new(&self.block, 1, taken), SequentialSlice::new_mut(&mut self.converted, 1, given));
        let done = match adapters {
            (Ok(input), Ok(mut space)) => self.fft.process_into_buffer(&input, &mut space, None).is_ok(),
            _ => false,
        };
        debug_assert!(done, "the buffers have the size of one block");
        self.produced += given as u64;
        // `as` saturates, which is what an overshoot of the filter needs.
        output.extend(self.converted.iter().map(|&sample| (sample * 32_768.0).round_ties_even() as i16));
    }
}

/// How many times the shortest block makes one: the smallest divisor of 10 or 20 ms with enough samples.
fn units_per_block(common: u32, lower: u32) -> u32 {
    let needed = MIN_BLOCK.div_ceil(lower);
    let Some(in_frame) =
        [100, 50].into_iter().find(|&per_second| common.is_multiple_of(per_second)).map(|n| common / n)
    else {
        return needed;
    };
    (needed..=in_frame).find(|units| in_frame.is_multiple_of(*units)).unwrap_or(needed)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::fixture::{correlation, sine, speech};

    const USUAL: [u32; 7] = [8_000, 12_000, 16_000, 22_050, 24_000, 44_100, 48_000];

    fn pairs() -> impl Iterator<Item = (u32, u32)> {
        USUAL.into_iter().flat_map(|from| USUAL.into_iter().map(move |to| (from, to))).filter(|(from, to)| from != to)
    }

    fn at_once(from: u32, to: u32, pcm: &[i16]) -> Vec<i16> {
        let mut resampler = Resampler::new(from, to).unwrap();
        let mut out = Vec::new();
        resampler.process(pcm, &mut out);
        resampler.flush(&mut out);
        out
    }

    #[test]
    fn a_stream_in_pieces_equals_the_whole() {
        for (from, to) in pairs() {
            let pcm = speech(from, from as usize / 5 + 77);
            let mut resampler = Resampler::new(from, to).unwrap();
            let mut out = Vec::new();
            let mut rest = &pcm[..];
            for piece in [1, 7, 160, 441, 2, 960, 333].into_iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(piece));
                resampler.process(now, &mut out);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            resampler.flush(&mut out);
            assert_eq!(out, at_once(from, to, &pcm), "{from} to {to} Hz");
        }
    }

    #[test]
    fn a_minute_is_a_minute_at_any_rate() {
        for (from, to) in [(44_100, 24_000), (22_050, 16_000), (24_000, 44_100), (16_000, 24_000)] {
            let mut resampler = Resampler::new(from, to).unwrap();
            let frame = vec![0; from as usize / 50];
            let mut given = 0;
            let mut out = Vec::new();
            for _ in 0..50 * 60 {
                out.clear();
                resampler.process(&frame, &mut out);
                given += out.len();
            }
            assert_eq!(given, to as usize * 60, "{from} to {to} Hz");
        }
    }

    #[test]
    fn sound_comes_out_as_late_as_reported_and_a_flush_completes_it() {
        for (from, to) in pairs() {
            let out = at_once(from, to, &speech(from, from as usize / 2));
            let resampler = Resampler::new(from, to).unwrap();
            assert_eq!(out.len(), to as usize / 2 + resampler.delay_samples(), "{from} to {to} Hz");
            let (likeness, delay) = correlation(&speech(to, to as usize / 5), &out, to as usize / 80);
            assert!(likeness > 0.9, "{from} to {to} Hz: {likeness}");
            let odd = resampler.delay_samples().abs_diff(delay);
            assert!(odd <= 1 + to as usize / 8_000, "{from} to {to} Hz: {delay}, {}", resampler.delay_samples());
        }
    }

    #[test]
    fn a_frame_of_20_ms_never_waits_and_the_delay_is_a_few_ms() {
        for (from, to) in pairs() {
            let mut resampler = Resampler::new(from, to).unwrap();
            let mut out = Vec::new();
            resampler.process(&vec![0; from as usize / 50], &mut out);
            assert_eq!(out.len(), to as usize / 50, "{from} to {to} Hz");
            let most = if from.max(to) / gcd(from, to) > 400 { 10 } else { 5 };
            assert!(resampler.delay() <= Duration::from_millis(most), "{from} to {to} Hz: {:?}", resampler.delay());
        }
    }

    #[test]
    fn the_pass_band_is_kept_and_what_would_alias_is_removed() {
        let power = |pcm: &[i16]| -> f64 {
            let middle = &pcm[pcm.len() / 4..pcm.len() * 3 / 4];
            middle.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>() / middle.len() as f64
        };
        let decibels = |from: u32, to: u32, hertz: f64| {
            let pcm = sine(hertz, from, from as usize / 5);
            10.0 * ((power(&at_once(from, to, &pcm)) + 1e-3) / power(&pcm)).log10()
        };
        for (from, to) in pairs() {
            let nyquist = f64::from(from.min(to)) / 2.0;
            for share in [0.01, 0.2, 0.5, 0.8] {
                let gain = decibels(from, to, nyquist * share);
                assert!(gain.abs() < 0.5, "{from} to {to} Hz at {share} of Nyquist: {gain} dB");
            }
            if to < from {
                let alias = decibels(from, to, (nyquist * 1.15).min(f64::from(from) * 0.49));
                assert!(alias < -55.0, "{from} to {to} Hz: {alias} dB");
            }
        }
    }

    #[test]
    fn a_reset_resampler_is_as_good_as_new() {
        let pcm = speech(24_000, 4_800);
        let mut resampler = Resampler::new(24_000, 16_000).unwrap();
        resampler.process(&speech(24_000, 1_111), &mut Vec::new());
        resampler.reset();
        let mut out = Vec::new();
        resampler.process(&pcm, &mut out);
        resampler.flush(&mut out);
        assert_eq!(out, at_once(24_000, 16_000, &pcm));
        resampler.flush(&mut out);
        assert_eq!(out.len(), 3_200 + resampler.delay_samples(), "a second flush has nothing to give");
    }

    #[test]
    fn full_scale_does_not_wrap() {
        let square: Vec<i16> = (0..4_800).map(|n| if n / 480 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
        let out = at_once(24_000, 16_000, &square);
        let jumps = out.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) > 50_000).count();
        assert!(jumps <= 10, "{jumps} jumps from end to end, ten are in the signal");
    }

    #[test]
    fn rates_that_do_not_fit_are_refused() {
        for (from, to) in [(0, 8_000), (8_000, 7_999), (44_101, 48_000), (192_001, 48_000)] {
            let error = Resampler::new(from, to).unwrap_err().to_string();
            assert!(error.contains(&from.to_string()) && error.contains("24000"), "{error}");
        }
        assert!(Resampler::new(11_025, 24_000).is_ok());
        assert!(Resampler::new(32_000, 24_000).is_ok());
        assert!(Resampler::new(96_000, 44_100).is_ok());
    }
}
