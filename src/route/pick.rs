//! Percent and weights: the same caller gets the same answer on every node and after every restart.
//!
//! A point in `[0, 1)` is made from `route name, purpose, sticky value`, each followed by a zero byte: 64-bit FNV-1a,
//! then the finaliser of MurmurHash3 (FNV alone mixes its high bits badly), then the upper 53 bits as a fraction. The
//! purpose (`percent`, `to`, `tap.N`) keeps the three decisions independent; the route name keeps routes independent.
//! Growing a percentage keeps those who were in.

use crate::route::rule::Choice;

/// The caller's point in `[0, 1)` for one decision of one route.
pub fn point(route: &str, purpose: &str, sticky: &str) -> f64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in [route, purpose, sticky] {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// Whether a point falls into the first `percent` of a hundred.
pub fn within(point: f64, percent: f64) -> bool {
    point * 100.0 < percent
}

/// The index of the entry that a point falls on, entries laid end to end in proportion to their weights. Entries of
/// weight 0 are never chosen; if all are 0, the first is.
pub fn weighted(point: f64, choices: &[Choice]) -> usize {
    let total: u64 = choices.iter().map(|choice| u64::from(choice.weight)).sum();
    let mut rest = (point * total as f64) as u64;
    for (index, choice) in choices.iter().enumerate() {
        let weight = u64::from(choice.weight);
        if rest < weight {
            return index;
        }
        rest -= weight;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(weights: &[u32]) -> Vec<Choice> {
        weights.iter().map(|&weight| Choice { agent: "a".into(), weight, label: None }).collect()
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        // Frozen: a change would move every caller of every A/B test to another arm.
        assert_eq!(point("jung", "to", "user-1"), FROZEN[0]);
        assert_eq!(point("jung", "percent", "user-1"), FROZEN[1]);
        assert_eq!(point("", "", ""), FROZEN[2]);
    }

    /// Computed by another program from the words of the module's documentation.
    const FROZEN: [f64; 3] = [0.13346837393234579, 0.8917355651361065, 0.4209780517089693];

    #[test]
    fn weights_hold_within_one_percent_over_100k_keys() {
        for weights in [&[9, 1][..], &[1, 1, 1], &[50, 30, 20], &[0, 5, 0, 5], &[1]] {
            let choices = choices(weights);
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for key in 0..100_000 {
                counts[weighted(point("r", "to", &format!("user-{key}")), &choices)] += 1;
            }
            for (count, weight) in counts.iter().zip(weights) {
                let (got, want) = (f64::from(*count) / 1e5, f64::from(*weight) / f64::from(total));
                assert!((got - want).abs() < 0.01, "{weights:?}: {got} instead of {want}");
                assert!(*weight > 0 || *count == 0);
            }
        }
    }

    #[test]
    fn a_percentage_takes_its_share_and_growing_it_keeps_those_who_were_in() {
        let points: Vec<f64> = (0..100_000).map(|key| point("r", "percent", &key.to_string())).collect();
        for percent in [0.0, 0.5, 10.0, 50.0, 99.5, 100.0] {
            let got = points.iter().filter(|p| within(**p, percent)).count() as f64 / 1000.0;
            assert!((got - percent).abs() < 1.0, "{got} instead of {percent}");
        }
        assert!(points.iter().all(|p| !within(*p, 10.0) || within(*p, 20.0)));
        assert!(points.iter().all(|p| within(*p, 100.0) && !within(*p, 0.0)));
    }

    #[test]
    fn percent_and_weights_are_independent_of_each_other() {
        let choices = choices(&[1, 1]);
        let (mut inside, mut first) = (0u32, 0u32);
        for key in 0..100_000 {
            let key = key.to_string();
            if within(point("r", "percent", &key), 10.0) {
                inside += 1;
                first += u32::from(weighted(point("r", "to", &key), &choices) == 0);
            }
        }
        assert!((f64::from(first) / f64::from(inside) - 0.5).abs() < 0.02);
    }

    #[test]
    fn all_weights_zero_still_answers() {
        assert_eq!(weighted(0.99, &choices(&[0, 0])), 0);
    }
}
