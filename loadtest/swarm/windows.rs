//! A scenario in windows, between which something is done, and to which callers may come and be refused.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{DRAIN, Outcome, Scenario, Swarm, Target};
use crate::ends::Socket;
use crate::measure::histogram;

/// How often it is looked who has come.
const LOOK: Duration = Duration::from_millis(10);

/// What was measured in one window.
#[derive(Debug)]
pub struct Window {
    /// Caller written to agent read.
    pub up: Histogram<u64>,
    /// Agent written to caller read.
    pub down: Histogram<u64>,
    /// Calls at its end.
    pub calls: usize,
}

/// Both ends of a call that was let in.
pub type Arrival = (Socket, Socket);

/// Runs a scenario in windows instead of one piece: `next` gets the one that is over, does what comes before the next,
/// and says how long that is; `None` ends. All of it runs beside the calls: be quick. Callers are all there from the
/// beginning, or come as `arrivals` brings them, at most as many as the scenario has.
///
/// # Errors
/// If a call cannot be set up.
pub fn run_in_windows(
    scenario: &Scenario,
    target: Target<'_>,
    arrivals: Option<&Receiver<Arrival>>,
    next: &mut dyn FnMut(Option<Window>) -> Option<Duration>,
) -> Result<Outcome, String> {
    let mut swarm = match arrivals {
        None => Swarm::filled(scenario, target)?,
        Some(_) => Swarm::new(scenario, target).map_err(|error| error.to_string())?,
    };
    let begun = swarm.now();
    let mut window = None;
    while let Some(length) = next(window.take()) {
        let from = swarm.now();
        let until = from + length.as_nanos() as u64;
        swarm.measuring = Some((from, u64::MAX));
        run_taking_in(&mut swarm, until, arrivals)?;
        swarm.measuring = Some((from, swarm.now()));
        let drained = swarm.now() + DRAIN.as_nanos() as u64;
        run_taking_in(&mut swarm, drained, arrivals)?;
        let take = |times: &mut Histogram<u64>| std::mem::replace(times, histogram());
        let (up, down) = (take(&mut swarm.out.up), take(&mut swarm.out.down));
        window = Some(Window { up, down, calls: swarm.calls.len() });
    }
    let ended = swarm.now();
    swarm.run_for(DRAIN);
    Ok(swarm.finish(begun, ended))
}

/// Until then. Who has been let in speaks at once: of callers who did not, silence would arrive that nobody has sent.
fn run_taking_in(swarm: &mut Swarm<'_>, until: u64, arrivals: Option<&Receiver<Arrival>>) -> Result<(), String> {
    while swarm.now() < until {
        swarm.run_for(LOOK.min(Duration::from_nanos(until - swarm.now().min(until))));
        for (caller, agent) in arrivals.into_iter().flat_map(Receiver::try_iter) {
            if swarm.calls.len() < swarm.scenario.calls {
                swarm.take_in(caller, agent)?;
            }
        }
    }
    Ok(())
}
