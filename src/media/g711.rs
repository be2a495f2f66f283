//! G.711 µ-law and A-law at 8 kHz (ITU-T G.711), one byte per sample.
//!
//! Companding follows the reference code of ITU-T G.191: a negative sample is taken as its one's complement.

/// Which of the two laws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// µ-law (PCMU): North America, Japan.
    Mu,
    /// A-law (PCMA): the rest of the world.
    A,
}

static MU_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = mu_to_linear(code as u8);
        code += 1;
    }
    table
};

static A_TO_LINEAR: [i16; 256] = {
    let mut table = [0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = a_to_linear(code as u8);
        code += 1;
    }
    table
};

impl Law {
    /// The 16-bit sample that `code` stands for.
    pub fn expand(self, code: u8) -> i16 {
        match self {
            Law::Mu => MU_TO_LINEAR[usize::from(code)],
            Law::A => A_TO_LINEAR[usize::from(code)],
        }
    }

    /// The code of a 16-bit sample.
    pub fn compress(self, sample: i16) -> u8 {
        match self {
            Law::Mu => linear_to_mu(sample),
            Law::A => linear_to_a(sample),
        }
    }

    /// Appends the samples of `codes` to `pcm`.
    pub fn decode(self, codes: &[u8], pcm: &mut Vec<i16>) {
        match self {
            Law::Mu => pcm.extend(codes.iter().map(|&code| MU_TO_LINEAR[usize::from(code)])),
            Law::A => pcm.extend(codes.iter().map(|&code| A_TO_LINEAR[usize::from(code)])),
        }
    }

    /// Writes the codes of `pcm` to `codes`, which is as long.
    pub fn encode(self, pcm: &[i16], codes: &mut [u8]) {
        match self {
            Law::Mu => codes.iter_mut().zip(pcm).for_each(|(code, &sample)| *code = linear_to_mu(sample)),
            Law::A => codes.iter_mut().zip(pcm).for_each(|(code, &sample)| *code = linear_to_a(sample)),
        }
    }
}

const fn mu_to_linear(code: u8) -> i16 {
    let inverted = !code;
    let exponent = inverted >> 4 & 7;
    let step = 8i32 << exponent;
    let magnitude = (0x80 << exponent) + step * (inverted & 0xf) as i32 + step / 2 - 4 * 33;
    (if code < 0x80 { -magnitude } else { magnitude }) as i16
}

const fn a_to_linear(code: u8) -> i16 {
    let folded = code ^ 0x55;
    let exponent = folded >> 4 & 7;
    let mantissa = (folded & 0xf) as i32;
    let magnitude = if exponent == 0 { (mantissa << 4) + 8 } else { (((mantissa + 16) << 4) + 8) << (exponent - 1) };
    (if code < 0x80 { -magnitude } else { magnitude }) as i16
}

fn linear_to_mu(sample: i16) -> u8 {
    let folded = if sample < 0 { !sample } else { sample };
    let magnitude = ((folded >> 2) + 33).min(0x1fff) as u16;
    let segment = 11 - (magnitude | 0x3f).leading_zeros();
    let segment = segment.max(1);
    let low = 0xf - (magnitude >> segment & 0xf) as u8;
    let sign = if sample < 0 { 0 } else { 0x80 };
    sign | ((8 - segment) as u8) << 4 | low
}

fn linear_to_a(sample: i16) -> u8 {
    let magnitude = (if sample < 0 { !sample } else { sample }) as u16 >> 4;
    let code = if magnitude < 16 {
        magnitude as u8
    } else {
        let exponent = 12 - magnitude.leading_zeros();
        (exponent as u8) << 4 | (magnitude >> (exponent - 1) & 0xf) as u8
    };
    let sign = if sample < 0 { 0 } else { 0x80 };
    (code | sign) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loops of ITU-T G.191 `ulaw_compress` and `alaw_compress`, as published.
    fn reference(law: Law, sample: i16) -> u8 {
        let folded = i32::from(if sample < 0 { !sample } else { sample });
        match law {
            Law::Mu => {
                let magnitude = ((folded >> 2) + 33).min(0x1fff);
                let mut rest = magnitude >> 6;
                let mut segment = 1;
                while rest != 0 {
                    segment += 1;
                    rest >>= 1;
                }
                let code = (8 - segment) << 4 | (0xf - (magnitude >> segment & 0xf));
                (if sample >= 0 { code | 0x80 } else { code }) as u8
            }
            Law::A => {
                let mut code = folded >> 4;
                if code > 15 {
                    let mut exponent = 1;
                    while code > 16 + 15 {
                        code >>= 1;
                        exponent += 1;
                    }
                    code = code - 16 + (exponent << 4);
                }
                ((if sample >= 0 { code | 0x80 } else { code }) ^ 0x55) as u8
            }
        }
    }

    #[test]
    fn every_sample_is_coded_as_by_the_reference_code() {
        for sample in i16::MIN..=i16::MAX {
            for law in [Law::Mu, Law::A] {
                assert_eq!(law.compress(sample), reference(law, sample), "{law:?} {sample}");
            }
        }
    }

    #[test]
    fn decision_values_are_those_of_the_itu_tables() {
        // Table 2a/G.711 (µ-law, 14 bit) and table 1a/G.711 (A-law, 13 bit), scaled to 16 bit.
        for (code, sample) in [
            (0x80, 32_124),
            (0x8f, 16_764),
            (0x9f, 8_316),
            (0xaf, 4_092),
            (0xbf, 1_980),
            (0xcf, 924),
            (0xdf, 396),
            (0xef, 132),
            (0xfe, 8),
            (0xff, 0),
            (0x00, -32_124),
        ] {
            assert_eq!(Law::Mu.expand(code), sample, "µ-law {code:#04x}");
        }
        for (code, sample) in [
            (0xaa, 32_256),
            (0xa5, 16_896),
            (0xb5, 8_448),
            (0x85, 4_224),
            (0x95, 2_112),
            (0xe5, 1_056),
            (0xf5, 528),
            (0xd5, 8),
            (0x55, -8),
            (0x2a, -32_256),
        ] {
            assert_eq!(Law::A.expand(code), sample, "A-law {code:#04x}");
        }
    }

    #[test]
    fn codes_survive_a_round_trip() {
        for law in [Law::Mu, Law::A] {
            for code in 0..=255 {
                let back = law.compress(law.expand(code));
                // µ-law has two zeros; the negative one comes back as the positive.
                let same = back == code || (law == Law::Mu && code == 0x7f && back == 0xff);
                assert!(same, "{law:?} {code:#04x} came back as {back:#04x}");
            }
        }
    }

    #[test]
    fn a_frame_is_coded_sample_by_sample() {
        let pcm: Vec<i16> = (-80..80).map(|i| i * 400).collect();
        let mut codes = vec![0; pcm.len()];
        let mut back = Vec::new();
        Law::A.encode(&pcm, &mut codes);
        Law::A.decode(&codes, &mut back);
        for (a, b) in pcm.iter().zip(&back) {
            assert!((i32::from(*a) - i32::from(*b)).abs() <= 512, "{a} {b}");
        }
    }
}
