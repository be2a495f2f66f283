//! Signs of load, read from `/proc` and from the control group.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::time::Micros;

/// How much of its time one thread ran or waited to run, since the last look.
#[derive(Debug)]
pub struct Demand {
    path: PathBuf,
    last: Option<(Micros, u64)>,
}

impl Demand {
    /// Of a thread of this process.
    pub fn of_thread(id: u32) -> Demand {
        Demand { path: format!("/proc/self/task/{id}/schedstat").into(), last: None }
    }

    /// 0 to 1; `None` at the first look and where the kernel keeps no such figures.
    pub fn look(&mut self, now: Micros) -> Option<f64> {
        let wanted = parse_schedstat(&fs::read_to_string(&self.path).ok()?)?;
        let (at, before) = self.last.replace((now, wanted))?;
        let span = (now - at).as_nanos() as f64;
        (span > 0.0).then(|| (wanted.saturating_sub(before) as f64 / span).min(1.0))
    }
}

/// Nanoseconds that a thread ran and that it waited on a run queue, together (proc(5), `schedstat`).
fn parse_schedstat(text: &str) -> Option<u64> {
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// Where the memory that this process may use is limited.
#[derive(Debug)]
pub struct Memory {
    group: Option<Group>,
    /// Of the machine, in bytes.
    total: Option<u64>,
}

#[derive(Debug)]
struct Group {
    limit: u64,
    used: PathBuf,
    statistics: PathBuf,
    /// The line of the statistics with what the kernel can take back at once.
    reclaimable: &'static str,
}

impl Memory {
    /// Finds the control group with the lowest limit; `root` is `/` outside of tests.
    pub fn find(root: &Path) -> Memory {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let total = number_after(&read("proc/meminfo"), "MemTotal:").map(|kilobytes| kilobytes * 1024);
        let groups = read("proc/self/cgroup");
        let groups = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let group = groups.flat_map(|(controllers, path)| Group::all(root, controllers, path));
        let group = group.filter(|group| total.is_none_or(|total| group.limit < total)).min_by_key(|group| group.limit);
        Memory { group, total }
    }

    /// The share of it that is in use, 0 to 1: of the control group without what the kernel can take back, or of this
    /// process in the machine's.
    pub fn used(&self) -> Option<f64> {
        match &self.group {
            Some(group) => {
                let used: u64 = fs::read_to_string(&group.used).ok()?.trim().parse().ok()?;
                let statistics = fs::read_to_string(&group.statistics).unwrap_or_default();
                let back = number_after(&statistics, group.reclaimable).unwrap_or(0);
                Some(used.saturating_sub(back) as f64 / group.limit as f64)
            }
            None => {
                let resident = number_after(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")? * 1024;
                Some(resident as f64 / self.total? as f64)
            }
        }
    }
}

impl Group {
    /// The groups of `path` and above it that have a limit (cgroups(7), version 1 and 2).
    fn all(root: &Path, controllers: &str, path: &str) -> Vec<Group> {
        let (folder, limit, used, reclaimable) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
            "memory" => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            }
            _ => return Vec::new(),
        };
        let top = root.join(folder);
        let group = |folder: &Path| {
            let limit = fs::read_to_string(folder.join(limit)).ok()?.trim().parse().ok().filter(|&limit| limit > 0)?;
            Some(Group { limit, used: folder.join(used), statistics: folder.join("memory.stat"), reclaimable })
        };
        let own = top.join(path.trim_start_matches('/'));
        own.ancestors().take_while(|folder| folder.starts_with(&top)).filter_map(group).collect()
    }
}

/// The share of the files that this process may open that are open, 0 to 1.
pub fn open_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let limit = number_after(&limits, "Max open files")?;
    // The descriptor that lists the folder counts itself.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(open as f64 / limit.max(1) as f64)
}

/// The first number of the line that begins with `key`.
fn number_after(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok())
}

/// The least that a worker lagged in the last looks: what it lags when nothing special happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastLag {
    lags: [Duration; 8],
    next: usize,
}

impl LeastLag {
    /// How late the worker answered this time.
    pub fn on_lag(&mut self, lag: Duration) -> Duration {
        self.lags[self.next] = lag;
        self.next = (self.next + 1) % self.lags.len();
        self.lags.into_iter().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system of a few files.
    fn files(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("antiphon-signals-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn running_and_waiting_to_run_both_count_as_demand() {
        assert_eq!(parse_schedstat("3000 500 12\n"), Some(3500));
        assert_eq!(parse_schedstat("0\n"), None);
        let mut demand = Demand::of_thread(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs());
        assert_eq!(demand.look(Micros::ZERO), None, "one look is no span");
        let spent = (1..10_000_000).find(|&look| demand.look(Micros(look)).is_some_and(|share| share > 0.0));
        assert!(spent.is_some(), "no time was spent");
    }

    #[test]
    fn the_lowest_limit_of_the_groups_counts_and_page_cache_is_no_use() {
        let root = files(
            "v2",
            &[
                ("proc/meminfo", "MemTotal:       1000 kB\n"),
                ("proc/self/cgroup", "0::/system.slice/antiphon.service\n"),
                ("sys/fs/cgroup/system.slice/memory.max", "500000\n"),
                ("sys/fs/cgroup/system.slice/memory.current", "400000\n"),
                ("sys/fs/cgroup/system.slice/memory.stat", "anon 1\ninactive_file 150000\n"),
                ("sys/fs/cgroup/system.slice/antiphon.service/memory.max", "max\n"),
            ],
        );
        assert_eq!(Memory::find(&root).used(), Some(0.5));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_1_is_read_too_and_a_limit_above_the_machine_is_none() {
        let root = files(
            "v1",
            &[
                ("proc/meminfo", "MemTotal:       1000 kB\n"),
                ("proc/self/cgroup", "5:cpu:/\n4:memory:/a\n0::/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "100000\n"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "90000\n"),
                ("sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file 15000\n"),
            ],
        );
        assert_eq!(Memory::find(&root).used(), Some(0.75));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn this_process_uses_some_of_the_memory_and_files_that_it_may() {
        let memory = Memory::find(Path::new("/")).used().unwrap();
        assert!(memory > 0.0 && memory < 1.0, "{memory}");
        assert!(open_files().unwrap() > 0.0);
    }

    #[test]
    fn a_worker_lags_only_if_it_lags_all_the_time() {
        let mut least = LeastLag::default();
        let ms = Duration::from_millis;
        assert_eq!((0..8).map(|_| least.on_lag(ms(80))).last(), Some(ms(80)));
        assert_eq!(least.on_lag(ms(1)), ms(1));
        assert_eq!((0..7).map(|_| least.on_lag(ms(80))).last(), Some(ms(1)));
        assert_eq!(least.on_lag(ms(60)), ms(60));
    }
}
