//! A timer with the kernel's resolution (timerfd_create(2)): tokio's own rounds up to whole milliseconds, which every
//! paced frame would carry as added latency.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::time::Micros;

/// One deadline, polled by one task.
#[derive(Debug)]
pub struct Timer {
    descriptor: AsyncFd<OwnedFd>,
    armed: Option<Micros>,
}

impl Timer {
    /// A timer that is not armed, of the present runtime.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    #[expect(deprecated, reason = "its successor is unsafe for types that may change their descriptor; OwnedFd cannot")]
    pub fn new() -> io::Result<Timer> {
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Timer { descriptor: AsyncFd::with_interest(descriptor, Interest::READABLE)?, armed: None })
    }

    /// Wakes the task at `deadline`; ready if that has passed `now`.
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
        loop {
            // Arming forgets earlier expirations, so that the descriptor need not be read.
            if self.armed != Some(deadline) {
                self.arm(deadline - now)?;
                self.armed = Some(deadline);
            }
            let mut expired = std::task::ready!(self.descriptor.poll_read_ready(cx))?;
            expired.clear_ready();
            self.armed = None;
        }
    }

    fn arm(&self, wait: Duration) -> io::Result<()> {
        let value = Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(
            &self.descriptor,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::runtime::clock::Clock;

    #[tokio::test]
    async fn it_wakes_at_its_deadline_again_and_again_and_not_before() {
        let clock = Clock::start();
        let mut timer = Timer::new().unwrap();
        for wait in [700, 300, 2500, 100, 100] {
            let deadline = clock.now() + Duration::from_micros(wait);
            poll_fn(|cx| timer.poll(Some(deadline), clock.now(), cx)).await.unwrap();
            assert!(clock.now() >= deadline);
        }
    }

    #[tokio::test]
    async fn a_nearer_deadline_replaces_the_one_before() {
        let clock = Clock::start();
        let mut timer = Timer::new().unwrap();
        let begun = clock.now();
        let far = begun + Duration::from_secs(3600);
        let first = poll_fn(|cx| Poll::Ready(timer.poll(Some(far), clock.now(), cx).is_ready())).await;
        assert!(!first);
        poll_fn(|cx| timer.poll(Some(begun + Duration::from_millis(5)), clock.now(), cx)).await.unwrap();
        assert!(clock.now() - begun >= Duration::from_millis(5));
    }
}
