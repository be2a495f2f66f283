//! A timer with the kernel's resolution (timerfd_create(2)): tokio's own rounds up to whole milliseconds, which every
//! paced frame would carry as added latency.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

use crate::runtime::clock::Clock;
use crate::time::Micros;

/// Deadlines that are nearer than this are left to the kernel: those of paced frames are.
const NEAR: Duration = Duration::from_millis(25);

/// One deadline, polled by one task. It belongs to the runtime that polls it first.
///
/// Most deadlines are put off again and again before they come, such as the one after which a voice counts as paused.
/// Each time the kernel would have to be told; tokio's timer only writes down a number. So that one has the far part of
/// the way.
#[derive(Debug)]
pub struct Timer {
    clock: Clock,
    near: Near,
    armed: Option<Micros>,
    far: Option<Far>,
}

#[derive(Debug)]
enum Near {
    Reserved(OwnedFd),
    Watched(AsyncFd<OwnedFd>),
    /// The runtime did not take it.
    Lost,
}

#[derive(Debug)]
struct Far {
    until: Micros,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new(clock: Clock) -> io::Result<Timer> {
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Timer { clock, near: Near::Reserved(descriptor), armed: None, far: None })
    }

    /// Wakes the task at `deadline`; ready if that has passed. `now`: at most a turn of the task ago.
    ///
    /// # Errors
    /// If the kernel refuses, which it has no reason to.
    pub fn poll(&mut self, deadline: Option<Micros>, now: Micros, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = deadline else {
            // Where it is armed still, it wakes the task once for nothing.
            return Poll::Pending;
        };
        if deadline <= now {
            return Poll::Ready(Ok(()));
        }
        if deadline - now > NEAR {
            ready!(self.poll_far(deadline.before(NEAR), cx));
        }
        let Ok(descriptor) = self.near.watch() else {
            // A millisecond late is better than never.
            return self.poll_far(deadline, cx).map(Ok);
        };
        loop {
            // Arming forgets earlier expirations, so that the descriptor need not be read.
            if self.armed != Some(deadline) {
                let now = self.clock.now();
                if deadline <= now {
                    return Poll::Ready(Ok(()));
                }
                if self.armed.is_some_and(|armed| armed <= now)
                    && let Poll::Ready(Ok(mut expired)) = descriptor.poll_read_ready(cx)
                {
                    expired.clear_ready();
                }
                arm(descriptor.get_ref(), deadline - now)?;
                self.armed = Some(deadline);
            }
            let mut expired = ready!(descriptor.poll_read_ready(cx))?;
            expired.clear_ready();
            self.armed = None;
        }
    }

    fn poll_far(&mut self, until: Micros, cx: &mut Context<'_>) -> Poll<()> {
        let instant = self.clock.instant(until);
        let far = self.far.get_or_insert_with(|| Far { until, sleep: Box::pin(tokio::time::sleep_until(instant)) });
        if far.until != until {
            far.until = until;
            far.sleep.as_mut().reset(instant);
        }
        far.sleep.as_mut().poll(cx)
    }
}

impl Near {
    /// Of the present runtime from the first time on.
    #[expect(deprecated, reason = "its successor is unsafe for types that may change their descriptor; OwnedFd cannot")]
    fn watch(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        if let Near::Reserved(_) = self
            && let Near::Reserved(descriptor) = std::mem::replace(self, Near::Lost)
        {
            *self = Near::Watched(AsyncFd::with_interest(descriptor, Interest::READABLE)?);
        }
        match self {
            Near::Watched(descriptor) => Ok(descriptor),
            Near::Reserved(_) | Near::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

fn arm(descriptor: &OwnedFd, wait: Duration) -> io::Result<()> {
    let value = Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ };
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Itimerspec { it_interval: zero, it_value: value };
    timerfd_settime(descriptor, TimerfdTimerFlags::empty(), &value)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn it_wakes_at_its_deadline_again_and_again_and_not_before() {
        let clock = Clock::start();
        let mut timer = Timer::new(clock).unwrap();
        for wait in [700, 300, 60_000, 2500, 24_000, 26_000, 100, 100] {
            let deadline = clock.now() + Duration::from_micros(wait);
            poll_fn(|cx| timer.poll(Some(deadline), clock.now(), cx)).await.unwrap();
            assert!(clock.now() >= deadline);
        }
    }

    #[tokio::test]
    async fn a_nearer_deadline_replaces_the_one_before() {
        let clock = Clock::start();
        let mut timer = Timer::new(clock).unwrap();
        let begun = clock.now();
        let far = begun + Duration::from_secs(3600);
        let first = poll_fn(|cx| Poll::Ready(timer.poll(Some(far), clock.now(), cx).is_ready())).await;
        assert!(!first);
        poll_fn(|cx| timer.poll(Some(begun + Duration::from_millis(5)), clock.now(), cx)).await.unwrap();
        assert!(clock.now() - begun >= Duration::from_millis(5));
    }

    #[tokio::test]
    async fn a_deadline_that_is_put_off_wakes_nobody_before_it_comes() {
        let clock = Clock::start();
        let mut timer = Timer::new(clock).unwrap();
        let mut polls = 0;
        for _ in 0..20 {
            let deadline = clock.now() + Duration::from_secs(10);
            let put_off = poll_fn(|cx| {
                polls += 1;
                timer.poll(Some(deadline), clock.now(), cx)
            });
            assert!(tokio::time::timeout(Duration::from_millis(2), put_off).await.is_err(), "it came too early");
        }
        assert!(polls <= 40, "{polls} polls: one for the deadline and one for the timeout");
        let deadline = clock.now() + Duration::from_millis(30);
        poll_fn(|cx| timer.poll(Some(deadline), clock.now(), cx)).await.unwrap();
        assert!(clock.now() >= deadline);
    }
}
