//! What the node does when it has more to do than it can: see `ladder` for the steps and their order.
//!
//! The signs are looked at by the task that probes the workers, on the control runtime. Sessions and admission only read
//! flags, so nothing waits for it.

mod intake;
mod ladder;
mod signals;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::config::overload::OverloadSettings;
use crate::runtime::worker::Worker;
use crate::session::load::Load;
use crate::telemetry::{OverloadMetrics, Telemetry};
use crate::time::Micros;

use intake::Intake;
use ladder::{Governor, Latch};
use signals::{Demand, LeastLag, Memory};

pub use ladder::Step;

/// How fast the average of a worker's demand follows: the weight of the last look.
const FOLLOW: f64 = 0.3;
/// Open files are counted at every so many looks: that takes long when there are many.
const FILES_EVERY: u32 = 5;
/// That callers are held back is told so often at most.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What was decided, to be read at admission and by sessions.
#[derive(Debug)]
pub struct Overload {
    refusing: AtomicBool,
    /// Sessions of the node at most, until the next look.
    most: AtomicUsize,
    /// Whether somebody was refused for that since the last look.
    held_back: AtomicBool,
    loads: Vec<Arc<Load>>,
}

impl Overload {
    /// Nothing is decided for `workers` workers.
    pub fn new(workers: usize) -> Overload {
        Overload {
            refusing: AtomicBool::new(false),
            most: AtomicUsize::new(usize::MAX),
            held_back: AtomicBool::new(false),
            loads: (0..workers).map(|_| Arc::default()).collect(),
        }
    }

    /// Whether new sessions are refused.
    pub fn is_refusing(&self) -> bool {
        self.refusing.load(Relaxed)
    }

    /// Whether no session is taken beside so many: new ones are refused, or it has not been seen what those cost who came last.
    pub fn is_full_with(&self, sessions: usize) -> bool {
        if self.is_refusing() {
            return true;
        }
        let back = sessions >= self.most.load(Relaxed);
        if back {
            self.held_back.store(true, Relaxed);
        }
        back
    }

    /// What sessions of this worker do without.
    pub fn load(&self, worker: usize) -> Arc<Load> {
        self.loads.get(worker).cloned().unwrap_or_default()
    }
}

/// The pressure of each sign: 1 is where new calls are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Of the workers' threads: the least pressed one, because that gets the next call.
    pub cpu: f64,
    /// The same of the busiest moments of the last seconds, while there are so many sessions that they may be the cause.
    /// Only for refusing: what is let in stays.
    pub peak: f64,
    /// How late workers answer, likewise.
    pub lag: f64,
    /// Memory.
    pub memory: f64,
    /// Open files.
    pub files: f64,
}

impl Pressure {
    fn worst(&self) -> f64 {
        self.cpu.max(self.lag).max(self.memory).max(self.files)
    }
}

/// Looks at the signs and decides.
#[derive(Debug)]
pub struct Watch {
    workers: Vec<WorkerWatch>,
    memory: Memory,
    files: f64,
    looks: u32,
    latches: [Latch; 3],
    told_at: Option<Micros>,
    metrics: OverloadMetrics,
}

#[derive(Debug)]
struct WorkerWatch {
    worker: Arc<Worker>,
    demand: Option<Demand>,
    /// A moving average of the share of time that the thread ran or waited to run.
    cpu: f64,
    lags: LeastLag,
    lag: Duration,
    pressure: f64,
    governor: Governor,
    intake: Intake,
    /// Sessions on it at most until the next look, if somebody is to be held back.
    most: Option<usize>,
}

impl Watch {
    /// A watch over these workers.
    pub fn new(workers: &[Arc<Worker>], telemetry: &Telemetry) -> Watch {
        let workers = workers.iter().map(|worker| WorkerWatch {
            worker: worker.clone(),
            demand: None,
            cpu: 0.0,
            lags: LeastLag::default(),
            lag: Duration::ZERO,
            pressure: 0.0,
            governor: Governor::default(),
            intake: Intake::default(),
            most: None,
        });
        Watch {
            workers: workers.collect(),
            memory: Memory::find(Path::new("/")),
            files: 0.0,
            looks: 0,
            latches: [Step::Refuse, Step::ShortIdle, Step::Spare].map(Latch::new),
            told_at: None,
            metrics: telemetry.node().overload(),
        }
    }

    /// How late a worker answered.
    pub fn on_lag(&mut self, worker: usize, lag: Duration) {
        if let Some(watch) = self.workers.get_mut(worker) {
            watch.lag = watch.lags.on_lag(lag);
        }
    }

    /// Looks at everything and takes the steps that it calls for, or takes them back.
    pub fn look(&mut self, settings: &OverloadSettings, overload: &Overload, now: Micros) {
        let mut pressure = Pressure { cpu: f64::MAX, peak: f64::MAX, lag: f64::MAX, ..Pressure::default() };
        let mut most = Some(0);
        for watch in &mut self.workers {
            let own = watch.look(settings, now);
            pressure.cpu = pressure.cpu.min(own.cpu);
            pressure.peak = pressure.peak.min(own.peak);
            pressure.lag = pressure.lag.min(own.lag);
            most = most.zip(watch.most).map(|(all, own)| all + own);
        }
        if self.looks.is_multiple_of(FILES_EVERY) {
            self.files = signals::open_files().unwrap_or(0.0);
        }
        self.looks = self.looks.wrapping_add(1);
        pressure.memory = part(self.memory.used().unwrap_or(0.0), settings.memory);
        pressure.files = part(self.files, settings.files);
        self.metrics.record_pressure(&pressure);
        self.hold_back(most, overload, now);
        self.govern(overload, now);
        self.decide(&pressure, overload, now);
    }

    /// No more than so many sessions until the next look.
    fn hold_back(&mut self, most: Option<usize>, overload: &Overload, now: Micros) {
        overload.most.store(most.unwrap_or(usize::MAX), Relaxed);
        self.metrics.record_most(most);
        if overload.held_back.swap(false, Relaxed) && self.told_at.is_none_or(|at| now - at >= TOLD_EVERY) {
            self.told_at = Some(now);
            tracing::warn!(most, "overload: callers are refused until it shows what those cost who came last");
        }
    }

    fn decide(&mut self, pressure: &Pressure, overload: &Overload, now: Micros) {
        for latch in &mut self.latches {
            let step = latch.step();
            let worst = pressure.worst().max(if step == Step::Refuse { pressure.peak } else { 0.0 });
            if !latch.on_pressure(worst, now) {
                continue;
            }
            let taken = latch.is_taken();
            match step {
                Step::Refuse => overload.refusing.store(taken, Relaxed),
                Step::ShortIdle => overload.loads.iter().for_each(|load| load.set_short_idle(taken)),
                Step::Spare => overload.loads.iter().for_each(|load| load.set_spares_optional(taken)),
                Step::Complexity => {}
            }
            tell(step, taken, pressure);
            self.metrics.record_step(step, taken);
        }
    }

    /// Each worker's encoders, by its own pressure.
    fn govern(&mut self, overload: &Overload, now: Micros) {
        let before = self.workers.iter().any(|watch| watch.governor.is_active());
        for (watch, load) in self.workers.iter_mut().zip(&overload.loads) {
            watch.governor.on_pressure(watch.pressure, now);
            load.set_max_complexity(watch.governor.max_complexity());
        }
        let active = self.workers.iter().any(|watch| watch.governor.is_active());
        if active != before {
            let worst = self.workers.iter().map(|watch| watch.pressure).fold(0.0, f64::max);
            tell(Step::Complexity, active, &Pressure { cpu: worst, ..Pressure::default() });
            self.metrics.record_step(Step::Complexity, active);
        }
    }
}

impl WorkerWatch {
    /// The pressure of its CPU and of its lag.
    fn look(&mut self, settings: &OverloadSettings, now: Micros) -> Pressure {
        if self.demand.is_none() {
            self.demand = self.worker.thread().map(Demand::of_thread);
        }
        if let Some(demand) = self.demand.as_mut().and_then(|demand| demand.look(now)) {
            self.cpu += FOLLOW * (demand - self.cpu);
            let sessions = self.worker.sessions();
            self.most = self.intake.on_look(sessions, demand, settings.cpu).map(|more| sessions + more);
        }
        let cpu = part(self.cpu, settings.cpu);
        let peak = part(self.intake.peak(), settings.cpu);
        let lag = part(self.lag.as_secs_f64(), settings.lag.as_secs_f64());
        self.pressure = cpu.max(lag);
        Pressure { cpu, peak, lag, ..Pressure::default() }
    }
}

/// `used` as a part of `bound`; a bound of zero is none.
fn part(used: f64, bound: f64) -> f64 {
    if bound > 0.0 { used / bound } else { 0.0 }
}

fn tell(step: Step, taken: bool, pressure: &Pressure) {
    let Pressure { cpu, peak, lag, memory, files } = *pressure;
    let step = step.label();
    if taken {
        tracing::warn!(
            step,
            cpu,
            peak,
            lag,
            memory,
            files,
            "overload: the step is taken (1 is where new calls are refused)"
        );
    } else {
        tracing::info!(step, cpu, peak, lag, memory, files, "overload: the step is taken back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_beyond_what_the_workers_can_take_until_the_next_look() {
        let overload = Overload::new(1);
        let mut watch = Watch::new(&[], &Telemetry::new());
        assert!(!overload.is_full_with(100_000));
        watch.hold_back(Some(40), &overload, Micros::ZERO);
        assert_eq!([39, 40, 41].map(|sessions| overload.is_full_with(sessions)), [false, true, true]);
        watch.hold_back(None, &overload, Micros::ZERO);
        assert!(!overload.is_full_with(100_000));
    }

    #[test]
    fn busy_moments_are_enough_to_refuse_and_take_nothing_from_those_who_are_in() {
        let overload = Overload::new(1);
        let mut watch = Watch::new(&[], &Telemetry::new());
        let pressure = Pressure { cpu: 0.8, peak: 1.2, ..Pressure::default() };
        (0..10).for_each(|look| watch.decide(&pressure, &overload, Micros::from_millis(look * 200)));
        assert!(overload.is_refusing() && overload.is_full_with(0));
        let (load, idle) = (overload.load(0), Duration::from_secs(60));
        assert_eq!((load.idle_after(idle), load.spares_optional()), (idle, false));
    }
}
