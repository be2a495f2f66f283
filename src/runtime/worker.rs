//! The data plane: one current-thread runtime per worker, each on a thread of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::runtime::clock::Clock;
use crate::runtime::gate::Gate;
use crate::runtime::pulse::Pulse;
use crate::time::Micros;

/// Jobs handed to a worker that it has not begun.
const INBOX: usize = 256;
/// How long tasks may finish after the stop.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// A connection's or a session's whole life, run by one worker.
pub type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What others know of a worker.
#[derive(Debug)]
pub struct Worker {
    /// From 0.
    pub index: usize,
    /// How late it looks at its sockets.
    pub pulse: Arc<Pulse>,
    /// Where sessions wait while it is behind.
    pub gate: Arc<Gate>,
    inbox: mpsc::Sender<Job>,
    load: AtomicUsize,
    sessions: AtomicUsize,
    /// The id of its thread, once that runs; 0 before.
    thread: AtomicU32,
    probe: Notify,
    probed_at: AtomicU64,
    panics: AtomicU64,
}

/// A worker took no job: its inbox is full or it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker takes no more connections now")]
pub struct WorkerBusy;

impl Worker {
    /// Has the worker run `job`.
    ///
    /// # Errors
    /// If it has too many jobs waiting.
    pub fn try_run(&self, job: Job) -> Result<(), WorkerBusy> {
        self.inbox.try_send(job).map_err(|_| WorkerBusy)
    }

    /// Connections and sessions on it.
    pub fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// Sessions on it.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Relaxed)
    }

    /// The id of its thread, as the kernel numbers it.
    pub fn thread(&self) -> Option<u32> {
        Some(self.thread.load(Relaxed)).filter(|&id| id > 0)
    }

    /// Tasks of it that ended by a panic.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// Counts a connection until the guard is dropped.
    pub fn count_connection(self: &Arc<Self>) -> LoadGuard {
        self.load.fetch_add(1, Relaxed);
        LoadGuard { worker: self.clone(), session: false }
    }

    /// Counts a session until the guard is dropped.
    pub fn count_session(self: &Arc<Self>) -> LoadGuard {
        self.sessions.fetch_add(1, Relaxed);
        LoadGuard { worker: self.clone(), session: true }
    }

    /// Asks for a sign of life; the answer is in [`Worker::pulse`].
    pub fn probe(&self, now: Micros) {
        // An unanswered probe stays the one that is measured.
        if self.probed_at.compare_exchange(0, now.0.max(1), Relaxed, Relaxed).is_ok() {
            self.probe.notify_one();
        }
    }
}

/// One connection or session in a worker's count.
#[derive(Debug)]
pub struct LoadGuard {
    worker: Arc<Worker>,
    session: bool,
}

impl LoadGuard {
    /// The worker that is counted on.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let count = if self.session { &self.worker.sessions } else { &self.worker.load };
        count.fetch_sub(1, Relaxed);
    }
}

/// All workers of a process.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Arc<Worker>>,
    ends: Vec<oneshot::Receiver<()>>,
    stop: CancellationToken,
}

impl Workers {
    /// Starts `count` workers: the one place that decides the shape of the data plane.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be made.
    pub fn start(count: usize, clock: Clock) -> std::io::Result<Workers> {
        let stop = CancellationToken::new();
        let (mut workers, mut ends) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for index in 0..count {
            let pulse = Arc::new(Pulse::new(clock.now()));
            let (inbox, jobs) = mpsc::channel(INBOX);
            let worker = Arc::new(Worker {
                index,
                pulse: pulse.clone(),
                gate: Arc::default(),
                inbox,
                load: AtomicUsize::new(0),
                sessions: AtomicUsize::new(0),
                thread: AtomicU32::new(0),
                probe: Notify::new(),
                probed_at: AtomicU64::new(0),
                panics: AtomicU64::new(0),
            });
            let (park, unpark) = (pulse.clone(), pulse);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .on_thread_park(move || park.on_park(clock.now()))
                .on_thread_unpark(move || unpark.on_unpark(clock.now()))
                .build()?;
            let (ended, end) = oneshot::channel();
            let (life, stop) = (worker.clone(), stop.clone());
            std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let id = rustix::thread::gettid().as_raw_nonzero().get();
                life.thread.store(id.unsigned_abs(), Relaxed);
                runtime.block_on(run(life, clock, jobs, stop));
                runtime.shutdown_timeout(Duration::from_millis(100));
                let _ = ended.send(());
            })?;
            workers.push(worker);
            ends.push(end);
        }
        Ok(Workers { workers, ends, stop })
    }

    /// The workers, by index.
    pub fn all(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// Takes the futures that resolve when a worker ends, whether it was told to or panicked.
    pub fn take_ends(&mut self) -> Vec<oneshot::Receiver<()>> {
        std::mem::take(&mut self.ends)
    }

    /// Tells all workers to end: their tasks get three seconds, then they are dropped.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }
}

async fn run(worker: Arc<Worker>, clock: Clock, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let of_gate = worker.clone();
    let keeper = tokio::spawn(async move { of_gate.gate.keep(&of_gate.pulse, clock).await });
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = worker.probe.notified() => {
                worker.pulse.on_beat(Micros(worker.probed_at.swap(0, Relaxed)), clock.now());
            }
            job = jobs.recv() => match job {
                Some(job) => { tasks.spawn(job); }
                None => break,
            },
            Some(ended) = tasks.join_next() => note_end(&worker, ended),
        }
    }
    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            note_end(&worker, ended);
        }
    };
    if tokio::time::timeout(STOP_DEADLINE, rest).await.is_err() {
        tasks.shutdown().await;
    }
    keeper.abort();
}

fn note_end(worker: &Worker, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        worker.panics.fetch_add(1, Relaxed);
        tracing::error!(worker = worker.index, "a connection's task panicked; only this connection ended: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_task_and_nothing_else() {
        let clock = Clock::start();
        let mut workers = Workers::start(1, clock).unwrap();
        let worker = workers.all()[0].clone();
        worker.try_run(Box::pin(async { panic!("on purpose") })).unwrap();
        let (done, wait) = oneshot::channel();
        worker.try_run(Box::pin(async move { done.send(()).unwrap() })).unwrap();
        wait.await.unwrap();
        worker.probe(clock.now());
        while worker.panics() == 0 {
            tokio::task::yield_now().await;
        }
        workers.stop().cancel();
        workers.take_ends().remove(0).await.unwrap();
    }
}
