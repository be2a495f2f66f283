//! What is measured: latencies by position in the stream, and figures of the process under test.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The largest latency that is told from others, in nanoseconds.
const MOST: u64 = 60_000_000_000;

/// A histogram of times in nanoseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MOST, 3).expect("these bounds are possible")
}

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The largest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// How many.
    pub count: u64,
}

impl From<&Histogram<u64>> for Quantiles {
    fn from(times: &Histogram<u64>) -> Quantiles {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
        Quantiles {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: times.max() as f64 / 1e6,
            mean: times.mean() / 1e6,
            count: times.len(),
        }
    }
}

/// The answer to a GET, behind its head.
///
/// # Errors
/// If nobody answers within two seconds.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(2)))?;
    // HTTP 1.0, so that the answer comes in one piece.
    tcp.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

/// One direction of one call. What is transcoded cannot be known again by its content, so frames are matched by their
/// place: audio is as long as it was, so the frame that ends `n` frames into what arrived is the `n`th that was sent.
#[derive(Debug)]
pub struct Track {
    frame: u64,
    /// When the frames on their way were written, in nanoseconds.
    under_way: VecDeque<u64>,
    /// Ticks that arrived, beyond whole frames.
    part: u64,
    /// Frames written.
    pub sent: u64,
    /// Frames that arrived.
    pub arrived: u64,
    /// Frames that arrived and that nobody had sent.
    pub surplus: u64,
}

impl Track {
    /// A direction whose receiver counts `frame` ticks per frame.
    pub fn new(frame: u64) -> Track {
        Track { frame, under_way: VecDeque::with_capacity(64), part: 0, sent: 0, arrived: 0, surplus: 0 }
    }

    /// A frame is written at `at` nanoseconds.
    pub fn on_sent(&mut self, at: u64) {
        self.sent += 1;
        self.under_way.push_back(at);
    }

    /// Audio of `ticks` was read at `at` nanoseconds; `whole` is told when each frame that it completes was written.
    pub fn on_arrived(&mut self, ticks: u64, at: u64, mut whole: impl FnMut(u64, u64)) {
        self.part += ticks;
        while self.part >= self.frame {
            self.part -= self.frame;
            self.arrived += 1;
            match self.under_way.pop_front() {
                Some(sent) => whole(sent, at.saturating_sub(sent)),
                None => self.surplus += 1,
            }
        }
    }

    /// Frames that were written before `at` nanoseconds and did not arrive.
    pub fn missing(&self, at: u64) -> u64 {
        self.under_way.iter().filter(|&&sent| sent < at).count() as u64
    }
}

/// What `/metrics` says.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    lines: Vec<(String, f64)>,
}

impl Exposition {
    /// Asks for it.
    ///
    /// # Errors
    /// If nobody answers within two seconds.
    pub fn fetch(address: SocketAddr) -> std::io::Result<Exposition> {
        Ok(Exposition::parse(&get(address, "/metrics")?))
    }

    fn parse(text: &str) -> Exposition {
        let line = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Exposition { lines: text.lines().filter(|line| line.starts_with("antiphon_")).filter_map(line).collect() }
    }

    /// The series of a metric whose labels contain all of `labels`.
    fn series<'a>(&'a self, name: &'a str, labels: &'a [&'a str]) -> impl Iterator<Item = (&'a str, f64)> {
        self.lines.iter().filter_map(move |(series, value)| {
            let rest = series.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('{'))?;
            labels.iter().all(|label| rest.contains(label)).then_some((rest, *value))
        })
    }

    /// The sum of all series of a metric.
    pub fn sum(&self, name: &str) -> f64 {
        self.series(name, &[]).map(|(_, value)| value).sum()
    }

    /// The series of a metric that have risen since `before`, and by how much.
    pub fn risen_since(&self, before: &Exposition, name: &str) -> Vec<(String, f64)> {
        let old: BTreeMap<&str, f64> = before.series(name, &[]).collect();
        let rise = |(labels, value): (&str, f64)| (labels.to_owned(), value - old.get(labels).unwrap_or(&0.0));
        self.series(name, &[])
            .map(rise)
            .filter(|(_, rise)| *rise > 0.0)
            .map(|(l, r)| (format!("{name}{l}"), r))
            .collect()
    }

    /// The buckets of a histogram that has grown since `before`.
    pub fn buckets_since(&self, before: &Exposition, name: &str, labels: &[&str]) -> Buckets {
        let name = format!("{name}_bucket");
        let mut counts: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (sign, exposition) in [(1.0, self), (-1.0, before)] {
            for (labels, value) in exposition.series(&name, labels) {
                let Some(bound) = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()) else {
                    continue;
                };
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(f64::INFINITY) };
                counts.entry(bound.to_bits()).or_insert((bound, 0.0)).1 += sign * value;
            }
        }
        Buckets(counts.into_values().collect())
    }
}

/// A Prometheus histogram: upper bounds in seconds and cumulative counts, rising.
#[derive(Clone, Debug, Default)]
pub struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    /// How many values there are.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |&(_, count)| count)
    }

    /// A quantile in milliseconds, interpolated in its bucket as Prometheus does.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.count();
        let mut below = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank && count > 0.0 {
                let bound = if bound.is_finite() { bound } else { below.0 };
                let share = if count > below.1 { (rank - below.1) / (count - below.1) } else { 1.0 };
                return (below.0 + (bound - below.0) * share) * 1000.0;
            }
            below = (bound, count);
        }
        0.0
    }

    /// The number of the bucket that a time in milliseconds falls into.
    fn place(&self, ms: f64) -> usize {
        self.0.iter().position(|&(bound, _)| ms / 1000.0 <= bound).unwrap_or(self.0.len())
    }

    /// Whether two times in milliseconds are within 20 % of each other, or in the same or adjacent buckets.
    pub fn agree(&self, inside: f64, outside: f64) -> bool {
        (inside - outside).abs() <= 0.2 * outside || self.place(inside).abs_diff(self.place(outside)) <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_matched_by_their_place_however_they_are_cut() {
        let mut track = Track::new(480);
        (0..4).for_each(|n| track.on_sent(n * 100));
        let mut seen = Vec::new();
        for (ticks, at) in [(480, 50), (240, 150), (720, 300), (480, 400), (480, 500)] {
            track.on_arrived(ticks, at, |sent, took| seen.push((sent, took)));
        }
        assert_eq!(seen, [(0, 50), (100, 200), (200, 100), (300, 100)]);
        assert_eq!((track.missing(u64::MAX), track.surplus, track.arrived), (0, 1, 5));
    }

    #[test]
    fn a_histogram_is_read_between_two_answers() {
        let text = |counts: [u32; 3]| {
            let [a, b, c] = counts;
            format!(
                "# HELP antiphon_x_seconds x\nantiphon_x_seconds_bucket{{direction=\"up\",le=\"0.001\"}} {a}\n\
                 antiphon_x_seconds_bucket{{direction=\"up\",le=\"0.002\"}} {b}\n\
                 antiphon_x_seconds_bucket{{direction=\"up\",le=\"+Inf\"}} {c}\n\
                 antiphon_x_seconds_bucket{{direction=\"down\",le=\"+Inf\"}} 99\n\
                 antiphon_drops_total{{queue=\"a\"}} {c}\nantiphon_drops_total{{queue=\"b\"}} 1\n"
            )
        };
        let (before, after) = (Exposition::parse(&text([10, 10, 10])), Exposition::parse(&text([60, 110, 110])));
        let buckets = after.buckets_since(&before, "antiphon_x_seconds", &["direction=\"up\""]);
        assert_eq!(buckets.count(), 100.0);
        assert!((buckets.quantile(0.5) - 1.0).abs() < 1e-9 && (buckets.quantile(0.75) - 1.5).abs() < 1e-9);
        assert!(buckets.agree(1.5, 1.7) && buckets.agree(0.2, 1.9) && !buckets.agree(0.2, 2.5));
        assert_eq!(
            after.risen_since(&before, "antiphon_drops_total"),
            [("antiphon_drops_total{queue=\"a\"}".into(), 100.0)]
        );
    }
}
