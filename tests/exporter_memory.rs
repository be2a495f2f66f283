//! The exporter's memory under samples that nobody scrapes. Alone in its process, because it reads the resident size.

use std::time::{Duration, Instant};

use antiphon::session::{Direction, Transport};
use antiphon::telemetry::{Path, SessionLabels, Telemetry};

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn ten_million_unscraped_samples_leave_the_resident_size_flat() {
    const BATCH: u64 = 100_000;
    let telemetry = Telemetry::new();
    let session = telemetry.session(SessionLabels {
        transport: Transport::Websocket,
        route: "default".into(),
        agent: "echo".into(),
        label: None,
    });
    let record = |samples: u64| {
        for sample in 0..samples {
            session.record_added(Direction::Up, Path::Transcode, Duration::from_nanos(sample % 20_000_000));
        }
    };
    // Warm up: what the exporter needs for one batch stays allocated.
    for _ in 0..10 {
        record(BATCH);
        telemetry.upkeep();
    }
    let (before, began) = (resident_bytes(), Instant::now());
    for _ in 0..100 {
        record(BATCH);
        telemetry.upkeep();
    }
    let (after, took) = (resident_bytes(), began.elapsed());
    let grown = after.saturating_sub(before);
    println!("10 million samples in {took:.2?}: resident {before} to {after} bytes");
    assert!(grown < 2 << 20, "grew by {grown} bytes");
    let text = telemetry.render();
    let counted = text
        .lines()
        .filter(|line| line.starts_with("antiphon_added_latency_seconds_count{direction=\"up\""))
        .find_map(|line| line.split_once("path=\"transcode\"} ")?.1.parse().ok());
    assert_eq!(counted, Some(11_000_000_u64), "each sample is counted once");

    // The same without upkeep does grow: the measurement can tell.
    let before = resident_bytes();
    record(2_000_000);
    let unkept = resident_bytes().saturating_sub(before);
    assert!(unkept > 8 << 20, "without upkeep it grew by {unkept} bytes only");
}
