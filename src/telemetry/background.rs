//! A bounded queue into a thread that may block, so that those who fill it never do.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use std::{io, thread};

use metrics::Counter;

enum Job<T> {
    Item(T),
    Flush(SyncSender<()>),
}

/// The filling end; clones share the queue. The thread ends when all of them are gone.
pub(super) struct Background<T> {
    queue: SyncSender<Job<T>>,
    dropped: Counter,
}

impl<T> Clone for Background<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), dropped: self.dropped.clone() }
    }
}

impl<T: Send + 'static> Background<T> {
    /// Starts the thread; `work` gets each item in order. What does not fit is dropped and counted.
    pub(super) fn spawn(
        name: &str,
        capacity: usize,
        dropped: Counter,
        work: impl FnMut(T) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(capacity);
        thread::Builder::new().name(name.into()).spawn(move || run(&jobs, work))?;
        Ok(Self { queue, dropped })
    }

    /// Queues an item. Never blocks; `false` if it was dropped.
    pub(super) fn try_send(&self, item: T) -> bool {
        let sent = self.queue.try_send(Job::Item(item)).is_ok();
        if !sent {
            self.dropped.increment(1);
        }
        sent
    }

    /// Waits until everything queued before has been worked off, but not longer than `deadline`.
    pub(super) fn flush(&self, deadline: Duration) -> bool {
        let (done, finished) = sync_channel(1);
        let until = std::time::Instant::now() + deadline;
        let mut job = Job::Flush(done);
        loop {
            match self.queue.try_send(job) {
                Ok(()) => {
                    return finished.recv_timeout(until.saturating_duration_since(std::time::Instant::now())).is_ok();
                }
                Err(TrySendError::Full(back)) if std::time::Instant::now() < until => {
                    job = back;
                    thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
    }
}

fn run<T>(jobs: &Receiver<Job<T>>, mut work: impl FnMut(T)) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Item(item) => work(item),
            Job::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{NodeQueue, Telemetry};
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_stuck_writer_costs_lines_but_never_the_sender() {
        let telemetry = Telemetry::new();
        let gate = Arc::new(Mutex::new(Vec::new()));
        let written = gate.clone();
        let shut = gate.lock().unwrap();
        let queue = Background::spawn("stuck", 4, telemetry.node().dropped(NodeQueue::Log), move |line: u32| {
            written.lock().unwrap().push(line);
        })
        .unwrap();
        let began = std::time::Instant::now();
        let sent = (0..1000).filter(|&line| queue.try_send(line)).count();
        assert!(!queue.flush(Duration::from_millis(20)), "a stuck writer cannot be flushed");
        assert!(began.elapsed() < Duration::from_secs(1));
        assert!((4..=5).contains(&sent), "{sent} fit");
        drop(shut);
        assert!(queue.flush(Duration::from_secs(10)));
        assert_eq!(gate.lock().unwrap().len(), sent);
        let text = telemetry.render();
        let counted = format!("antiphon_queue_dropped_total{{queue=\"log\"}} {}", 1000 - sent);
        assert!(text.contains(&counted), "{text}");
    }
}
