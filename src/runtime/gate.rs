//! Whose turn it is while a worker has more to do than it can: what callers say goes first.
//!
//! What agents say comes before its time, or has the caller's jitter buffer behind it; what a caller says has nothing of
//! the kind. So a session that finds its worker behind does only what its caller waits for. The rest it does when the
//! gate lets it through: one session at a time, each behind all that has arrived meanwhile. That carries a worker through
//! moments in which it has too much to do, not through an overload that lasts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;

use crate::runtime::clock::Clock;
use crate::runtime::pulse::Pulse;

/// What has waited longer than this in the kernel tells that the worker is behind.
const BEHIND: Duration = Duration::from_millis(1);

/// A place in the queue of a [`Gate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// The gate of one worker. At most one place is taken for each of its sessions.
#[derive(Debug, Default)]
pub struct Gate {
    waiting: Mutex<VecDeque<Waker>>,
    /// Tickets that were let through, and those that were given out.
    passed: AtomicU64,
    given: AtomicU64,
    kept: AtomicBool,
    news: Notify,
}

impl Gate {
    /// A place in the queue for the task of `waker`, if there is a need: what arrives now has waited for `wait`, or others
    /// wait at the gate already. The task is woken when its ticket is let through.
    pub fn ticket(&self, wait: Duration, waker: &Waker) -> Option<Ticket> {
        if !self.kept.load(Relaxed) {
            return None;
        }
        let mut waiting = self.lock();
        if wait <= BEHIND && waiting.is_empty() {
            return None;
        }
        waiting.push_back(waker.clone());
        self.news.notify_one();
        Some(Ticket(self.given.fetch_add(1, Relaxed)))
    }

    /// Whether `ticket` was let through.
    pub fn lets(&self, ticket: Ticket) -> bool {
        ticket.0 < self.passed.load(Relaxed) || !self.kept.load(Relaxed)
    }

    /// Keeps the gate until dropped; a task of the worker. Each look at the sockets on the way is told to `pulse`.
    pub async fn keep(&self, pulse: &Pulse, clock: Clock) {
        self.kept.store(true, Relaxed);
        let _left = Left(self);
        loop {
            self.news.notified().await;
            loop {
                // Tokio takes this task up again when all others that are ready have run and it has looked for events.
                pulse.on_park(clock.now());
                tokio::task::yield_now().await;
                pulse.on_unpark(clock.now());
                let Some(next) = self.lock().pop_front() else { break };
                self.passed.fetch_add(1, Relaxed);
                next.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody is held at a gate that is not kept.
struct Left<'a>(&'a Gate);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.kept.store(false, Relaxed);
        self.0.lock().drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    use tokio::sync::mpsc;

    use super::*;

    const LATE: Duration = Duration::from_millis(5);

    fn kept() -> Arc<Gate> {
        let (gate, clock) = (Arc::new(Gate::default()), Clock::start());
        let keeper = gate.clone();
        tokio::spawn(async move { keeper.keep(&Pulse::new(clock.now()), clock).await });
        gate
    }

    async fn pass(gate: &Gate, wait: Duration) -> bool {
        let mut ticket = None;
        poll_fn(|cx| {
            ticket = ticket.or_else(|| gate.ticket(wait, cx.waker()));
            if ticket.is_none_or(|ticket| gate.lets(ticket)) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        ticket.is_some()
    }

    #[tokio::test]
    async fn nobody_is_held_while_the_worker_keeps_up_or_nobody_keeps_the_gate() {
        assert!(!pass(&Gate::default(), LATE).await);
        let gate = kept();
        tokio::task::yield_now().await;
        assert!(!pass(&gate, Duration::from_micros(300)).await);
    }

    #[tokio::test]
    async fn those_who_wait_pass_one_by_one_behind_what_is_ready() {
        let gate = kept();
        tokio::task::yield_now().await;
        let (tell, mut told) = mpsc::unbounded_channel();
        for number in 0..3 {
            let (gate, tell) = (gate.clone(), tell.clone());
            tokio::spawn(async move {
                assert!(pass(&gate, LATE).await);
                tell.send(format!("held {number}")).unwrap();
                // Something arrives while this one works.
                tokio::spawn(async move { tell.send(format!("caller {number}")).unwrap() });
            });
        }
        drop(tell);
        let mut order = Vec::new();
        while let Some(what) = told.recv().await {
            order.push(what);
        }
        assert_eq!(order, ["held 0", "caller 0", "held 1", "caller 1", "held 2", "caller 2"]);
    }
}
