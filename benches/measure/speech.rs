//! Coded speech, and libopus alone as the baseline of every ratio.

#[path = "../../src/media/fixture.rs"]
#[allow(dead_code, reason = "shared with the unit tests")]
pub mod signal;

use std::hint::black_box;

use antiphon::media::format::Format;
use antiphon::media::transcode::Encoder;
use antiphon::route::plan::OpusSettings;
use bytes::{Bytes, BytesMut};

/// Frames of the sample: two seconds.
pub const FRAMES: usize = 100;
pub const LIBOPUS_DECODE: &str = "libopus: Opus to 24 kHz";
pub const LIBOPUS_ENCODE: &str = "libopus: 24 kHz to Opus";

/// The frames, over and over.
pub struct Loop<T> {
    frames: Vec<T>,
    at: usize,
}

impl<T> Loop<T> {
    pub fn new(frames: Vec<T>) -> Loop<T> {
        Loop { frames, at: 0 }
    }

    pub fn next(&mut self) -> &T {
        let at = self.at;
        self.at = (at + 1) % self.frames.len();
        &self.frames[at]
    }
}

/// libopus as [`OpusSettings`] set it up.
fn libopus_encoder(settings: &OpusSettings) -> opus::Encoder {
    let mut encoder = opus::Encoder::new(24_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_complexity(i32::from(settings.complexity)).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(settings.bitrate as i32)).unwrap();
    encoder.set_max_bandwidth(opus::Bandwidth::Wideband).unwrap();
    encoder
}

/// The sample, coded at `rate`, in frames of 20 ms.
pub fn coded(format: Format, rate: u32) -> Vec<Bytes> {
    let pcm = signal::speech(rate, FRAMES * rate as usize / 50);
    let mut encoder = Encoder::new(format, rate, &OpusSettings::default()).unwrap();
    let mut buffer = BytesMut::new();
    pcm.chunks_exact(rate as usize / 50).map(|frame| encoder.encode(frame, &mut buffer).unwrap()).collect()
}

/// One decode.
pub fn libopus_decode() -> impl FnMut() {
    let mut frames = Loop::new(coded(Format::OPUS, 48_000));
    let mut decoder = opus::Decoder::new(24_000, opus::Channels::Mono).unwrap();
    let mut pcm = [0; 480];
    move || {
        black_box(decoder.decode(frames.next(), &mut pcm, false).unwrap());
    }
}

/// One encode.
pub fn libopus_encode() -> impl FnMut() {
    let pcm = signal::speech(24_000, FRAMES * 480);
    let mut frames = Loop::new(pcm.chunks_exact(480).map(<[i16]>::to_vec).collect());
    let mut encoder = libopus_encoder(&OpusSettings::default());
    let mut packet = [0; 1276];
    move || {
        black_box(encoder.encode(frames.next(), &mut packet).unwrap());
    }
}
