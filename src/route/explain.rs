//! Why a call goes where it goes.

use std::fmt;

use crate::config::settings::AgentKind;
use crate::route::plan::{DownStep, Plan};
use crate::route::rule::{Rule, Target};
use crate::route::{RouteError, RouteRequest, Router, mismatches, pick};

/// Every route that was looked at, and the plan.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// In the order in which they were tried; those after the first match were not looked at.
    pub considered: Vec<Considered>,
    /// Names of the routes after the first match.
    pub not_reached: Vec<String>,
    /// How the agent was chosen among several.
    pub choice: Vec<String>,
    /// The plan, or why there is none.
    pub outcome: Result<Plan, RouteError>,
    /// Agents of the plan's route that this build does not serve.
    pub left_out: Vec<String>,
    /// By which right the caller is let in.
    pub admitted: &'static str,
    /// The agents that a caller may name, if it has named none of them.
    pub agents: Vec<String>,
}

/// One route that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its name.
    pub route: String,
    /// The conditions that do not hold; empty if it matches.
    pub mismatches: Vec<String>,
}

impl Router {
    /// What [`Router::route`] does with a request, and why.
    pub fn explain(&self, request: &RouteRequest, now: u64) -> Explanation {
        let mut considered = Vec::new();
        let mut chosen = None;
        let mut rules = self.rules.iter();
        for rule in rules.by_ref() {
            let mismatches: Vec<String> = mismatches(rule, request).collect();
            let matched = mismatches.is_empty();
            considered.push(Considered { route: rule.name.to_string(), mismatches });
            if matched {
                chosen = Some(rule);
                break;
            }
        }
        let admitted = match chosen {
            _ if request.authenticated => "it has credentials",
            Some(rule) if rule.anonymous => "the route is anonymous",
            _ if request.is_local() => "it comes from this machine",
            _ => "nothing",
        };
        let outcome = self.route(request, now);
        let names = || self.agents.keys().map(ToString::to_string).collect();
        Explanation {
            considered,
            not_reached: rules.map(|rule| rule.name.to_string()).collect(),
            choice: chosen.map(|rule| self.explain_choice(rule, request)).unwrap_or_default(),
            agents: if let Err(RouteError::UnknownAgent { .. }) = outcome { names() } else { Vec::new() },
            outcome,
            left_out: chosen.map(|rule| self.left_out(rule)).unwrap_or_default(),
            admitted,
        }
    }

    fn explain_choice(&self, rule: &Rule, request: &RouteRequest) -> Vec<String> {
        let name = rule.name.as_str();
        let sticky = request.sticky(rule.sticky);
        let mut lines = Vec::new();
        match &rule.to {
            Target::Requested { default } => lines.push(match &request.agent {
                Some(agent) => format!("the caller chooses: {agent}"),
                None => format!("the caller names no agent: {default}"),
            }),
            Target::Weighted(choices) => {
                let point = pick::point(name, "to", sticky);
                let total: u64 = choices.iter().map(|choice| u64::from(choice.weight)).sum();
                let chosen = pick::weighted(point, choices);
                lines.push(format!("`{sticky}` falls on {:.1} % of the weights", point * 100.0));
                let mut from = 0;
                for (index, choice) in choices.iter().enumerate() {
                    let to = from + u64::from(choice.weight);
                    let share = |edge: u64| if total == 0 { 0.0 } else { edge as f64 * 100.0 / total as f64 };
                    let mark = if index == chosen { "->" } else { "  " };
                    let label = choice.label.as_deref().map(|label| format!(" ({label})")).unwrap_or_default();
                    let (start, end) = (share(from), share(to));
                    lines.push(format!("{mark} {start:5.1} % to {end:5.1} %  {}{label}", choice.agent));
                    from = to;
                }
            }
        }
        for (index, tap) in rule.taps.iter().enumerate() {
            let on = if pick::within(self.tap_point(rule, index, request), tap.percent) { "on" } else { "off" };
            lines.push(format!("tap {} ({} %): {on} for this call", tap.agent, tap.percent));
        }
        lines
    }

    fn left_out(&self, rule: &Rule) -> Vec<String> {
        let not_built = |name| match &self.agents.get(name)?.kind {
            AgentKind::NotBuilt { kind } => Some(format!("{name} (kind {kind} is not built in this version)")),
            _ => None,
        };
        rule.named_agents().filter_map(|(_, name)| not_built(name)).collect()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Considered { route, mismatches } in &self.considered {
            match mismatches.as_slice() {
                [] => writeln!(f, "route {route}: matches")?,
                [one] => writeln!(f, "route {route}: no, {one}")?,
                several => {
                    writeln!(f, "route {route}: no")?;
                    several.iter().try_for_each(|reason| writeln!(f, "    {reason}"))?;
                }
            }
        }
        self.choice.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        if !self.not_reached.is_empty() {
            writeln!(f, "not looked at, because the first match wins: {}", self.not_reached.join(", "))?;
        }
        self.left_out.iter().try_for_each(|agent| writeln!(f, "left out: {agent}"))?;
        match &self.outcome {
            Err(error) => {
                write!(f, "refused: {error}")?;
                if let RouteError::UnknownAgent { off: Some(why), .. } = error {
                    write!(f, "\n    it is off: {why}")?;
                }
                if !self.agents.is_empty() {
                    write!(f, "\n    agents: {}", self.agents.join(", "))?;
                }
                Ok(())
            }
            Ok(plan) => write_plan(f, plan, self.admitted),
        }
    }
}

fn down_step(step: &DownStep) -> String {
    match step {
        DownStep::Announce(said) => format!("{} s of announcement", said.length().as_secs()),
        DownStep::Text(agent) => format!("text only by {agent}"),
        DownStep::Keep(span) => format!("messages are kept for {} s", span.as_secs()),
    }
}

fn write_plan(f: &mut fmt::Formatter<'_>, plan: &Plan, admitted: &str) -> fmt::Result {
    writeln!(f, "let in, because {admitted}")?;
    let label = plan.label.as_deref().map(|label| format!(", label {label}")).unwrap_or_default();
    writeln!(f, "plan: route {}{label}", plan.route)?;
    for (index, rung) in plan.rungs.iter().enumerate() {
        let what = match index {
            0 => "agent".to_owned(),
            index if index < plan.regular => format!("fallback {index}"),
            _ => "text only, when these are down".to_owned(),
        };
        writeln!(f, "    {what}: {} ({})", rung.name(), rung.agent.kind.label())?;
        for (field, value) in serde_json::to_value(&rung.setup).unwrap_or_default().as_object().into_iter().flatten() {
            writeln!(f, "        {field} = {value}")?;
        }
    }
    for tap in &plan.taps {
        writeln!(f, "    tap: {}, hears the {}", tap.rung.name(), tap.hears.label())?;
    }
    if !plan.policy.when_down.is_empty() {
        let steps: Vec<String> = plan.policy.when_down.iter().map(down_step).collect();
        writeln!(f, "    when all are down: {}, then the end", steps.join(", "))?;
    }
    let (max, idle) = (plan.policy.max.as_secs(), plan.policy.idle.after.as_secs());
    write!(f, "    ends after {max} s at the latest, ")?;
    if idle == 0 { write!(f, "never for silence") } else { write!(f, "after {idle} s of silence") }
}
