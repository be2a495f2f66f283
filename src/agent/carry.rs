//! Samples that a frame's end has cut in two.

use bytes::{Bytes, BytesMut};

/// Bytes of a sample that was cut by a frame's end.
#[derive(Debug, Default)]
pub(crate) struct Carry {
    bytes: [u8; 4],
    len: usize,
}

impl Carry {
    /// Whole samples of `sample` bytes out of `payload` and what was left over before.
    pub(crate) fn align(&mut self, sample: usize, payload: Bytes) -> Bytes {
        let total = self.len + payload.len();
        let rest = total % sample;
        if self.len == 0 {
            let whole = total - rest;
            self.keep(&payload[whole..]);
            return payload.slice(..whole);
        }
        let mut joined = BytesMut::with_capacity(total);
        joined.extend_from_slice(&self.bytes[..self.len]);
        joined.extend_from_slice(&payload);
        let tail = joined.split_off(total - rest);
        self.keep(&tail);
        joined.freeze()
    }

    /// What is left over belongs to audio that is void.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    fn keep(&mut self, tail: &[u8]) {
        self.len = tail.len();
        self.bytes[..tail.len()].copy_from_slice(tail);
    }
}
