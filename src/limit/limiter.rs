//! The limits in force, and the cells of those who are counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::bucket::Bucket;
use super::key::{Key, Subject};
use super::meter::Meter;
use super::meters::{Meters, Refusal};
use super::rate::Rate;
use super::regime::{Regime, Rule};
use super::seats::{Seat, Seats};
use super::table::Table;
use crate::config::settings::{LimitSettings, LimitUnit, OnReach, Settings};
use crate::time::Micros;

/// Reports that wait for the control plane at most.
pub const REPORTS: usize = 4096;
/// When somebody who found no seat may look again.
const SEAT_WAIT: Duration = Duration::from_secs(2);

/// What a limit counts by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// So much in a span.
    Rate(Rate),
    /// So many at once.
    AtOnce(u32),
}

/// Counts of one limit, kept over reloads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Refused because the limit was reached.
    pub refused: AtomicU64,
    /// Refused because this node's lease was spent before it was renewed.
    pub unleased: AtomicU64,
}

/// One declared limit.
#[derive(Debug)]
pub struct Limit {
    /// Its name.
    pub name: Arc<str>,
    /// As it was declared.
    pub settings: LimitSettings,
    /// What it counts by.
    pub kind: Kind,
    /// Its counts.
    pub counters: Arc<Counters>,
}

impl Limit {
    pub(super) fn rate(&self) -> &Rate {
        match &self.kind {
            Kind::Rate(rate) => rate,
            Kind::AtOnce(_) => unreachable!("cells of rates are made for rates only"),
        }
    }
}

/// What has changed in a cell and must be told to the cluster.
#[derive(Clone, Debug)]
pub enum Report {
    /// Something was spent.
    Rate {
        /// Whose.
        meter: Meter,
        /// Whether it must be told at once.
        urgent: bool,
    },
    /// Seats were taken or given back.
    Seats {
        /// Of these.
        seats: Arc<Seats>,
        /// Of so many.
        most: u32,
    },
}

/// What all cells of a process share.
#[derive(Debug)]
pub struct Shared {
    /// The rule in force.
    pub regime: Regime,
    reports: ArrayQueue<Report>,
    dropped: AtomicU64,
}

impl Shared {
    /// By which rule a seat is taken: on its share, where nobody could be asked for what is held.
    fn seat_rule(&self, told: bool, now: Micros) -> Rule {
        match self.regime.rule(now) {
            Rule::Leased if !told => Rule::Share(self.regime.nodes()),
            rule => rule,
        }
    }

    pub(super) fn report(&self, report: Report) -> bool {
        let taken = self.reports.push(report).is_ok();
        if !taken {
            self.dropped.fetch_add(1, Relaxed);
        }
        taken
    }
}

/// The cells of a process; it outlives reloads.
#[derive(Debug)]
pub struct Limiter {
    /// What all cells share.
    pub shared: Arc<Shared>,
    /// Cells of rates.
    pub buckets: Table<Bucket>,
    /// Cells of numbers at once.
    pub seats: Table<Seats>,
}

impl Limiter {
    /// Without any cell; it will hold at most `most` of either kind, beside those in use.
    pub fn new(most: usize) -> Limiter {
        let (reports, dropped) = (ArrayQueue::new(REPORTS), AtomicU64::new(0));
        let shared = Arc::new(Shared { regime: Regime::default(), reports, dropped });
        Limiter { shared, buckets: Table::new(most), seats: Table::new(most) }
    }

    /// The next change that must be told.
    pub fn take_report(&self) -> Option<Report> {
        self.shared.reports.pop()
    }

    /// Changes that wait.
    pub fn reports(&self) -> usize {
        self.shared.reports.len()
    }

    /// Changes that found no room in the queue; each was tried again.
    pub fn dropped_reports(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Takes one of `most` seats in the cell of this name, which is no declared limit; `told`: what this node holds is
    /// what it may hold.
    pub fn take_seat(&self, key: Key, most: u32, told: bool, now: Micros) -> Option<Seat> {
        self.seats.find(key, now).take(most, self.shared.seat_rule(told, now), &self.shared)
    }

    /// The cell of a limit for a rate.
    pub fn meter(&self, limit: &Arc<Limit>, key: Key, now: Micros) -> Meter {
        Meter { limit: limit.clone(), bucket: self.buckets.find(key, now), shared: self.shared.clone() }
    }
}

/// The limits of a configuration.
#[derive(Debug, Default)]
pub struct Limits {
    by_name: BTreeMap<Arc<str>, Arc<Limit>>,
    sets: BTreeMap<String, Vec<Arc<Limit>>>,
}

impl Limits {
    /// As they are declared; counts go on where `before` had a limit of the same name.
    pub fn new(settings: &Settings, before: Option<&Limits>) -> Limits {
        let limit = |(name, settings): (&String, &LimitSettings)| {
            let name: Arc<str> = name.as_str().into();
            let before = before.and_then(|before| before.by_name.get(&name));
            let kind = match settings.per {
                Some(per) => {
                    Kind::Rate(Rate::new(settings.amount, per, settings.burst.unwrap_or(settings.amount).max(1e-6)))
                }
                None => Kind::AtOnce(settings.amount as u32),
            };
            let counters = before.map(|before| before.counters.clone()).unwrap_or_default();
            (name.clone(), Arc::new(Limit { name, settings: settings.clone(), kind, counters }))
        };
        let by_name: BTreeMap<Arc<str>, Arc<Limit>> = settings.limits.iter().map(limit).collect();
        let set = |(name, uses): (&String, &Vec<String>)| {
            let limits = uses.iter().filter_map(|name| by_name.get(name.as_str()).cloned());
            (name.clone(), limits.collect())
        };
        let sets = settings.limit_sets.iter().map(set).collect();
        Limits { by_name, sets }
    }

    /// Every limit.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.by_name.values()
    }

    /// The cells in which a call is counted that is under these sets.
    pub fn of(&self, sets: &[String], subject: &Subject<'_>, limiter: &Limiter, now: Micros) -> Ask {
        let mut ask = Ask::default();
        let mut seen: Vec<&Arc<str>> = Vec::new();
        for limit in sets.iter().filter_map(|set| self.sets.get(set)).flatten() {
            if seen.contains(&&limit.name) {
                continue;
            }
            seen.push(&limit.name);
            let key = subject.key(&limit.name, &limit.settings.key, limit.settings.prefixes);
            match limit.kind {
                Kind::Rate(_) => ask.add(limiter.meter(limit, key, now)),
                Kind::AtOnce(most) => {
                    let (seats, shared) = (limiter.seats.find(key, now), limiter.shared.clone());
                    let counter = Counter { limit: limit.clone(), seats, most, shared };
                    match limit.settings.unit {
                        LimitUnit::Connections => ask.links.at_once.push(counter),
                        _ => ask.at_once.push(counter),
                    }
                }
            }
        }
        ask
    }
}

/// A limit's cell for a number at once.
#[derive(Clone, Debug)]
pub struct Counter {
    /// The limit.
    pub limit: Arc<Limit>,
    /// The cell.
    pub seats: Arc<Seats>,
    /// So many at once.
    pub most: u32,
    shared: Arc<Shared>,
}

impl Counter {
    fn take(&self, told: bool, now: Micros) -> Result<Seat, Refusal> {
        let rule = self.shared.seat_rule(told, now);
        self.seats.take(self.most, rule, &self.shared).ok_or_else(|| {
            self.limit.counters.refused.fetch_add(1, Relaxed);
            Refusal { limit: self.limit.clone(), retry_after: SEAT_WAIT }
        })
    }

    /// Whether the cluster must be asked before one can be taken.
    fn is_short(&self, now: Micros) -> bool {
        !self.seats.has_room(self.most, self.shared.regime.rule(now))
    }
}

/// The cells that count the links of one call.
#[derive(Clone, Debug, Default)]
pub struct Links {
    rates: Vec<Meter>,
    at_once: Vec<Counter>,
}

impl Links {
    /// Whether links are not limited.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.at_once.is_empty()
    }

    /// The cells of rates.
    pub fn rates(&self) -> &[Meter] {
        &self.rates
    }

    /// Takes the first link of a session.
    fn take(&self, told: bool, now: Micros) -> Result<Vec<Seat>, Refusal> {
        take(&self.rates, &self.at_once, told, now)
    }

    /// Takes a link in the place of another one.
    ///
    /// # Errors
    /// The limit that is reached; then nothing is taken.
    pub fn take_next(&self, now: Micros) -> Result<(), Refusal> {
        take(&self.rates, &[], true, now).map(drop)
    }
}

/// Takes one of each, or nothing.
fn take(rates: &[Meter], at_once: &[Counter], told: bool, now: Micros) -> Result<Vec<Seat>, Refusal> {
    let seats = at_once.iter().map(|counter| counter.take(told, now)).collect::<Result<Vec<_>, _>>()?;
    for (index, meter) in rates.iter().enumerate() {
        if let Err(refusal) = meter.take(1.0, now) {
            rates[..index].iter().for_each(|taken| taken.give_back(1.0, now));
            return Err(refusal);
        }
    }
    Ok(seats)
}

/// What is left of a limit.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Which one.
    pub limit: Arc<Limit>,
    /// Units that are left, whole ones.
    pub left: f64,
    /// When everything will have been earned again; zero for a number at once, of which nobody knows.
    pub full_after: Duration,
}

/// All cells in which one call is counted.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Its links.
    pub links: Links,
    sessions: Vec<Meter>,
    at_once: Vec<Counter>,
    /// What it does while it runs.
    pub meters: Meters,
}

impl Ask {
    fn add(&mut self, meter: Meter) {
        match meter.limit.settings.unit {
            LimitUnit::Connections => self.links.rates.push(meter),
            LimitUnit::Sessions => self.sessions.push(meter),
            LimitUnit::AudioFrames => self.meters.frames.push(meter),
            LimitUnit::AudioSeconds => self.meters.seconds.push(meter),
            LimitUnit::Messages => self.meters.messages.push(meter),
            LimitUnit::Bytes => self.meters.bytes.push(meter),
            LimitUnit::Cost => self.meters.cost.push(meter),
        }
    }

    /// Cells of rates of which it is not known what other nodes have spent.
    pub fn unknown(&self) -> impl Iterator<Item = &Meter> {
        let rates = self.links.rates.iter().chain(&self.sessions).chain(self.meters.all());
        rates.filter(|meter| !meter.shared.regime.is_alone() && !meter.bucket.is_known())
    }

    /// Cells of which this node holds no free seat.
    pub fn short(&self, now: Micros) -> impl Iterator<Item = &Counter> {
        self.links.at_once.iter().chain(&self.at_once).filter(move |counter| counter.is_short(now))
    }

    /// How a client stands whose call was let in, limit by limit, of those that count links and sessions.
    pub fn standings(&self, now: Micros) -> Vec<Standing> {
        let rates = self.links.rates.iter().chain(&self.sessions).map(|meter| Standing {
            limit: meter.limit.clone(),
            left: meter.left(now).floor(),
            full_after: meter.full_after(now),
        });
        let at_once = self.links.at_once.iter().chain(&self.at_once).map(|counter| Standing {
            limit: counter.limit.clone(),
            left: counter.most.saturating_sub(counter.seats.used()).into(),
            full_after: Duration::ZERO,
        });
        rates.chain(at_once).collect()
    }

    /// Takes one session and its first link; `told`: the cluster could be asked, as far as that was necessary.
    ///
    /// # Errors
    /// The limit that is reached; then nothing is taken.
    pub fn take(&self, told: bool, now: Micros) -> Result<Grant, Refusal> {
        for budget in self.meters.cost.iter().filter(|budget| budget.limit.settings.on_reach != OnReach::Warn) {
            budget.check(now)?;
        }
        let mut seats = self.links.take(told, now)?;
        let of_session = take(&self.sessions, &self.at_once, told, now).inspect_err(|_| {
            self.links.rates.iter().for_each(|taken| taken.give_back(1.0, now));
        })?;
        seats.extend(of_session);
        Ok(Grant { seats })
    }
}

/// What a call was granted; its seats are given back when it is dropped. A session has one link at a time, which may be
/// followed by another: so it keeps the seat of its link until it ends.
#[derive(Debug, Default)]
pub struct Grant {
    seats: Vec<Seat>,
}

impl Grant {
    /// Seats that it holds.
    pub fn seats(&self) -> usize {
        self.seats.len()
    }
}
