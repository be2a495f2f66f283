//! The machine: cores, priorities and what processes use, without a line of unsafe code.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Which core does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The process under test.
    pub daemon: usize,
    /// The swarm, and everything else of the load test.
    pub generator: usize,
}

impl Cores {
    /// The first two cores that this process may use; both the same where there is only one.
    pub fn choose() -> Cores {
        let allowed = sched_getaffinity(None).unwrap_or_default();
        let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
        let generator = cores.next().unwrap_or(0);
        Cores { generator, daemon: cores.next().unwrap_or(generator) }
    }

    /// Whether the process under test has a core that the load test does not use.
    pub fn are_apart(self) -> bool {
        self.daemon != self.generator
    }
}

/// Puts this thread, and all threads and processes that it starts from here on, on one core.
///
/// # Errors
/// If the operating system refuses.
pub fn pin(core: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the priority of this thread, and of what it starts; says how, or that it could not.
pub fn raise_priority() -> String {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let chrt = Command::new("chrt").args(["--rr", "--pid", "10", &thread]).stderr(Stdio::null()).status();
    if chrt.is_ok_and(|status| status.success()) {
        return "real time (SCHED_RR 10)".into();
    }
    match rustix::process::setpriority_process(None, -10) {
        Ok(()) => "nice -10".into(),
        Err(error) => format!("as usual (it could not be raised: {error}); expect noise from neighbours"),
    }
}

/// Gives this thread a lower priority than usual, whatever that of the thread that started it.
pub fn lower_priority() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let _ = Command::new("chrt").args(["--other", "--pid", "0", &thread]).stderr(Stdio::null()).status();
    let _ = rustix::process::setpriority_process(None, 10);
}

/// CPU time that a process has used so far, by all threads that live.
///
/// # Errors
/// If the process is gone.
pub fn cpu_of(process: u32) -> std::io::Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let path = thread?.path().join("schedstat");
        // A thread may end while its siblings are read.
        let Ok(text) = fs::read_to_string(path) else { continue };
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

/// Resident memory of a process, in bytes; 0 if it is gone.
pub fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU time of this thread.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runnable processes per core, as the operating system averages them over a minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|figure| figure.parse().ok()).unwrap_or(0.0)
}
