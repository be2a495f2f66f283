//! `GET /v1/agents`: whom a caller can ask for without showing credentials. It asks the router, so that the list and
//! what really happens cannot differ.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::config::settings::Settings;
use crate::ids::AgentName;
use crate::route::{RouteRequest, Router};
use crate::session::Transport;

/// What clients can connect by.
pub(super) const OFFERED: [Transport; 1] = [Transport::Websocket];

/// The agents that `request` reaches, each by the name to ask for: `{agents: [{name, default, display?, transports}]}`.
/// `now` is Unix time in seconds.
pub(super) fn list(settings: &Settings, router: &Router, request: &RouteRequest, now: u64) -> Value {
    let asked = |agent: Option<&AgentName>, transport| {
        let mut request = request.clone();
        (request.agent, request.transport) = (agent.cloned(), transport);
        router.route(&request, now).ok()
    };
    let default = OFFERED.iter().find_map(|transport| asked(None, *transport));
    let default = default.as_ref().map(|plan| plan.rungs[0].name());
    let agents = names(settings).into_iter().filter_map(|name| {
        let plans: Vec<_> =
            OFFERED.iter().filter_map(|transport| Some((*transport, asked(Some(&name), *transport)?))).collect();
        let (_, plan) = plans.first()?;
        let transports: Vec<_> = plans.iter().map(|(transport, _)| transport.label()).collect();
        let mut agent = json!({ "name": name.as_str(), "default": default == Some(&name), "transports": transports });
        let display = &plan.rungs[0].agent.display;
        if !display.is_null() {
            agent["display"] = display.clone();
        }
        Some(agent)
    });
    json!({ "agents": agents.collect::<Vec<_>>() })
}

/// Every name that could be asked for: the agents', and those that routes listen to.
fn names(settings: &Settings) -> BTreeSet<AgentName> {
    let listened = settings.routes.iter().flat_map(|rule| &rule.matches.agent).filter(|name| !name.contains('*'));
    settings.agents.keys().cloned().chain(listened.map(|name| AgentName::from(name.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::config::{FileText, Lookup};
    use crate::ids::SessionId;

    struct NoFiles;

    impl Lookup for NoFiles {
        fn env(&self, _: &str) -> Option<String> {
            None
        }
        fn read(&self, _: &Path) -> Result<String, String> {
            Err("no files".into())
        }
        fn exists(&self, _: &Path) -> bool {
            false
        }
    }

    fn settings(text: &str) -> Settings {
        let file = FileText { name: "a.toml".into(), dir: "".into(), text: text.into() };
        crate::config::check(&[file], &BTreeMap::new(), &NoFiles).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn names_for(toml: &str, loopback: bool) -> Vec<(String, bool)> {
        let settings = settings(toml);
        let mut request = RouteRequest::new(Transport::Websocket, SessionId::from("s"));
        request.loopback = loopback;
        let answer = list(&settings, &Router::new(&settings), &request, 0);
        let agents = answer["agents"].as_array().unwrap().iter();
        agents.map(|agent| (agent["name"].as_str().unwrap().to_owned(), agent["default"].as_bool().unwrap())).collect()
    }

    #[test]
    fn a_local_caller_sees_all_agents_and_which_one_is_the_default() {
        let wanted = [("clip", false), ("echo", false), ("storyteller", true)];
        assert_eq!(names_for("", true), wanted.map(|(name, default)| (name.to_owned(), default)));
    }

    #[test]
    fn a_caller_from_elsewhere_sees_what_anonymous_routes_give() {
        assert_eq!(names_for("", false), []);
        let toml =
            "[[route]]\nname = \"open\"\nmatch = { agent = \"story\" }\nto = \"storyteller\"\nanonymous = true\n";
        assert_eq!(names_for(toml, false), [("story".to_owned(), false)]);
    }
}
