//! Limits in virtual time.

use std::sync::Arc;
use std::time::Duration;

use super::bucket::Denied;
use super::*;
use crate::config::settings::{LimitKey, LimitSettings, LimitUnit, OnReach, Settings};
use crate::time::Micros;

const SECOND: Duration = Duration::from_secs(1);

fn settings(unit: LimitUnit, amount: f64, per: Option<Duration>) -> LimitSettings {
    LimitSettings {
        key: vec![LimitKey::User],
        unit,
        amount,
        per,
        burst: None,
        block: Duration::ZERO,
        prefixes: (32, 64),
        warn_at: None,
        on_reach: OnReach::default(),
    }
}

/// The limits of a configuration with one set, `set`, of these.
fn limits(declared: &[(&str, LimitSettings)]) -> Limits {
    let mut settings = Settings::default();
    for (name, limit) in declared {
        settings.limits.insert((*name).to_owned(), limit.clone());
    }
    let names = declared.iter().map(|(name, _)| (*name).to_owned()).collect();
    settings.limit_sets.insert("set".to_owned(), names);
    Limits::new(&settings, None)
}

fn subject(user: &str) -> Subject<'_> {
    Subject { user: Some(user), tenant: None, address: Address::V4(1), route: "r", agent: "a" }
}

fn ask(limits: &Limits, limiter: &Limiter, user: &str, now: Micros) -> Ask {
    limits.of(&["set".to_owned()], &subject(user), limiter, now)
}

/// Milliseconds after a start that is not the origin of the clock.
fn at(ms: u64) -> Micros {
    Micros::from_millis(10_000_000 + ms)
}

#[test]
fn a_rate_lets_exactly_its_burst_and_its_rate_through() {
    let limit =
        LimitSettings { burst: Some(100.0), ..settings(LimitUnit::Messages, 1000.0, Some(Duration::from_secs(60))) };
    let (limits, limiter) = (limits(&[("m", limit)]), Limiter::new(1000));
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    let taken = (0..600_000u64).step_by(20).filter(|ms| meters.take_message(at(*ms)).is_ok()).count();
    assert!((10_099..=10_100).contains(&taken), "{taken}");
    let other = ask(&limits, &limiter, "bob", at(0)).meters;
    assert!(other.take_message(at(600_000)).is_ok(), "each user has a cell of his own");
}

#[test]
fn a_refusal_says_when_it_may_be_tried_again_and_then_it_works() {
    let (limits, limiter) = (limits(&[("m", settings(LimitUnit::Messages, 2.0, Some(10 * SECOND)))]), Limiter::new(9));
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    meters.take_message(at(0)).unwrap();
    meters.take_message(at(0)).unwrap();
    let refusal = meters.take_message(at(1000)).unwrap_err();
    assert_eq!(refusal.retry_after, 4 * SECOND);
    assert_eq!(refusal.to_string(), "the limit `m` of 2 messages in 10 s is reached");
    assert!(meters.take_message(at(4999)).is_err());
    meters.take_message(at(5000)).unwrap();
    assert_eq!(refusal.limit.counters.refused.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn a_blocked_caller_waits_the_whole_block_and_not_longer() {
    let limit = LimitSettings { block: 30 * SECOND, ..settings(LimitUnit::AudioFrames, 600.0, Some(60 * SECOND)) };
    let (limits, limiter) = (limits(&[("chunks", limit)]), Limiter::new(9));
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    let frame = Duration::from_millis(20);
    let let_in = (0..700).filter(|_| meters.take_audio(frame, at(0)).is_ok()).count();
    assert_eq!(let_in, 600);
    assert_eq!(meters.take_audio(frame, at(10_000)).unwrap_err().retry_after, 20 * SECOND);
    assert!(meters.take_audio(frame, at(29_999)).is_err());
    assert!(meters.take_audio(frame, at(30_000)).is_ok());
}

#[test]
fn what_one_limit_refuses_is_not_taken_from_the_others() {
    let frames = settings(LimitUnit::AudioFrames, 10.0, Some(1000 * SECOND));
    let seconds = settings(LimitUnit::AudioSeconds, 0.1, Some(1000 * SECOND));
    let (limits, limiter) = (limits(&[("f", frames), ("s", seconds)]), Limiter::new(9));
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    for _ in 0..5 {
        meters.take_audio(Duration::from_millis(20), at(0)).unwrap();
    }
    let refusal = meters.take_audio(Duration::from_millis(20), at(0)).unwrap_err();
    assert_eq!(&*refusal.limit.name, "s");
    assert!((meters.frames[0].left(at(0)) - 5.0).abs() < 1e-6, "{}", meters.frames[0].left(at(0)));
}

#[test]
fn a_grant_that_is_dropped_gives_everything_back() {
    let mut sessions = settings(LimitUnit::Sessions, 1.0, None);
    sessions.key = vec![LimitKey::Tenant];
    let links = settings(LimitUnit::Connections, 2.0, None);
    let rate = settings(LimitUnit::Connections, 3.0, Some(3600 * SECOND));
    let limits = limits(&[("s", sessions), ("l", links), ("r", rate)]);
    let limiter = Limiter::new(9);
    let first = ask(&limits, &limiter, "ann", at(0)).take(true, at(0)).unwrap();
    assert_eq!(first.seats(), 2);
    let second = ask(&limits, &limiter, "ann", at(0));
    let refusal = second.take(true, at(0)).unwrap_err();
    assert_eq!(refusal.to_string(), "the limit `s` of 1 sessions at once is reached");
    assert_eq!(limiter.take_report().map(|_| ()), None, "there is nobody to tell");
    drop(first);
    let _again = second.take(true, at(0)).unwrap();
    assert!((second.links.rates()[0].left(at(0)) - 1.0).abs() < 1e-6, "the refused one was given back");
}

#[test]
fn a_budget_warns_once_and_says_when_it_is_used_up() {
    let budget = LimitSettings { warn_at: Some(0.8), ..settings(LimitUnit::Cost, 10.0, Some(86_400 * SECOND)) };
    let (limits, limiter) = (limits(&[("money", budget)]), Limiter::new(9));
    let asked = ask(&limits, &limiter, "ann", at(0));
    let meters = &asked.meters;
    assert!(meters.spend(7.9, at(0)).warned.is_none());
    let warned = meters.spend(0.2, at(0)).warned.unwrap();
    assert!((warned.used - 0.81).abs() < 1e-6, "{}", warned.used);
    let spending = meters.spend(5.0, at(0));
    assert!(spending.warned.is_none());
    assert_eq!(spending.reached.unwrap().1, OnReach::EndAtTurn);
    let refusal = asked.take(true, at(0)).unwrap_err();
    // 3.1 too much: that is earned in 7.44 hours.
    assert!((refusal.retry_after.as_secs_f64() - 3.1 / 10.0 * 86_400.0).abs() < 1.0, "{refusal:?}");
    assert!(asked.take(true, at(refusal.retry_after.as_millis() as u64 + 1)).is_ok());
}

#[test]
fn callers_without_a_user_are_counted_by_their_network() {
    let key = |user, address| {
        Subject { user, address, ..subject("x") }.key("l", &[LimitKey::User, LimitKey::Route], (24, 64))
    };
    let here = key(None, Address::V4(0x0A00_0001));
    assert_eq!(here, key(None, Address::V4(0x0A00_00FF)));
    assert_ne!(here, key(None, Address::V4(0x0A00_0101)));
    assert_ne!(here, key(Some("ann"), Address::V4(0x0A00_0001)));
    assert_eq!(key(Some("ann"), Address::V4(1)), key(Some("ann"), Address::V6(1)));
    let v6 = 0x2001_0db8_0000_0001_u128 << 64;
    assert_eq!(key(None, Address::V6(v6 | 1)), key(None, Address::V6(v6 | 2)));
    assert_ne!(Key::of("ab", [("user", &b"c"[..])]), Key::of("a", [("userb", &b"c"[..])]));
}

#[test]
fn the_table_keeps_to_its_bound_and_gives_up_what_says_nothing_first() {
    let table: Table<Bucket> = Table::new(1024);
    let rate = Rate::new(10.0, 10 * SECOND, 10.0);
    let key = |n: u64| Key::of("t", [("user", &n.to_le_bytes()[..])]);
    let held = table.find(key(0), at(0));
    held.take(&rate, Rule::Alone, rate.cost(5.0), at(0)).unwrap();
    for n in 1..20_000 {
        drop(table.find(key(n), at(0)));
    }
    assert!(table.len() <= 1024 + 1, "{}", table.len());
    assert_eq!(table.evicted(), 0, "all of them said nothing");
    assert!(Arc::ptr_eq(&held, &table.find(key(0), at(0))), "what is held stays");
    for n in 20_000..40_000 {
        table.find(key(n), at(0)).take(&rate, Rule::Alone, rate.unit(), at(0)).unwrap();
    }
    assert!(table.evicted() > 0);
    assert!(Arc::ptr_eq(&held, &table.find(key(0), at(0))));
    (0..table.shards()).for_each(|shard| table.tidy(shard, at(3_600_000)));
    assert_eq!(table.len(), 1);
}

// ------------------------------------------------------------------------------------------------------- leases

fn lease(rate: &Rate, units: f64) -> Level {
    Level { debt: 0, lease: rate.cost(units), term: SECOND, blocked: Duration::ZERO }
}

#[test]
fn a_lease_is_at_most_a_twentieth_unless_the_limit_is_small() {
    let units = |amount, burst| {
        let rate = Rate::new(amount, 60 * SECOND, burst);
        (rate.units(rate.lease()) * 1e6).round() / 1e6
    };
    assert_eq!(units(1000.0, 1000.0), 50.0);
    assert_eq!(units(1000.0, 100.0), 50.0);
    assert_eq!(units(60.0, 60.0), 16.0);
    assert_eq!(units(5.0, 5.0), 5.0);
}

#[test]
fn a_node_spends_its_lease_and_no_more_until_it_was_counted() {
    let limiter = Limiter::new(9);
    limiter.shared.regime.set(true, 3, at(0));
    let limits = limits(&[("m", settings(LimitUnit::Messages, 1000.0, Some(60 * SECOND)))]);
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    let meter = &meters.messages[0];
    let rate = Rate::new(1000.0, 60 * SECOND, 1000.0);
    assert!(!meter.bucket.is_known());
    meter.bucket.settle(lease(&rate, 50.0), at(0));
    let taken = (0..200).filter(|_| meters.take_message(at(1)).is_ok()).count();
    assert_eq!(taken, 50);
    assert_eq!(meters.take_message(at(1)).unwrap_err().retry_after, Duration::from_millis(20));
    // Once in time, once at once.
    let reports: Vec<bool> = std::iter::from_fn(|| limiter.take_report())
        .map(|report| matches!(report, Report::Rate { urgent: true, .. }))
        .collect();
    assert_eq!(reports, [false, true]);
    let spent = meter.bucket.take_spent(at(2));
    assert!((rate.units(spent.nanos) - 50.0).abs() < 1e-6);
    meters.take_message(at(2)).unwrap();
    meter.bucket.settle(Level { debt: spent.nanos, ..lease(&rate, 10.0) }, at(2));
    let taken = (0..200).filter(|_| meters.take_message(at(2)).is_ok()).count();
    assert_eq!(taken, 9, "the one that was taken meanwhile counts");
}

#[test]
fn what_was_spent_while_nobody_could_count_it_holds_nothing_up_afterwards() {
    let limiter = Limiter::new(9);
    let regime = &limiter.shared.regime;
    regime.set(true, 1, at(0));
    let limits = limits(&[("m", settings(LimitUnit::Messages, 1000.0, Some(60 * SECOND)))]);
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    let rate = Rate::new(1000.0, 60 * SECOND, 1000.0);
    meters.messages[0].bucket.settle(lease(&rate, 50.0), at(0));
    // The control plane is silent for ten seconds, in which more than a lease is spent.
    let taken = (0..100).filter(|tenth| meters.take_message(at(300 + tenth * 100)).is_ok()).count();
    assert_eq!(taken, 100);
    // It is back, and has not reported yet.
    regime.beat(at(10_300));
    assert_eq!(regime.rule(at(10_301)), Rule::Leased);
    meters.take_message(at(10_301)).unwrap();
}

#[test]
fn what_others_have_spent_refuses_here() {
    let limiter = Limiter::new(9);
    limiter.shared.regime.set(true, 3, at(0));
    let limits = limits(&[("m", settings(LimitUnit::Messages, 10.0, Some(10 * SECOND)))]);
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    let rate = Rate::new(10.0, 10 * SECOND, 10.0);
    let spent = Level { debt: rate.burst(), ..lease(&rate, 1.0) };
    meters.messages[0].bucket.settle(spent, at(0));
    assert_eq!(meters.take_message(at(0)).unwrap_err().retry_after, SECOND);
    limiter.shared.regime.beat(at(1000));
    assert!(meters.take_message(at(1000)).is_ok());
    let blocked = Level { blocked: 5 * SECOND, ..lease(&rate, 10.0) };
    meters.messages[0].bucket.settle(blocked, at(1000));
    limiter.shared.regime.beat(at(2000));
    assert_eq!(meters.take_message(at(2000)).unwrap_err().retry_after, 4 * SECOND);
}

#[test]
fn without_leases_a_node_goes_on_with_its_share_and_reports_it_later() {
    let limiter = Limiter::new(9);
    limiter.shared.regime.set(false, 4, at(0));
    let limits = limits(&[("m", settings(LimitUnit::Messages, 100.0, Some(100 * SECOND)))]);
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    let taken = (0..200).filter(|_| meters.take_message(at(0)).is_ok()).count();
    assert_eq!(taken, 25);
    let taken = (1..=100).filter(|s| meters.take_message(at(s * 1000)).is_ok()).count();
    assert_eq!(taken, 25);
    let spent = meters.messages[0].bucket.take_spent(at(100_000));
    let rate = Rate::new(100.0, 100 * SECOND, 100.0);
    assert_eq!(rate.units(spent.nanos).round(), 50.0);
    assert_eq!(spent.ago, 100 * SECOND);
    meters.messages[0].bucket.restore(spent, at(100_000));
    assert_eq!(meters.messages[0].bucket.take_spent(at(100_000)), spent);
}

#[test]
fn leases_end_when_the_control_plane_is_silent() {
    let regime = Regime::default();
    assert_eq!(regime.rule(at(0)), Rule::Alone);
    regime.set(true, 3, at(0));
    assert_eq!(regime.rule(at(200)), Rule::Leased);
    assert_eq!(regime.rule(at(300)), Rule::Share(3));
    regime.beat(at(300));
    assert_eq!(regime.rule(at(301)), Rule::Leased);
}

#[test]
fn seats_are_taken_as_far_as_they_are_held_and_each_change_is_told_once() {
    let limiter = Limiter::new(9);
    let regime = &limiter.shared.regime;
    regime.set(true, 3, at(0));
    let limits = limits(&[("s", settings(LimitUnit::Sessions, 7.0, None))]);
    let asked = ask(&limits, &limiter, "ann", at(0));
    let short: Vec<_> = asked.short(at(0)).map(|counter| counter.seats.clone()).collect();
    assert!(asked.take(true, at(0)).is_err());
    short[0].hold(2);
    let (_first, second) = (asked.take(true, at(0)).unwrap(), asked.take(true, at(0)).unwrap());
    assert!(asked.take(true, at(0)).is_err());
    drop(second);
    assert!(matches!(limiter.take_report(), Some(Report::Seats { most: 7, .. })));
    assert!(limiter.take_report().is_none());
    short[0].begin_telling();
    let _second = asked.take(true, at(0)).unwrap();
    assert!(limiter.take_report().is_some());
    regime.set(false, 3, at(0));
    let _third = asked.take(true, at(0)).unwrap();
    assert!(asked.take(true, at(0)).is_err(), "its share of 7 by 3 is 3");
}

#[test]
fn a_full_queue_of_reports_is_counted_and_tried_again() {
    let limiter = Limiter::new(10_000);
    limiter.shared.regime.set(true, 3, at(0));
    let limits = limits(&[("m", settings(LimitUnit::Messages, 1000.0, Some(60 * SECOND)))]);
    let users: Vec<String> = (0..REPORTS + 1).map(|n| n.to_string()).collect();
    let meters: Vec<Meters> = users.iter().map(|user| ask(&limits, &limiter, user, at(0)).meters).collect();
    meters.iter().for_each(|meters| meters.take_message(at(0)).unwrap());
    assert_eq!((limiter.reports(), limiter.dropped_reports()), (REPORTS, 1));
    while limiter.take_report().is_some() {}
    meters[REPORTS].take_message(at(1)).unwrap();
    assert_eq!(limiter.reports(), 1);
}

#[test]
fn threads_that_share_a_cell_take_no_more_than_there_is() {
    let limits = limits(&[("m", settings(LimitUnit::Messages, 1000.0, Some(1_000_000 * SECOND)))]);
    let limiter = Limiter::new(9);
    let meters = ask(&limits, &limiter, "ann", at(0)).meters;
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| meters.take_message(at(0)).is_ok()).count())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 1000);
}

#[test]
fn denials_tell_reached_limits_from_spent_leases() {
    let bucket = Bucket::new(Key(1));
    let rate = Rate::new(1000.0, 60 * SECOND, 1000.0);
    bucket.settle(lease(&rate, 1.0), at(0));
    bucket.take(&rate, Rule::Leased, rate.unit(), at(0)).unwrap();
    assert_eq!(bucket.take(&rate, Rule::Leased, rate.unit(), at(0)), Err(Denied::Unleased));
    bucket.settle(Level { debt: rate.burst() * 2, ..lease(&rate, 1.0) }, at(0));
    let _ = bucket.take_spent(at(0));
    assert!(matches!(bucket.take(&rate, Rule::Leased, rate.unit(), at(0)), Err(Denied::Reached(_))));
}
