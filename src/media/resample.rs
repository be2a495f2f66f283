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
