//! Linear PCM: 16-bit little-endian bytes and samples.

/// Appends the samples of interleaved `bytes` to `pcm`, as mono: two channels are averaged. `bytes` is a whole number
/// of samples of all channels; what is left over is ignored.
pub fn decode(bytes: &[u8], channels: u8, pcm: &mut Vec<i16>) {
    match channels {
        2 => pcm.extend(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&[a, b, c, d]| downmix(i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d]))),
        ),
        _ => pcm.extend(bytes.as_chunks::<2>().0.iter().map(|&sample| i16::from_le_bytes(sample))),
    }
}

/// Writes mono samples to interleaved `bytes`, which hold `2 * channels` bytes for each; both channels get the same.
pub fn encode(pcm: &[i16], channels: u8, bytes: &mut [u8]) {
    match channels {
        2 => {
            for (both, sample) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(pcm) {
                let [low, high] = sample.to_le_bytes();
                *both = [low, high, low, high];
            }
        }
        _ => {
            for (slot, sample) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(pcm) {
                *slot = sample.to_le_bytes();
            }
        }
    }
}

/// The mean of two channels; the sum of two full-scale samples does not overflow.
pub fn downmix(left: i16, right: i16) -> i16 {
    ((i32::from(left) + i32::from(right)) >> 1) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_samples_are_little_endian() {
        let mut pcm = Vec::new();
        decode(&[0x34, 0x12, 0x00, 0x80], 1, &mut pcm);
        assert_eq!(pcm, [0x1234, i16::MIN]);
        let mut bytes = [0; 4];
        encode(&pcm, 1, &mut bytes);
        assert_eq!(bytes, [0x34, 0x12, 0x00, 0x80]);
    }

    #[test]
    fn two_channels_become_their_mean_without_overflow() {
        let mut pcm = Vec::new();
        decode(&[0xff, 0x7f, 0xff, 0x7f, 0x00, 0x80, 0x00, 0x80, 100, 0, 50, 0], 2, &mut pcm);
        assert_eq!(pcm, [i16::MAX, i16::MIN, 75]);
        let mut bytes = [0; 4];
        encode(&[75], 2, &mut bytes);
        assert_eq!(bytes, [75, 0, 75, 0]);
    }
}
