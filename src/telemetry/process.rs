//! The process as `/proc` shows it.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::names::{self, Metric};

/// Ticks per second of the times in `/proc/*/stat`: `USER_HZ`, a constant of the Linux ABI on all common machines.
const TICKS: f64 = 100.0;

/// One look at the process. What cannot be read is left out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ProcessSample {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
    threads: Option<f64>,
    start_time: Option<f64>,
}

impl ProcessSample {
    /// A look now, at a process that began at `started`. `/proc/stat`, which the start could be computed from, is hidden
    /// by `ProcSubset=pid`.
    pub(super) fn take(started: SystemTime) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut sample = Self::parse(&read("/proc/self/stat"), &read("/proc/self/status"), &read("/proc/self/limits"));
        sample.start_time = started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        // The descriptor that lists the folder counts itself.
        sample.open_fds = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
        sample
    }

    fn parse(stat: &str, status: &str, limits: &str) -> Self {
        // The command's name may hold spaces; fields count from after its closing bracket, which ends field 2.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let ticks = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS);
        let kilobytes = |key| Some(number_after(status, key)? * 1024.0);
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, system)| user + system),
            resident_bytes: kilobytes("VmRSS:"),
            virtual_bytes: kilobytes("VmSize:"),
            open_fds: None,
            max_fds: number_after(limits, "Max open files"),
            threads: number_after(status, "Threads:"),
            start_time: None,
        }
    }

    /// The figures with the metrics that they belong to.
    pub(super) fn figures(&self) -> impl Iterator<Item = (&'static Metric, f64)> {
        [
            (&names::PROCESS_CPU, self.cpu_seconds),
            (&names::PROCESS_RESIDENT, self.resident_bytes),
            (&names::PROCESS_VIRTUAL, self.virtual_bytes),
            (&names::PROCESS_OPEN_FDS, self.open_fds),
            (&names::PROCESS_MAX_FDS, self.max_fds),
            (&names::PROCESS_THREADS, self.threads),
            (&names::PROCESS_START_TIME, self.start_time),
        ]
        .into_iter()
        .filter_map(|(metric, figure)| Some((metric, figure?)))
    }
}

/// The first number of the line that begins with `key`.
fn number_after(text: &str, key: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_even_if_the_command_has_brackets_and_spaces() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 5 0 1000 9 9";
        let sample = ProcessSample::parse(
            stat,
            "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t5\n",
            "Limit Soft Hard\nMax open files            1024                 4096                 files\n",
        );
        assert_eq!(sample.cpu_seconds, Some(3.0));
        assert_eq!(sample.resident_bytes, Some(1024.0 * 1024.0));
        assert_eq!(sample.virtual_bytes, Some(2.0 * 1024.0 * 1024.0));
        assert_eq!(sample.max_fds, Some(1024.0));
        assert_eq!(sample.threads, Some(5.0));
    }

    #[test]
    fn this_process_has_all_figures_and_spends_time() {
        let before = ProcessSample::take(SystemTime::now());
        assert_eq!(before.figures().count(), 7, "{before:?}");
        let mut spent = 0_u64;
        while ProcessSample::take(SystemTime::now()).cpu_seconds <= before.cpu_seconds {
            spent += 1;
            assert!(spent < 1_000_000, "CPU time stands still");
        }
    }
}
