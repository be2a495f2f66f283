//! Many calls over QUIC on both sides: what the relay adds to two bare QUIC legs of the same topology, in the same run.
//!
//! Callers share a few connections to the process under test, and that shares a few connections to the agents. The
//! floor is a process with the same connections that hands each datagram from one leg to the other.

pub mod proxy;
mod swarm;
mod wire;

use std::time::Duration;

use crate::child::Child;
use crate::machine::{self, Cores};
use crate::measure::Quantiles;
use crate::progress::Progress;
use swarm::{Outcome, Swarm};

/// Calls on each connection of callers.
pub const CALLS_PER_CONNECTION: usize = 10;
/// How much later than the floor a frame may come, in milliseconds: median and 99th percentile.
const ADDED: [f64; 2] = [0.3, 2.0];
/// CPU time over that of the bare legs.
const CPU: f64 = 1.3;

/// One process under the swarm.
struct Measured {
    name: &'static str,
    outcome: Outcome,
    up: Quantiles,
    down: Quantiles,
    cpu_per_call_second: f64,
}

/// Measures floor, daemon, floor, and says whether the bars hold.
///
/// # Errors
/// If something does not run.
pub fn run(calls: usize, seconds: u64) -> Result<bool, String> {
    let cores = Cores::choose();
    machine::pin(cores.generator).map_err(|error| format!("a core of its own: {error}"))?;
    let priority = machine::raise_priority();
    let progress = Progress::start();
    let time = Duration::from_secs(seconds);
    let mut swarm = Swarm::new(calls)?;
    let mut rows = Vec::new();
    for name in ["bare QUIC legs", "antiphon", "bare QUIC legs, again"] {
        progress.begin(name);
        let child = if name == "antiphon" {
            Child::quic_daemon(cores, swarm.agents(), swarm.authority())?
        } else {
            Child::quic_proxy(cores, swarm.agents(), swarm.authority())?
        };
        let id = child.id();
        let mut cpu = Vec::new();
        let target = (child.quic()?, child.pin()?);
        let outcome = swarm.measure(target, time, &mut || cpu.push(machine::cpu_of(id).unwrap_or_default()))?;
        let spent = cpu.last().zip(cpu.first()).map_or(Duration::ZERO, |(end, begin)| end.saturating_sub(*begin));
        rows.push(Measured {
            name,
            up: (&outcome.up).into(),
            down: (&outcome.down).into(),
            cpu_per_call_second: spent.as_secs_f64() * 1000.0 / outcome.lasted.as_secs_f64() / calls as f64,
            outcome,
        });
    }
    println!("{calls} calls over QUIC to QUIC, {seconds} s each, Opus passed through, {priority}");
    println!(
        "{:<24} {:>24}   {:>24} {:>10} {:>8}",
        "", "up p50/p99/max ms", "down p50/p99/max ms", "CPU ms/cs", "missing"
    );
    for Measured { name, outcome, up, down, cpu_per_call_second } in &rows {
        let way = |q: &Quantiles| format!("{:.2} / {:.2} / {:.1}", q.p50, q.p99, q.max);
        println!("{name:<24} {:>24}   {:>24} {cpu_per_call_second:>10.3} {:>8}", way(up), way(down), outcome.missing);
    }
    Ok(judge(&rows))
}

fn judge(rows: &[Measured]) -> bool {
    let [before, daemon, after] = rows else { return false };
    let mut holds = true;
    let mut bar = |name: &str, figure: f64, most: f64| {
        let ok = figure <= most;
        holds &= ok;
        println!("{} {name}: {figure:.2} (at most {most})", if ok { "ok    " } else { "MISSED" });
    };
    // Of the two runs of the floor the better one counts.
    let over = |of: &dyn Fn(&Measured) -> f64| of(daemon) - of(before).min(of(after));
    bar("frames lost", daemon.outcome.missing as f64, 0.0);
    bar("p50 up over the floor, ms", over(&|row| row.up.p50), ADDED[0]);
    bar("p50 down over the floor, ms", over(&|row| row.down.p50), ADDED[0]);
    bar("p99 up over the floor, ms", over(&|row| row.up.p99), ADDED[1]);
    bar("p99 down over the floor, ms", over(&|row| row.down.p99), ADDED[1]);
    let floor = (before.cpu_per_call_second + after.cpu_per_call_second) / 2.0;
    bar("CPU over the bare legs, times", daemon.cpu_per_call_second / floor, CPU);
    holds
}
