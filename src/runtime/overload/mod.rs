//! What the node does when it has more to do than it can: see `ladder` for the steps and their order.
//!
//! The signs are looked at by the task that probes the workers, on the control runtime. Sessions and admission only read
//! flags, so nothing waits for it.

mod ladder;
mod signals;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::config::overload::OverloadSettings;
use crate::runtime::worker::Worker;
use crate::session::load::Load;
use crate::telemetry::{OverloadMetrics, Telemetry};
use crate::time::Micros;

use ladder::{Governor, Latch};
use signals::{Demand, LeastLag, Memory};

pub use ladder::Step;

/// How fast the average of a worker's demand follows: the weight of the last look.
const FOLLOW: f64 = 0.3;
/// Open files are counted at every so many looks: that takes long when there are many.
const FILES_EVERY: u32 = 5;

/// What was decided, to be read at admission and by sessions.
#[derive(Debug)]
pub struct Overload {
    refusing: AtomicBool,
    loads: Vec<Arc<Load>>,
}

impl Overload {
    /// Nothing is decided for `workers` workers.
    pub fn new(workers: usize) -> Overload {
        Overload { refusing: AtomicBool::new(false), loads: (0..workers).map(|_| Arc::default()).collect() }
    }

    /// Whether new sessions are refused.
    pub fn is_refusing(&self) -> bool {
        self.refusing.load(Relaxed)
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
        });
        Watch {
            workers: workers.collect(),
            memory: Memory::find(Path::new("/")),
            files: 0.0,
            looks: 0,
            latches: [Step::Refuse, Step::ShortIdle, Step::Spare].map(Latch::new),
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
        let mut pressure = Pressure { cpu: f64::MAX, lag: f64::MAX, ..Pressure::default() };
        for watch in &mut self.workers {
            let (cpu, lag) = watch.look(settings, now);
            pressure.cpu = pressure.cpu.min(cpu);
            pressure.lag = pressure.lag.min(lag);
        }
        if self.looks.is_multiple_of(FILES_EVERY) {
            self.files = signals::open_files().unwrap_or(0.0);
        }
        self.looks = self.looks.wrapping_add(1);
        pressure.memory = part(self.memory.used().unwrap_or(0.0), settings.memory);
        pressure.files = part(self.files, settings.files);
        self.metrics.record_pressure(&pressure);
        self.govern(overload, now);
        self.decide(&pressure, overload, now);
    }

    fn decide(&mut self, pressure: &Pressure, overload: &Overload, now: Micros) {
        for latch in &mut self.latches {
            if !latch.on_pressure(pressure.worst(), now) {
                continue;
            }
            let (step, taken) = (latch.step(), latch.is_taken());
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
    fn look(&mut self, settings: &OverloadSettings, now: Micros) -> (f64, f64) {
        if self.demand.is_none() {
            self.demand = self.worker.thread().map(Demand::of_thread);
        }
        if let Some(demand) = self.demand.as_mut().and_then(|demand| demand.look(now)) {
            self.cpu += FOLLOW * (demand - self.cpu);
        }
        let cpu = part(self.cpu, settings.cpu);
        let lag = part(self.lag.as_secs_f64(), settings.lag.as_secs_f64());
        self.pressure = cpu.max(lag);
        (cpu, lag)
    }
}

/// `used` as a part of `bound`; a bound of zero is none.
fn part(used: f64, bound: f64) -> f64 {
    if bound > 0.0 { used / bound } else { 0.0 }
}

fn tell(step: Step, taken: bool, pressure: &Pressure) {
    let Pressure { cpu, lag, memory, files } = *pressure;
    let step = step.label();
    if taken {
        tracing::warn!(step, cpu, lag, memory, files, "overload: the step is taken (1 is where new calls are refused)");
    } else {
        tracing::info!(step, cpu, lag, memory, files, "overload: the step is taken back");
    }
}
