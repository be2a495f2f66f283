//! Bytes as a row of frames.

use antiphon::agent::Wire;
use bytes::Bytes;

/// One frame and the byte that says what it is.
pub struct Framed {
    /// As it stands in the input.
    pub kind: u8,
    /// What comes with it.
    pub payload: Bytes,
}

/// One byte for the kind, two for the length (little-endian), then the payload; and so on.
pub fn frames(mut data: &[u8]) -> Vec<Framed> {
    let mut frames = Vec::new();
    while let [kind, low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, next) = rest.split_at(length);
        frames.push(Framed { kind: *kind, payload: Bytes::copy_from_slice(payload) });
        data = next;
    }
    frames
}

/// The bytes that [`frames`] takes for these.
pub fn row(frames: impl IntoIterator<Item = (u8, Vec<u8>)>) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, payload) in frames {
        out.push(kind);
        out.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        out.extend_from_slice(&payload);
    }
    out
}

impl Framed {
    /// As text, whatever it is.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// As a frame of a socket: text mostly, bytes, or the end.
    pub fn wire(&self) -> Wire {
        match self.kind % 8 {
            0..5 => Wire::Text(self.text()),
            5 | 6 => Wire::Binary(self.payload.clone()),
            _ => Wire::Close(1000 + u16::from(self.payload.first().copied().unwrap_or(0)), self.text()),
        }
    }
}
