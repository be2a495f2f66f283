//! A seeded network: delay, jitter, loss, reordering, duplication.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Micros;

/// A small seeded generator (splitmix64): the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// True with a probability of `percent`.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What a network does to what crosses it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impairment {
    /// One-way delay.
    pub delay: Duration,
    /// Added at random, up to this.
    pub jitter: Duration,
    /// Lost, in percent.
    pub loss: u64,
    /// Delivered twice, in percent.
    pub duplication: u64,
    /// In order and without loss, like TCP.
    pub ordered: bool,
}

/// One direction of a network with things of type `T` under way.
#[derive(Debug)]
pub struct Network<T> {
    impairment: Impairment,
    rng: Rng,
    under_way: BTreeMap<(Micros, u64), T>,
    sent: u64,
    last: Micros,
    /// Nothing arrives before this instant.
    pub held_until: Micros,
}

impl<T: Clone> Network<T> {
    /// A network with nothing under way.
    pub fn new(impairment: Impairment, seed: u64) -> Network<T> {
        Network {
            impairment,
            rng: Rng::new(seed),
            under_way: BTreeMap::new(),
            sent: 0,
            last: Micros::ZERO,
            held_until: Micros::ZERO,
        }
    }

    /// Puts something on its way.
    pub fn send(&mut self, thing: T, now: Micros) {
        let copies = if self.impairment.ordered {
            1
        } else if self.rng.percent(self.impairment.loss) {
            0
        } else {
            1 + u64::from(self.rng.percent(self.impairment.duplication))
        };
        for _ in 0..copies {
            let jitter = self.impairment.jitter.as_micros() as u64;
            let jitter = if jitter == 0 { 0 } else { self.rng.below(jitter) };
            let mut at = now + self.impairment.delay + Duration::from_micros(jitter);
            if self.impairment.ordered {
                at = at.max(self.last);
                self.last = at;
            }
            self.sent += 1;
            self.under_way.insert((at, self.sent), thing.clone());
        }
    }

    /// When the next thing arrives.
    pub fn next_arrival(&self) -> Option<Micros> {
        self.under_way.keys().next().map(|(at, _)| (*at).max(self.held_until))
    }

    /// What has arrived by `now`.
    pub fn receive(&mut self, now: Micros) -> Option<T> {
        if self.next_arrival()? > now {
            return None;
        }
        self.under_way.pop_first().map(|(_, thing)| thing)
    }

    /// Loses everything that is under way.
    pub fn cut(&mut self) {
        self.under_way.clear();
    }
}
