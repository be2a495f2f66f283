//! What the agents of a call used, and what that cost by the operator's tables.

use std::collections::BTreeMap;

use crate::config::settings::{AgentSettings, Price};
use crate::message::Usage;
use crate::message::usage::REPLAYED;
use crate::session::record::{AgentEntry, Cost};

/// Units that are kept of one agent: names are the agent's, and nothing of it may grow without end.
const MAX_UNITS: usize = 64;

/// Adds what an agent reports.
pub fn add(used: &mut BTreeMap<String, f64>, usage: &Usage) {
    for (unit, amount) in usage.amounts.iter().filter(|(_, amount)| **amount >= 0.0) {
        if used.len() < MAX_UNITS || used.contains_key(unit) {
            *used.entry(unit.clone()).or_default() += amount;
        }
    }
}

/// Adds what of the conversation was told again.
pub fn add_replayed(used: &mut BTreeMap<String, f64>, chars: u32) {
    if chars > 0 {
        *used.entry(REPLAYED.to_owned()).or_default() += f64::from(chars);
    }
}

/// What an agent's part of a call cost; `None` where it has left out a unit that the table prices.
fn cost_of(entry: &AgentEntry, price: &Price) -> Option<Cost> {
    let mut amount = 0.0;
    for (unit, each) in &price.units {
        let used = match unit.as_str() {
            "minute" => entry.lasted_ms as f64 / 60_000.0,
            REPLAYED => entry.usage.get(unit).copied().unwrap_or(0.0),
            unit => *entry.usage.get(unit)?,
        };
        amount += used * each;
    }
    Some(Cost { currency: price.currency.clone(), amount })
}

/// Prices each agent's part, and all of it: `None` unless each part is known and in one currency. An agent that never
/// got ready was not used; what runs in this process is free.
pub fn price<'a>(entries: &mut [AgentEntry], agent: impl Fn(&str) -> Option<&'a AgentSettings>) -> Option<Cost> {
    let mut total: Option<Cost> = None;
    let mut known = true;
    for entry in entries.iter_mut().filter(|entry| entry.ready_after_ms.is_some()) {
        let agent = agent(&entry.name)?;
        if agent.price.is_none() && agent.runs_here() {
            continue;
        }
        entry.cost = agent.price.as_ref().and_then(|price| cost_of(entry, price));
        match (&entry.cost, &mut total) {
            (None, _) => known = false,
            (Some(cost), None) => total = Some(cost.clone()),
            (Some(cost), Some(total)) if cost.currency == total.currency => total.amount += cost.amount,
            (Some(_), Some(_)) => known = false,
        }
    }
    total.filter(|_| known)
}
