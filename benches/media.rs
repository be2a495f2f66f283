//! What transcoding costs on top of libopus, per frame of 20 ms. Ends with 1 if a bar is missed.
#![allow(missing_docs, reason = "a program, not a library")]

mod measure;
use std::hint::black_box;
use std::process::ExitCode;

use antiphon::media::format::Format;
use antiphon::media::level::level;
use antiphon::media::resample::Resampler;
use antiphon::media::transcode::{Decoder, Encoder, payload_ticks, same_wire};
use antiphon::route::plan::OpusSettings;
use bytes::BytesMut;

use crate::measure::speech::{
    FRAMES, LIBOPUS_DECODE, LIBOPUS_ENCODE, Loop, coded, libopus_decode, libopus_encode, signal,
};
use crate::measure::{Case, Effort, report};

/// The way of one frame from one format to the other, as in a session.
fn transcode(from: Format, to: Format, rate: u32) -> impl FnMut() {
    let mut frames = Loop::new(coded(from, from.rate));
    let mut decoder = Decoder::new(from, rate).unwrap();
    let mut encoder = Encoder::new(to, rate, &OpusSettings::default()).unwrap();
    let (mut pcm, mut buffer) = (Vec::new(), BytesMut::new());
    move || {
        pcm.clear();
        decoder.decode(frames.next(), &mut pcm).unwrap();
        black_box(encoder.encode(&pcm, &mut buffer).unwrap());
    }
}

fn pass_through() -> impl FnMut() {
    let mut frames = Loop::new(coded(Format::OPUS, 48_000));
    let agent = Format { rate: 24_000, ..Format::OPUS };
    move || {
        let frame = frames.next();
        assert!(same_wire(black_box(&Format::OPUS), black_box(&agent)));
        black_box((payload_ticks(&Format::OPUS, frame).unwrap(), frame.clone()));
    }
}

fn resample(from: u32, to: u32) -> impl FnMut() {
    let mut frames = Loop::new(
        signal::speech(from, FRAMES * from as usize / 50)
            .chunks_exact(from as usize / 50)
            .map(<[i16]>::to_vec)
            .collect(),
    );
    let mut resampler = Resampler::new(from, to).unwrap();
    let mut pcm = Vec::new();
    move || {
        pcm.clear();
        resampler.process(frames.next(), &mut pcm);
        black_box(&pcm);
    }
}

fn levels() -> impl FnMut() {
    let mut frames = Loop::new(signal::speech(24_000, FRAMES * 480).chunks_exact(480).map(<[i16]>::to_vec).collect());
    move || {
        black_box(level(frames.next()));
    }
}

fn main() -> ExitCode {
    let (pcm_24k, pcm_16k) = (Format::pcm16(24_000), Format::pcm16(16_000));
    let mut cases = [
        Case::new(LIBOPUS_DECODE, LIBOPUS_DECODE, libopus_decode()),
        Case::new("Opus 48 kHz to PCM16 24 kHz", LIBOPUS_DECODE, transcode(Format::OPUS, pcm_24k, 24_000))
            .at_most(1.10),
        Case::new(LIBOPUS_ENCODE, LIBOPUS_ENCODE, libopus_encode()),
        Case::new("PCM16 24 kHz to Opus", LIBOPUS_ENCODE, transcode(pcm_24k, Format::OPUS, 24_000)).at_most(1.10),
        Case::new("pass-through", LIBOPUS_DECODE, pass_through()).at_most(0.10),
        Case::new("G.711 to PCM16 8 kHz", LIBOPUS_DECODE, transcode(Format::PCMU, Format::pcm16(8_000), 8_000))
            .no_allocation(),
        Case::new("PCM16 8 kHz to G.711", LIBOPUS_DECODE, transcode(Format::pcm16(8_000), Format::PCMU, 8_000))
            .no_allocation(),
        Case::new("G.711 to PCM16 24 kHz", LIBOPUS_DECODE, transcode(Format::PCMU, pcm_24k, 24_000)).no_allocation(),
        Case::new("PCM16 24 kHz to PCM16 16 kHz", LIBOPUS_DECODE, transcode(pcm_24k, pcm_16k, 16_000)).no_allocation(),
        Case::new("resample 44.1 kHz to 24 kHz", LIBOPUS_DECODE, resample(44_100, 24_000)).no_allocation(),
        Case::new("level of a frame at 24 kHz", LIBOPUS_DECODE, levels()).no_allocation(),
    ];
    match report("media", Effort { rounds: 1010, frames: FRAMES / 10 }, &mut cases) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the figures could not be written: {error}");
            ExitCode::FAILURE
        }
    }
}
