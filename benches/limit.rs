//! What a limit's decision costs with a million keys, beside `governor` in the same run. Ends with 1 if a decision of a
//! session, which holds its cell, is slower than one of `governor`, which looks its cell up. Rows without a bar show what
//! that look-up costs here, once for each session, alone and with the decisions of a moment: a cell is held by whoever is
//! counted in it, so it lies one step further away than what `governor` keeps in its table. And they show what a limiter
//! costs that nobody has to look up or shares.
#![allow(missing_docs, reason = "a program, not a library")]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon::config::settings::{LimitKey, LimitSettings, LimitUnit, OnReach, Settings};
use antiphon::limit::{Entry, Key, Level, Limit, Limiter, Limits, Meter};
use antiphon::time::Micros;
use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};

const KEYS: usize = 1_000_000;
/// Decisions of a round, over all threads.
const DECISIONS: usize = 400_000;
const ROUNDS: usize = 9;
const THREADS: [usize; 3] = [1, 2, 8];
/// Decisions of a call that are measured with its look-up: a fifth of a second of audio.
const OF_A_CALL: usize = 10;
/// Of a ratio's median over the rounds: what noise may make of an equal.
const NOISE: f64 = 1.05;
/// How often everything is measured anew when a bar is missed.
const REPEATS: usize = 3;

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What `make` adds to the resident memory for each key, and what it makes.
fn weigh<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let before = resident();
    let made = make();
    (made, resident().saturating_sub(before) / KEYS)
}

fn key(index: usize) -> Key {
    Key::of("bench", [("user", &index.to_le_bytes()[..])])
}

/// Keys in an order that no cache guesses.
fn order() -> Vec<u32> {
    let mut order: Vec<u32> = (0..KEYS as u32).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for last in (1..KEYS).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(last, (state % (last as u64 + 1)) as usize);
    }
    order
}

/// Nanoseconds of the machine for each decision: threads beyond its cores cost nothing more.
fn measure(threads: usize, round: usize, order: &[u32], decide: &(dyn Fn(usize) -> bool + Sync)) -> f64 {
    let each = DECISIONS / threads;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let from = (round * DECISIONS + thread * each) % KEYS;
                for index in from..from + each {
                    black_box(decide(order[index % KEYS] as usize));
                }
            });
        }
    });
    begun.elapsed().as_nanos() as f64 / (each * threads) as f64
}

struct Case<'a> {
    name: &'static str,
    /// The number of the case that it is measured against.
    against: usize,
    /// Whether it may not be slower.
    bar: bool,
    decide: Box<dyn Fn(usize) -> bool + Sync + 'a>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints all cases; whether none is slower than what it is measured against.
fn run(cases: &[Case<'_>], order: &[u32]) -> bool {
    let mut good = true;
    for threads in THREADS {
        let mut times = vec![Vec::new(); cases.len()];
        for round in 0..ROUNDS {
            for (case, times) in cases.iter().zip(&mut times) {
                times.push(measure(threads, round, order, &*case.decide));
            }
        }
        for (index, case) in cases.iter().enumerate() {
            let ratios = times[index].iter().zip(&times[case.against]).map(|(own, other)| own / other).collect();
            let (ns, ratio) = (median(times[index].clone()), median(ratios));
            let slower = case.bar && ratio > NOISE;
            good &= !slower;
            let mark = if slower { "  SLOWER" } else { "" };
            println!("{threads:>2} threads  {:<54} {ns:>7.1} ns  {ratio:>5.2}{mark}", case.name);
        }
    }
    good
}

fn limits() -> (Limiter, Arc<Limit>) {
    let limit = LimitSettings {
        key: vec![LimitKey::User],
        unit: LimitUnit::Messages,
        amount: 1e9,
        per: Some(Duration::from_secs(60)),
        burst: None,
        block: Duration::ZERO,
        prefixes: (32, 64),
        warn_at: None,
        on_reach: OnReach::default(),
    };
    let mut settings = Settings::default();
    settings.limits.insert("bench".into(), limit);
    let limit = Limits::new(&settings, None).all().next().unwrap().clone();
    (Limiter::new(2 * KEYS), limit)
}

fn main() -> ExitCode {
    let now = Micros::from_millis(1_000_000);
    let order = order();
    let quota = Quota::per_minute(NonZeroU32::new(1_000_000_000).unwrap());
    let clock = FakeRelativeClock::default();

    let keys: Vec<Key> = (0..KEYS).map(key).collect();
    let (limiter, limit) = limits();
    let (meters, cell) = weigh(|| keys.iter().map(|key| limiter.meter(&limit, *key, now)).collect::<Vec<Meter>>());
    let handle = std::mem::size_of::<Meter>();
    let (keyed, keyed_cell) = weigh(|| {
        let keyed = RateLimiter::dashmap_with_clock(quota, clock.clone());
        keys.iter().for_each(|key| drop(keyed.check_key(key)));
        keyed
    });
    let direct: Vec<_> = (0..KEYS).map(|_| RateLimiter::direct_with_clock(quota, clock.clone())).collect();
    let (leased, _) = limits();
    leased.shared.regime.set(true, 3, now);
    let leased_meters: Vec<Meter> = keys.iter().map(|key| leased.meter(&limit, *key, now)).collect();
    for meter in &leased_meters {
        let level = Level { debt: 0, lease: u64::MAX / 4, term: Duration::from_secs(3600), blocked: Duration::ZERO };
        meter.bucket.settle(level, now);
        // In a session the queue of reports is emptied; here one waits all the time.
        meter.bucket.want_report();
    }

    println!("{KEYS} keys; ns are of the whole machine, ratios against governor in the same run");
    println!(
        "memory for each key: {} bytes, and {handle} in each session that holds it; governor {keyed_cell}",
        cell - handle
    );
    let cases = [
        Case {
            name: "governor, by key",
            against: 0,
            bar: false,
            decide: Box::new(|index| keyed.check_key(&keys[index]).is_ok()),
        },
        Case {
            name: "antiphon, a cell at hand (as in a session)",
            against: 0,
            bar: true,
            decide: Box::new(|index| meters[index].take(1.0, now).is_ok()),
        },
        Case {
            name: "antiphon, the same on a lease",
            against: 0,
            bar: true,
            decide: Box::new(|index| leased_meters[index].take(1.0, now).is_ok()),
        },
        Case {
            name: "antiphon, looked up and decided (as at admission)",
            against: 0,
            bar: false,
            decide: Box::new(|index| limiter.meter(&limit, keys[index], now).take(1.0, now).is_ok()),
        },
        Case {
            name: "governor, a limiter of its own for each",
            against: 0,
            bar: false,
            decide: Box::new(|index| direct[index].check().is_ok()),
        },
        Case {
            name: "governor, ten in a row by the same key",
            against: 5,
            bar: false,
            decide: Box::new(|index| (0..OF_A_CALL).all(|_| keyed.check_key(&keys[index]).is_ok())),
        },
        Case {
            name: "antiphon, looked up once for ten (as in a call)",
            against: 5,
            bar: false,
            decide: Box::new(|index| {
                let meter = limiter.meter(&limit, keys[index], now);
                (0..OF_A_CALL).all(|_| meter.take(1.0, now).is_ok())
            }),
        },
    ];
    let good = (0..REPEATS).any(|repeat| {
        if repeat > 0 {
            println!("a bar was missed; once more");
        }
        run(&cases, &order)
    });
    assert!(meters[0].bucket.key() == keys[0], "cells are found by their key");
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
