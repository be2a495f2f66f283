//! Measures the round trip of each frame through an echo.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::message::Percentiles;
use crate::time::Micros;

/// Frames that may be under way: 20 s of 20 ms frames, many times the longest echo.
const UNDER_WAY: usize = 1000;
/// Round trips are recorded up to a minute, in µs.
const LONGEST: u64 = 60_000_000;

/// Matches the frames that come back with those sent: by content, since an echo passes frames through untouched, else
/// by order.
#[derive(Debug)]
pub struct EchoMeter {
    delay: Duration,
    under_way: VecDeque<(Micros, Bytes)>,
    round_trips: Histogram<u64>,
    returned: u64,
    altered: u64,
    lost: u64,
}

impl EchoMeter {
    /// A meter for an echo that announced to be `delay` late.
    pub fn new(delay: Duration) -> EchoMeter {
        let round_trips = Histogram::new_with_bounds(1, LONGEST, 3).unwrap_or_else(|_| unreachable!("constant bounds"));
        EchoMeter { delay, under_way: VecDeque::new(), round_trips, returned: 0, altered: 0, lost: 0 }
    }

    /// A frame goes out.
    pub fn on_sent(&mut self, payload: Bytes, now: Micros) {
        if self.under_way.len() == UNDER_WAY {
            self.under_way.pop_front();
            self.lost += 1;
        }
        self.under_way.push_back((now, payload));
    }

    /// A frame came back by RTP: there the relay ends what it says with silence of its own, which is no echo.
    pub fn on_heard_rtp(&mut self, payload: &[u8], now: Micros) {
        if self.under_way.iter().any(|(_, sent)| sent == payload) {
            self.on_heard(payload, now);
        }
    }

    /// A frame came back.
    pub fn on_heard(&mut self, payload: &[u8], now: Micros) {
        let same = self.under_way.iter().position(|(_, sent)| sent == payload);
        self.altered += u64::from(same.is_none());
        let skipped = same.unwrap_or(0);
        self.under_way.drain(..skipped);
        self.lost += skipped as u64;
        let Some((sent, _)) = self.under_way.pop_front() else { return };
        self.returned += 1;
        let round_trip = now.since(sent).saturating_sub(self.delay).as_micros() as u64;
        self.round_trips.saturating_record(round_trip.max(1));
    }

    /// Whether all that was sent came back.
    pub fn is_complete(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Frames that came back, and of these, those that came back changed.
    pub fn returned(&self) -> (u64, u64) {
        (self.returned, self.altered.min(self.returned))
    }

    /// Frames that did not come back, those under way included.
    pub fn missing(&self) -> u64 {
        self.lost + self.under_way.len() as u64
    }

    /// Round trip less the announced delay, in ms; `None` if nothing came back.
    pub fn round_trip_ms(&self) -> Option<Percentiles> {
        let at = |quantile| self.round_trips.value_at_quantile(quantile) as f64 / 1000.0;
        (!self.round_trips.is_empty()).then(|| Percentiles { p50: at(0.5), p99: at(0.99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: u8) -> Bytes {
        Bytes::from(vec![n; 4])
    }

    #[test]
    fn the_announced_delay_is_no_part_of_the_round_trip() {
        let mut meter = EchoMeter::new(Duration::from_secs(1));
        for n in 0..10 {
            meter.on_sent(frame(n), Micros::from_millis(u64::from(n) * 20));
        }
        for n in 0..10 {
            meter.on_heard(&frame(n), Micros::from_millis(u64::from(n) * 20 + 1002));
        }
        let found = meter.round_trip_ms().expect("frames came back");
        assert!((found.p50 - 2.0).abs() < 0.01 && (found.p99 - 2.0).abs() < 0.01, "{found:?}");
        assert!(meter.is_complete());
        assert_eq!((meter.returned(), meter.missing()), ((10, 0), 0));
    }

    #[test]
    fn a_lost_frame_does_not_shift_the_others() {
        let mut meter = EchoMeter::new(Duration::ZERO);
        for n in 0..4 {
            meter.on_sent(frame(n), Micros::from_millis(u64::from(n) * 20));
        }
        for n in [0, 2] {
            meter.on_heard(&frame(n), Micros::from_millis(u64::from(n) * 20 + 5));
        }
        assert_eq!((meter.returned(), meter.missing()), ((2, 0), 2));
        assert!(meter.round_trip_ms().is_some_and(|found| (found.p99 - 5.0).abs() < 0.01));
        assert!(!meter.is_complete());
    }

    #[test]
    fn silence_that_the_relay_adds_is_no_echo() {
        let mut meter = EchoMeter::new(Duration::ZERO);
        meter.on_sent(frame(1), Micros::ZERO);
        meter.on_heard_rtp(&frame(0), Micros::from_millis(1));
        meter.on_heard_rtp(&frame(1), Micros::from_millis(2));
        assert_eq!((meter.returned(), meter.missing()), ((1, 0), 0));
        assert!(meter.round_trip_ms().is_some_and(|found| (found.p50 - 2.0).abs() < 0.01));
    }

    #[test]
    fn an_echo_that_changes_the_audio_is_matched_by_order_and_told() {
        let mut meter = EchoMeter::new(Duration::ZERO);
        meter.on_sent(frame(1), Micros::ZERO);
        meter.on_heard(&frame(9), Micros::from_millis(3));
        assert_eq!((meter.returned(), meter.missing()), ((1, 1), 0));
    }
}
