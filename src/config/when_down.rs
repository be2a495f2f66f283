//! `when_down` of a route, from raw to checked: what callers are left with when no agent can be reached.

use std::time::Duration;

use crate::config::checker::Checker;
use crate::config::raw::{RawRoute, RawTarget};
use crate::config::raw_failover::{RawDownStep, RawDownTable, RawDownWord};
use crate::config::routes::{Names, agent_named};
use crate::config::settings::{AgentKind, WebsocketProtocol};
use crate::ids::AgentName;
use crate::media::announcement::Announcement;
use crate::route::plan::DownStep;

/// How long text messages are kept where nothing is said.
const KEPT: Duration = Duration::from_secs(300);
const SHAPES: &str =
    "write \"clip\", { clip = \"sorry.wav\" }, { text = \"AGENT\" }, \"keep\", { keep_s = 300 } or \"end\"";

/// Checks the steps of the route at `index`.
pub fn steps(index: &str, raw: &RawRoute, names: &Names<'_>, check: &mut Checker<'_>) -> Vec<DownStep> {
    let mut steps = Vec::new();
    for (number, step) in raw.when_down.iter().enumerate() {
        let at = ["route", index, "when_down", &number.to_string()];
        match step {
            RawDownStep::Word(RawDownWord::End) if number + 1 < raw.when_down.len() => {
                check.wrong(&at, "nothing comes after the end of the call", "put `end` last".to_owned());
            }
            RawDownStep::Word(RawDownWord::End) => {}
            RawDownStep::Word(RawDownWord::Clip) => {
                steps.extend(Announcement::apology().ok().map(|said| DownStep::Announce(said.into())));
            }
            RawDownStep::Word(RawDownWord::Keep) => steps.push(DownStep::Keep(KEPT)),
            RawDownStep::Table(table) => steps.extend(with_key(&at, table, names, check)),
        }
    }
    if !steps.is_empty() {
        check_reached(index, raw, names, check);
    }
    steps
}

fn with_key(at: &[&str; 4], table: &RawDownTable, names: &Names<'_>, check: &mut Checker<'_>) -> Option<DownStep> {
    let key = |key: &'static str| [at.as_slice(), &[key]].concat();
    match table {
        RawDownTable { clip: Some(file), text: None, keep_s: None } => {
            check.announcement(&key("clip"), file).map(DownStep::Announce)
        }
        RawDownTable { clip: None, text: Some(agent), keep_s: None } => {
            agent_named(&key("text"), agent, names, check);
            let reads = |kind: &AgentKind| match kind {
                AgentKind::Clip { .. } => false,
                AgentKind::Websocket(websocket) => websocket.protocol == WebsocketProtocol::Native,
                _ => true,
            };
            if names.agents.get(&AgentName::from(agent.as_str())).is_some_and(|known| !reads(&known.kind)) {
                let message = format!("agent `{agent}` does not take text messages");
                check.wrong(&key("text"), message, "name one that does, like one of kind `chat`".to_owned());
            }
            Some(DownStep::Text(agent.as_str().into()))
        }
        RawDownTable { clip: None, text: None, keep_s: Some(seconds) } => {
            Some(DownStep::Keep(Duration::from_secs(*seconds)))
        }
        _ => {
            check.wrong(at, "is no single step", SHAPES.to_owned());
            None
        }
    }
}

/// Refuses steps behind an agent that is always there and ends the call.
fn check_reached(index: &str, raw: &RawRoute, names: &Names<'_>, check: &mut Checker<'_>) {
    let to = match &raw.to {
        Some(RawTarget::Choices(choices)) => choices.iter().filter_map(|choice| choice.agent.as_ref()).collect(),
        Some(RawTarget::Name(name)) => vec![name],
        None => Vec::new(),
    };
    let is_clip = |name: &&&String| {
        names
            .agents
            .get(&AgentName::from(name.as_str()))
            .is_some_and(|agent| matches!(agent.kind, AgentKind::Clip { .. }))
    };
    let named = to.into_iter().chain(&raw.fallback.0);
    if let Some(clip) = named.collect::<Vec<_>>().iter().find(is_clip) {
        let message = format!("is never reached: `{clip}` can always be reached, and its end is the end of the call");
        let help = format!("take `{clip}` out of `to` and `fallback`; a step {{ clip = \"…\" }} says the same");
        check.wrong(&["route", index, "when_down"], message, help);
    }
}
