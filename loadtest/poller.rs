//! Waiting for sockets and for instants to the nanosecond: the time-out of epoll itself may be rounded up to milliseconds.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// The token of the timer, which nothing else has.
pub const TIMER: u64 = u64::MAX;

/// Sockets that are watched, and a timer among them.
pub struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
}

impl Poller {
    /// Watches nothing but the time.
    pub fn new() -> std::io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Poller { epoll, timer })
    }

    /// Tells by `token` when the socket has something to read.
    pub fn watch(&self, socket: impl AsFd, token: u64) -> std::io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// The socket is of no interest any more.
    pub fn forget(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Waits for something to read, or so many nanoseconds.
    pub fn wait(&self, wait: u64, events: &mut Vec<epoll::Event>) -> std::io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let wait = Duration::from_nanos(wait.max(1));
        let at = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let once = Itimerspec { it_interval: zero, it_value: at };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), None)?;
        Ok(())
    }
}
