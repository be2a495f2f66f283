//! Any bytes on a QUIC stream or in a datagram are survived, however they are cut, and what is understood can be
//! written and read again.
//!
//! The first byte says how: bit 0 for a datagram, else a stream, whose bytes come in pieces of 1 + the other bits.
#![no_main]

use antiphon::dialect::native::quic::{self, Decoder, Frame, Prelude, StreamKind};
use antiphon::media::rtp::{Extender, Packet};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fn datagram(data: &[u8]) {
    let Ok((flow, rest)) = quic::read_flow(Bytes::copy_from_slice(data)) else { return };
    let Ok(packet) = Packet::parse(&rest) else { return };
    let mut written = Vec::new();
    quic::write_datagram(&mut written, flow, &packet.header, &packet.payload);
    let (again, rest) = quic::read_flow(written.into()).expect("a flow that was written");
    assert_eq!((again, Packet::parse(&rest)), (flow, Ok(packet)));
}

fn stream(data: &[u8], piece: usize) {
    let Ok(Some((prelude, front))) = Prelude::read(data) else { return };
    let (mut decoder, mut extender) = (Decoder::new(prelude.kind), Extender::default());
    let mut written = Vec::new();
    let mut frames = Vec::new();
    for bytes in data[front..].chunks(piece) {
        decoder.push(bytes);
        while let Ok(Some(frame)) = decoder.poll() {
            match &frame {
                Frame::Control(json) => quic::write_control(&mut written, json),
                Frame::Audio(packet) => {
                    extender.extend(packet.header.seq);
                    quic::write_audio(&mut written, &packet.header, &packet.payload);
                }
            }
            frames.push(frame);
        }
        assert!(decoder.pending() <= quic::MAX_AUDIO_BYTES + quic::MAX_OVERHEAD);
    }
    let mut again = Decoder::new(if matches!(frames.first(), Some(Frame::Audio(_))) {
        StreamKind::Audio
    } else {
        StreamKind::Control
    });
    again.push(&written);
    for frame in frames {
        assert_eq!(again.poll(), Ok(Some(frame)));
    }
    assert_eq!(again.finish(), Ok(()));
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else { return };
    if how & 1 == 1 { datagram(data) } else { stream(data, 1 + usize::from(how >> 1)) }
});
