//! What is decided about a call beside its route: by the caller's token, and by the pre-call hook. Later ones win.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::ids::AgentName;
use crate::message::{Greeting, Setup, Tool, Turns};
use crate::route::setup::harmless;

/// Words of a refusal at most, in characters.
const MAX_WORDS: usize = 200;

/// What is changed of a route for one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// The agent that answers, in place of the route's `to`.
    pub agent: Option<AgentName>,
    /// Set-up fields, over agent and route; their templates are not filled in.
    pub setup: Setup,
    /// Sets of limits, beside the route's.
    pub limits: Vec<String>,
    /// How long the call may last, in place of the route's `max_s`.
    pub max: Option<Duration>,
    /// How long it may last at most, whatever else is said.
    pub cap: Option<Duration>,
    /// The credential of the agents, in place of the tenant's.
    pub credential: Option<String>,
}

/// What a pre-call hook answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Set if the call is refused: what the client is told.
    pub refused: Option<String>,
    /// What is changed.
    pub overrides: Overrides,
    /// For templates, `{vars.x}`.
    pub vars: Map<String, Value>,
    /// Over the client's, for the call record.
    pub metadata: Map<String, Value>,
    /// Fields that were left out, because they are unknown or of a wrong form.
    pub dropped: Vec<String>,
}

impl Decision {
    /// Reads an answer. Whatever field is wrong is left out alone.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub fn read(body: &[u8]) -> Result<Decision, String> {
        let answer: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
        let Value::Object(answer) = answer else { return Err("no JSON object".to_owned()) };
        let mut decision = Decision::default();
        let refuses = answer.get("allow").is_some_and(|allow| *allow != Value::Bool(true));
        if refuses {
            decision.refused = Some(words(answer.get("message")));
        }
        for (name, value) in answer {
            if decision.take(&name, value).is_none() {
                decision.dropped.push(name);
            }
        }
        Ok(decision)
    }

    /// The refusal in a body, whatever its form.
    pub fn refusal(body: &[u8]) -> Decision {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        Decision { refused: Some(words(answer.get("message"))), ..Decision::default() }
    }

    fn take(&mut self, name: &str, value: Value) -> Option<()> {
        let overrides = &mut self.overrides;
        match name {
            "allow" | "message" => {}
            "agent" => overrides.agent = Some(value.as_str().filter(|name| !name.is_empty())?.into()),
            "credential" => overrides.credential = Some(value.as_str()?.to_owned()),
            "max_s" => overrides.max = Some(Duration::from_secs(value.as_u64().filter(|max| *max > 0)?)),
            "limits" => {
                overrides.limits = match value {
                    Value::String(one) => vec![one],
                    several => serde_json::from_value(several).ok()?,
                }
            }
            "vars" => self.vars = value.as_object()?.clone(),
            "metadata" => self.metadata = value.as_object()?.clone(),
            "setup" => {
                for (field, value) in value.as_object()?.clone() {
                    if take_field(&mut overrides.setup, &field, value).is_none() {
                        self.dropped.push(format!("setup.{field}"));
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Leaves out tools that the configuration does not have; a hook brings none of its own.
    pub fn keep_tools<T>(&mut self, known: &BTreeMap<String, T>, built_in: &[&str]) {
        let Some(tools) = &self.overrides.setup.tools else { return };
        let is_known = |tool: &Tool| match tool {
            Tool::Named(name) => known.contains_key(name) || built_in.contains(&name.as_str()),
            Tool::Defined(_) => false,
        };
        if !tools.iter().all(is_known) {
            self.overrides.setup.tools = None;
            self.dropped.push("setup.tools".to_owned());
        }
    }
}

/// Takes one field of a set-up, if it has the right form.
fn take_field(setup: &mut Setup, name: &str, value: Value) -> Option<()> {
    let text = |value: Value| value.as_str().map(str::to_owned);
    match name {
        "instructions" => setup.instructions = Some(text(value)?),
        "voice" => setup.voice = Some(text(value)?),
        "language" => setup.language = Some(text(value)?),
        "model" => setup.model = Some(text(value)?),
        "greeting" => match serde_json::from_value::<Greeting>(value).ok()? {
            // A file of this machine is for its configuration to name.
            Greeting::Clip(_) => return None,
            greeting => setup.greeting = Some(greeting),
        },
        "transcribe" => setup.transcribe = Some(value.as_bool()?),
        "turns" => setup.turns = Some(serde_json::from_value::<Turns>(value).ok()?),
        "tools" => setup.tools = Some(serde_json::from_value(value).ok()?),
        _ => return None,
    }
    Some(())
}

/// What a client may read: one line, not too long.
fn words(message: Option<&Value>) -> String {
    let text = message.and_then(Value::as_str).unwrap_or("the call was refused");
    harmless(text).chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::TurnDetection;

    fn read(answer: Value) -> Decision {
        Decision::read(answer.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_sets_what_it_names() {
        let decision = read(json!({
            "agent": "voice", "credential": "acme", "max_s": 600, "limits": "gold", "vars": {"first_name": "Ada"},
            "metadata": {"order": 17},
            "setup": {"voice": "cedar", "greeting": {"say": "Hi"}, "turns": {"detect": "server"}, "tools": ["end_call"]},
        }));
        let Overrides { agent, setup, limits, max, credential, .. } = &decision.overrides;
        assert_eq!((agent.as_ref().map(AgentName::as_str), credential.as_deref()), (Some("voice"), Some("acme")));
        assert_eq!((max, &limits[..]), (&Some(Duration::from_secs(600)), &["gold".to_owned()][..]));
        assert_eq!(setup.set_fields(), ["voice", "greeting", "turns", "tools"]);
        assert_eq!(setup.turns.map(|turns| turns.detect), Some(TurnDetection::Server));
        assert_eq!((&decision.vars["first_name"], &decision.metadata["order"]), (&json!("Ada"), &json!(17)));
        assert_eq!((decision.refused, decision.dropped.len()), (None, 0));
        assert_eq!(read(json!({"allow": true, "limits": ["a", "b"]})).overrides.limits, ["a", "b"]);
    }

    #[test]
    fn a_field_that_is_wrong_is_left_out_alone_and_named() {
        let mut decision = read(json!({
            "agent": 5, "max_s": 0, "limits": {}, "vars": [], "url": "wss://evil.example/", "credential": "c",
            "setup": {"voice": 5, "language": "en", "temperature": 1, "greeting": {"clip": "/etc/passwd"}, "tools": ["no"]},
        }));
        decision.keep_tools(&BTreeMap::<String, ()>::new(), &["end_call"]);
        decision.dropped.sort();
        let wrong = [
            "agent",
            "limits",
            "max_s",
            "setup.greeting",
            "setup.temperature",
            "setup.tools",
            "setup.voice",
            "url",
            "vars",
        ];
        assert_eq!(decision.dropped, wrong);
        assert_eq!(decision.overrides.setup.set_fields(), ["language"]);
        assert_eq!(decision.overrides.credential.as_deref(), Some("c"));
    }

    #[test]
    fn only_true_allows_and_a_refusal_has_words() {
        for allow in [json!(false), json!(null), json!("yes"), json!(0)] {
            assert!(read(json!({"allow": allow})).refused.is_some(), "{allow}");
        }
        let refused = read(json!({"allow": false, "message": "Active subscription\nrequired"}));
        assert_eq!(refused.refused.as_deref(), Some("Active subscription required"));
        assert_eq!(Decision::refusal(b"<html>").refused.as_deref(), Some("the call was refused"));
        for bad in ["", "[]", "5", "{"] {
            assert!(Decision::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
