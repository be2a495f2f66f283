//! What is told: a table for people, JSON for programs, and whether the bars hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::material::Libopus;
use crate::measure::{Buckets, Quantiles};
use crate::rude::Ends;
use crate::swarm::Outcome;

/// How much later than the floor a frame may come, in milliseconds, 99th percentile.
const ADDED: f64 = 10.0;
/// The daemon's CPU time beyond that of the bare proxy, over that of libopus alone for the same frames. What it costs to
/// take frames from one socket and to give them to another is the machine's: on some it is more than libopus.
const CPU: f64 = 1.4;
/// How much later frames may come beside rude clients, in milliseconds, 99th percentile.
const BESIDE_RUDE: f64 = 2.0;
/// A swarm that is later than this, 99th percentile in milliseconds, cannot judge others.
pub const LAG: Duration = Duration::from_millis(1);

/// One run of the swarm against one process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Against what.
    pub name: String,
    /// Caller to agent, in milliseconds.
    pub up: Quantiles,
    /// Agent to caller, in milliseconds.
    pub down: Quantiles,
    /// Lateness of the swarm in writing, in milliseconds.
    pub late: Quantiles,
    /// How long what had arrived waited for the swarm, in milliseconds.
    pub waited: Quantiles,
    /// Connection to a call that is ready, in milliseconds.
    pub set_up: Quantiles,
    /// Frames written in the measured time: by callers, by agents.
    pub frames: (u64, u64),
    /// Frames that never arrived.
    pub missing: u64,
    /// Frames that nobody had sent.
    pub surplus: u64,
    /// What should not have happened.
    pub accidents: Vec<String>,
    /// CPU time of the process in the measured time, in milliseconds.
    pub cpu_ms: f64,
    /// The measured time, in milliseconds.
    pub wall_ms: f64,
    /// Resident memory that each call has added, in kilobytes.
    pub kb_per_call: f64,
}

impl Row {
    /// From what the swarm has seen.
    pub fn new(name: &str, outcome: &Outcome, cpu: Duration, kb_per_call: f64) -> Row {
        Row {
            name: name.into(),
            up: (&outcome.up).into(),
            down: (&outcome.down).into(),
            late: (&outcome.late).into(),
            waited: (&outcome.waited).into(),
            set_up: (&outcome.set_up).into(),
            frames: outcome.frames,
            missing: outcome.missing,
            surplus: outcome.surplus,
            accidents: outcome.accidents.iter().cloned().collect(),
            cpu_ms: cpu.as_secs_f64() * 1000.0,
            wall_ms: outcome.lasted.as_secs_f64() * 1000.0,
            kb_per_call,
        }
    }

    /// Frames that were lost or doubled, and accidents.
    fn losses(&self) -> u64 {
        self.missing + self.surplus + self.accidents.len() as u64
    }

    /// CPU time per second of one call, in milliseconds.
    fn cpu_per_second(&self, calls: usize) -> f64 {
        self.cpu_ms / (self.wall_ms / 1000.0) / calls as f64
    }

    /// CPU time of libopus alone for the frames of this run, in milliseconds.
    fn libopus_ms(&self, libopus: Libopus) -> f64 {
        (self.frames.0 as f64 * libopus.decode_us + self.frames.1 as f64 * libopus.encode_us) / 1000.0
    }
}

/// The daemon's own view of one direction beside that of the swarm: 50th, 95th and 99th percentile in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Views {
    /// `up` or `down`.
    pub direction: &'static str,
    /// Its own.
    pub inside: [f64; 3],
    /// As the swarm sees it.
    pub outside: [f64; 3],
    /// Frames that it has counted.
    pub count: f64,
    /// Each within 20 %, or in the same or adjacent buckets. The last is not judged: when a neighbour or the hypervisor
    /// takes the core from a process that waits, it cannot know how long its input was there.
    pub agree: [bool; 3],
}

impl Views {
    /// Compares them.
    pub fn new(direction: &'static str, buckets: &Buckets, outside: &Quantiles) -> Views {
        let inside = [0.5, 0.95, 0.99].map(|quantile| buckets.quantile(quantile));
        let outside = [outside.p50, outside.p95, outside.p99];
        let agree = std::array::from_fn(|n| buckets.count() > 0.0 && buckets.agree(inside[n], outside[n]));
        Views { direction, inside, outside, count: buckets.count(), agree }
    }

    fn differ(&self) -> bool {
        !(self.agree[0] && self.agree[1])
    }
}

/// One run of the daemon.
#[derive(Clone, Debug, Serialize)]
pub struct Daemon {
    /// What the swarm has seen.
    pub row: Row,
    /// Series of `antiphon_queue_dropped_*`, losses and made-up audio that have risen.
    pub drops: Vec<(String, f64)>,
    /// Its own view of added latency.
    pub views: Vec<Views>,
}

/// A bar.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    /// What must hold.
    pub name: String,
    /// What came out.
    pub figure: f64,
    /// The most allowed.
    pub most: f64,
    /// Whether it does.
    pub holds: bool,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Calls, seconds, codec and the like.
    pub scenario: BTreeMap<&'static str, String>,
    /// Cores, priority, load.
    pub machine: BTreeMap<&'static str, String>,
    /// The bare proxy.
    pub floor: Row,
    /// The bare proxy with libopus in between.
    pub codec_floor: Option<Row>,
    /// libopus alone, in a tight loop.
    pub libopus: Option<Libopus>,
    /// What libopus took inside of the proxy, in milliseconds for all frames.
    pub libopus_in_proxy_ms: Option<f64>,
    /// The daemon, once per run.
    pub daemon: Vec<Daemon>,
    /// The daemon beside rude clients, and how they ended.
    pub beside_rude: Option<(Daemon, Ends)>,
    /// Allocations of the whole process per frame handed over.
    pub allocations_per_frame: Option<f64>,
    /// The bars.
    pub bars: Vec<Bar>,
    /// Calls at once.
    #[serde(skip)]
    pub calls: usize,
}

/// Writes a report to `target/loadtest/<name>.json` and says where that is.
///
/// # Errors
/// If that cannot be written.
pub fn write(name: &str, report: &impl Serialize) -> std::io::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let folder = target.join("loadtest");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name).with_extension("json");
    std::fs::write(&path, format!("{}\n", serde_json::to_string_pretty(report)?))?;
    Ok(path)
}

impl Report {
    /// Finds out whether the bars hold; of several runs the median counts. A `short` test tells CPU and views, and judges
    /// neither: within seconds a busy machine changes both by a third.
    pub fn judge(&mut self, short: bool) {
        let over = |figure: &dyn Fn(&Daemon) -> f64| {
            let mut figures: Vec<f64> = self.daemon.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let mut bars = Vec::new();
        let mut bar = |name: &str, figure: f64, most: f64| {
            // A sum of nothing is -0.
            bars.push(Bar { name: name.into(), figure: figure + 0.0, most, holds: figure <= most });
        };
        let total = |figure: &dyn Fn(&Daemon) -> f64| self.daemon.iter().map(figure).sum::<f64>();
        bar("frames lost, doubled, or calls ended", total(&|run| run.row.losses() as f64), 0.0);
        bar("drops and made-up audio by its own count", total(&|run| run.drops.iter().map(|(_, n)| n).sum()), 0.0);
        bar("p99 up over the floor, ms", over(&|run| run.row.up.p99) - self.floor.up.p99, ADDED);
        bar("p99 down over the floor, ms", over(&|run| run.row.down.p99) - self.floor.down.p99, ADDED);
        if let Some(libopus) = self.libopus.filter(|_| !short) {
            let net = |run: &Daemon| self.beyond_floor(&run.row) / run.row.libopus_ms(libopus);
            bar("CPU beyond the bare proxy, times libopus alone", over(&net), CPU);
        }
        let disagree = |run: &Daemon| run.views.iter().filter(|views| views.differ()).count() as f64;
        if !short {
            bar("directions in which its own view differs", over(&disagree), 0.0);
        }
        if let Some((rude, _)) = &self.beside_rude {
            bar("beside rude clients: frames lost or doubled", rude.row.losses() as f64, 0.0);
            bar("beside rude clients: p99 up later, ms", rude.row.up.p99 - over(&|run| run.row.up.p99), BESIDE_RUDE);
            let down = rude.row.down.p99 - over(&|run| run.row.down.p99);
            bar("beside rude clients: p99 down later, ms", down, BESIDE_RUDE);
        }
        self.bars = bars;
    }

    /// CPU time of a run beyond what the bare proxy takes for as long, in milliseconds.
    fn beyond_floor(&self, row: &Row) -> f64 {
        row.cpu_ms - self.floor.cpu_ms * row.wall_ms / self.floor.wall_ms
    }

    /// Whether all bars hold.
    pub fn passed(&self) -> bool {
        self.bars.iter().all(|bar| bar.holds)
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.scenario.iter().chain(&self.machine) {
            let _ = writeln!(text, "{name:<12} {value}");
        }
        let _ = writeln!(
            text,
            "\n{:<26} {:>24}   {:>24}   {:>13} {:>9} {:>8}",
            "", "up p50/p99/max ms", "down p50/p99/max ms", "swarm p99 ms", "CPU ms/cs", "kB/call"
        );
        let rude = self.beside_rude.iter().map(|(run, _)| &run.row);
        let rows = [&self.floor].into_iter().chain(&self.codec_floor).chain(self.daemon.iter().map(|run| &run.row));
        for row in rows.chain(rude) {
            self.row(&mut text, row);
        }
        text.push_str("(ms/cs: CPU milliseconds per call and second; swarm: how late it wrote / read itself)\n\n");
        self.cpu(&mut text);
        for (run, daemon) in self.daemon.iter().enumerate() {
            for views in &daemon.views {
                let verdict = match (views.differ(), views.agree[2]) {
                    (true, _) => "DIFFER",
                    (false, true) => "agree",
                    (false, false) => "agree but for p99",
                };
                let list = |[p50, p95, p99]: [f64; 3]| format!("{p50:.3}/{p95:.3}/{p99:.3}");
                let _ = writeln!(
                    text,
                    "run {}: {:<4} p50/p95/p99 ms: inside {}, outside {}: {verdict}",
                    run + 1,
                    views.direction,
                    list(views.inside),
                    list(views.outside)
                );
            }
        }
        let rude = self.beside_rude.iter().map(|(run, _)| run);
        for (name, count) in self.daemon.iter().chain(rude).flat_map(|run| &run.drops) {
            let _ = writeln!(text, "risen: {name} by {count}");
        }
        for (kind, ends) in self.beside_rude.iter().flat_map(|(_, kinds)| kinds) {
            let _ = writeln!(text, "rude client `{kind}`: {ends:?}");
        }
        text.push('\n');
        for Bar { name, figure, most, holds } in &self.bars {
            let _ = writeln!(text, "{} {name}: {figure:.2} (at most {most})", if *holds { "ok    " } else { "MISSED" });
        }
        text
    }

    fn row(&self, text: &mut String, row: &Row) {
        let way = |q: &Quantiles| format!("{:.2} / {:.2} / {:.1}", q.p50, q.p99, q.max);
        let _ = writeln!(
            text,
            "{:<26} {:>24}   {:>24}   {:>5.2} / {:>5.2} {:>9.3} {:>8.0}",
            row.name,
            way(&row.up),
            way(&row.down),
            row.late.p99,
            row.waited.p99,
            row.cpu_per_second(self.calls),
            row.kb_per_call
        );
        if row.losses() > 0 {
            let _ = writeln!(text, "    missing {}, surplus {}, {:?}", row.missing, row.surplus, row.accidents);
        }
        if row.late.p99.max(row.waited.p99) > LAG.as_secs_f64() * 1000.0 {
            text.push_str("    the swarm itself was late: do not trust this row\n");
        }
    }

    fn cpu(&self, text: &mut String) {
        if let Some(libopus) = self.libopus {
            let _ = writeln!(
                text,
                "libopus alone: decode {:.1} us, encode {:.1} us a frame = {:.3} ms/cs",
                libopus.decode_us,
                libopus.encode_us,
                (libopus.decode_us + libopus.encode_us) * 50.0 / 1000.0
            );
            if let (Some(inside), Some(row)) = (self.libopus_in_proxy_ms, &self.codec_floor) {
                let ratio = inside / row.libopus_ms(libopus);
                let _ = writeln!(text, "libopus between two sockets: {ratio:.2} times libopus alone");
            }
            for row in self.codec_floor.iter().chain(self.daemon.iter().map(|run| &run.row)) {
                let (all, alone) = (row.cpu_ms, row.libopus_ms(libopus));
                let _ = writeln!(
                    text,
                    "{}: {:.2} times libopus alone, of which beyond the bare proxy {:.2}",
                    row.name,
                    all / alone,
                    self.beyond_floor(row) / alone
                );
            }
            let codec_floor = self.codec_floor.as_ref().map(|row| row.cpu_per_second(self.calls));
            for (run, floor) in self.daemon.iter().zip(codec_floor.into_iter().cycle()) {
                let ratio = run.row.cpu_per_second(self.calls) / floor;
                let _ = writeln!(text, "{}: {ratio:.2} times the proxy with libopus", run.row.name);
            }
        } else {
            for run in &self.daemon {
                let ratio = run.row.cpu_per_second(self.calls) / self.floor.cpu_per_second(self.calls);
                let _ = writeln!(text, "{}: {ratio:.2} times the CPU of the bare proxy", run.row.name);
            }
        }
        if let Some(allocations) = self.allocations_per_frame {
            let _ = writeln!(text, "allocations of the whole daemon: {allocations:.2} per frame handed over");
        }
    }
}
