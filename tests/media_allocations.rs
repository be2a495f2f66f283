//! Audio on its way allocates nothing once it flows.

#[path = "../benches/measure/allocations.rs"]
mod allocations;
#[path = "../src/media/fixture.rs"]
#[allow(dead_code, reason = "shared with the unit tests")]
mod signal;

use std::time::Duration;

use antiphon::media::format::Format;
use antiphon::media::transcode::{Decoder, Encoder};
use antiphon::route::plan::OpusSettings;
use bytes::{Bytes, BytesMut};

/// One test, since the counter counts all threads.
#[test]
fn a_frame_allocates_nothing_in_steady_state() {
    let settings = OpusSettings { fec: true, ..OpusSettings::default() };
    let formats = [Format::OPUS, Format::PCMU, Format::PCMA, Format::pcm16(16_000), Format::pcm16(44_100)];
    for from in formats {
        for to in formats {
            let frame = from.rate as usize / 50;
            let pcm = signal::speech(from.rate, 50 * frame);
            let mut client = Encoder::new(from, from.rate, &settings).unwrap();
            let mut buffer = BytesMut::new();
            let payloads: Vec<Bytes> =
                pcm.chunks_exact(frame).map(|frame| client.encode(frame, &mut buffer).unwrap()).collect();

            let mut decoder = Decoder::new(from, to.rate).unwrap();
            let mut encoder = Encoder::new(to, to.rate, &settings).unwrap();
            let (mut pcm, mut buffer) = (Vec::new(), BytesMut::new());
            // Some frames are still on their way out, as in a session; then all are gone.
            let mut sent = Vec::with_capacity(4);
            let mut step = |n: usize| {
                pcm.clear();
                match n % 10 {
                    3 => decoder.conceal(Duration::from_millis(20), &mut pcm),
                    6 => decoder.recover(&payloads[7], Duration::from_millis(20), &mut pcm).unwrap(),
                    _ => decoder.decode(&payloads[n % 50], &mut pcm).unwrap(),
                }
                sent.push(encoder.encode(&pcm, &mut buffer).unwrap());
                if n % 3 == 2 {
                    sent.clear();
                }
            };
            (0..50).for_each(&mut step);
            let before = allocations::count();
            (50..250).for_each(&mut step);
            assert_eq!(allocations::count() - before, 0, "{from} to {to}");
        }
    }
}
