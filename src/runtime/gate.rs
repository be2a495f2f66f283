//! Whose turn it is while a worker has more to do than it can: what callers say goes first.
//!
//! What agents say comes before its time, or has the caller's jitter buffer behind it; what a caller says has nothing of
//! the kind. So a session that finds its worker behind does only what its caller waits for. The rest it does when the
//! gate lets it through: one session at a time, each behind all that has arrived meanwhile. That carries a worker through
//! moments in which it has too much to do, not through an overload that lasts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;

use crate::runtime::clock::Clock;
use crate::runtime::pulse::Pulse;

/// What has waited longer than this in the kernel tells that the worker is behind.
const BEHIND: Duration = Duration::from_millis(1);

/// The gate of one worker.
#[derive(Debug, Default)]
pub struct Gate {
    queue: Mutex<Queue>,
    /// Whether anyone is in the queue: told without its lock.
    waits: AtomicBool,
    /// Places with lower numbers were let through.
    passed: AtomicU64,
    kept: AtomicBool,
    news: Notify,
}

/// Who waits, by the numbers of their places.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, Waker)>,
    next: u64,
}

/// A place in the queue of a [`Gate`], given back when dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    number: u64,
}

impl Place {
    /// Whether the gate has let it through.
    pub fn is_through(&self) -> bool {
        self.number < self.gate.passed.load(Relaxed) || !self.gate.kept.load(Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_through() {
            self.gate.leave(self.number);
        }
    }
}

impl Gate {
    /// A place in the queue for the task of `waker`, if there is a need: what arrives now has waited for `wait`, or others
    /// wait at the gate already. The task is woken when it is let through.
    pub fn place(self: &Arc<Gate>, wait: Duration, waker: &Waker) -> Option<Place> {
        if !self.kept.load(Relaxed) || (wait <= BEHIND && !self.waits.load(Relaxed)) {
            return None;
        }
        let mut queue = self.lock();
        let number = queue.next;
        queue.next += 1;
        queue.waiting.push_back((number, waker.clone()));
        self.waits.store(true, Relaxed);
        drop(queue);
        self.news.notify_one();
        Some(Place { gate: self.clone(), number })
    }

    fn leave(&self, number: u64) {
        let mut queue = self.lock();
        if let Ok(index) = queue.waiting.binary_search_by_key(&number, |(number, _)| *number) {
            queue.waiting.remove(index);
        }
        self.waits.store(!queue.waiting.is_empty(), Relaxed);
    }

    /// Lets the first in the queue through; whether there was one.
    fn let_one_through(&self) -> bool {
        let mut queue = self.lock();
        let first = queue.waiting.pop_front();
        self.waits.store(!queue.waiting.is_empty(), Relaxed);
        drop(queue);
        let Some((number, task)) = first else { return false };
        self.passed.store(number + 1, Relaxed);
        task.wake();
        true
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
                if !self.let_one_through() {
                    break;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody is held at a gate that is not kept.
struct Left<'a>(&'a Gate);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.kept.store(false, Relaxed);
        while self.0.let_one_through() {}
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
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

    async fn pass(gate: &Arc<Gate>, wait: Duration) -> bool {
        let mut place = None;
        poll_fn(|cx| {
            place = place.take().or_else(|| gate.place(wait, cx.waker()));
            if place.as_ref().is_none_or(Place::is_through) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        place.is_some()
    }

    #[tokio::test]
    async fn nobody_is_held_while_the_worker_keeps_up_or_nobody_keeps_the_gate() {
        assert!(!pass(&Arc::default(), LATE).await);
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

    #[tokio::test]
    async fn a_place_that_is_given_back_is_gone_from_the_queue() {
        let gate = kept();
        tokio::task::yield_now().await;
        let waits = || gate.place(LATE, Waker::noop()).unwrap();
        let (first, second, third) = (waits(), waits(), waits());
        drop(second);
        (0..1000).for_each(|_| drop(waits()));
        assert_eq!(gate.lock().waiting.len(), 2);
        while !third.is_through() {
            tokio::task::yield_now().await;
        }
        assert!(first.is_through());
        drop((first, third));
        assert!(!pass(&gate, Duration::ZERO).await, "nobody waits any more");
    }
}
