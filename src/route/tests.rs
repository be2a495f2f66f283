//! Where calls go.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{FileText, Lookup};

struct Machine;
impl Lookup for Machine {
    fn env(&self, name: &str) -> Option<String> {
        Some(format!("value-of-{name}"))
    }
    fn read(&self, _: &std::path::Path) -> Result<String, String> {
        Err("no files".into())
    }
    fn exists(&self, _: &std::path::Path) -> bool {
        false
    }
}

fn router(text: &str) -> Router {
    let file = FileText { name: "a.toml".into(), dir: "".into(), text: text.into() };
    let settings = crate::config::check(&[file], &BTreeMap::new(), &Machine).unwrap_or_else(|e| panic!("{e}"));
    Router::new(&settings)
}

/// A caller on this machine.
fn local() -> RouteRequest {
    RouteRequest { loopback: true, ..RouteRequest::new(Transport::Websocket, "s-1".into()) }
}

fn asking(agent: &str) -> RouteRequest {
    RouteRequest { agent: Some(agent.into()), ..local() }
}

fn agents(plan: &Plan) -> Vec<&str> {
    plan.rungs.iter().map(|rung| rung.name().as_str()).collect()
}

#[test]
fn without_a_file_callers_on_this_machine_reach_any_agent_by_name() {
    let router = Router::new(&Settings::default());
    assert_eq!(agents(&router.route(&local(), 0).unwrap()), ["storyteller"]);
    assert_eq!(agents(&router.route(&asking("echo"), 0).unwrap()), ["echo"]);
    let error = router.route(&asking("nobody"), 0).unwrap_err();
    assert_eq!((error.code(), error.field()), (ErrorCode::NotFound, Some("agent")));
    let error = router.route(&asking("openai"), 0).unwrap_err();
    assert!(matches!(&error, RouteError::UnknownAgent { off: Some(why), .. } if why.contains("OPENAI_API_KEY")));
    assert!(!error.to_string().contains("OPENAI"), "clients do not learn what is set: {error}");
    let text = router.explain(&asking("openai"), 0).to_string();
    assert!(text.contains("OPENAI_API_KEY") && text.contains("agents: clip, echo, storyteller"), "{text}");
}

#[test]
fn the_first_route_that_matches_wins() {
    let router = router(
        "[[route]]\nname = \"one\"\nmatch = { agent = \"x\" }\nto = \"echo\"\n\
         [[route]]\nname = \"two\"\nto = \"clip\"\n[[route]]\nname = \"three\"\nto = \"echo\"\n",
    );
    assert_eq!(router.route(&asking("x"), 0).unwrap().route.as_str(), "one");
    assert_eq!(router.route(&asking("y"), 0).unwrap().route.as_str(), "two");
    assert_eq!(router.route(&local(), 0).unwrap().route.as_str(), "two");
}

#[test]
fn every_condition_counts() {
    let full = RouteRequest {
        agent: Some("jung".into()),
        tenant: Some("acme".into()),
        claims: json!({"subscription": "active", "org": {"plan": "pro"}, "roles": ["user", "admin"], "age": 7}),
        path: "/v1/session".into(),
        host: Some("Voice.example.com:8443".into()),
        origin: Some("https://app.example.com".into()),
        headers: vec![("x-channel".into(), "app-2".into())],
        region: Some("eu-central".into()),
        ..local()
    };
    let conditions = [
        ("agent = \"jung\"", "agent = \"freud\""),
        ("agent = [\"freud\", \"ju*\"]", "agent = [\"freud\", \"ju\"]"),
        ("transport = \"websocket\"", "transport = [\"webrtc\", \"quic\"]"),
        ("tenant = [\"acme\"]", "tenant = \"other\""),
        ("claim.subscription = \"active\"", "claim.subscription = \"lapsed\""),
        ("claim.subscription = [\"trial\", \"active\"]", "claim.subscription = []"),
        ("claim.org.plan = \"pro\"", "claim.org.size = \"pro\""),
        ("claim.roles = \"admin\"", "claim.roles = \"root\""),
        ("claim.age = 7", "claim.age = \"7\""),
        ("path = \"/v1/*\"", "path = \"/v2/*\""),
        ("host = \"*.example.com\"", "host = \"example.com\""),
        ("host = \"voice.example.com:8443\"", "host = \"voice.example.com:1\""),
        ("origin = \"https://app.example.com\"", "origin = \"https://app.example.org\""),
        ("header.X-Channel = \"app*\"", "header.X-Channel = \"web*\""),
        ("region = \"eu-central\"", "region = \"us-east\""),
        ("percent = 100", "percent = 0"),
    ];
    for (holds, fails) in conditions.into_iter().filter(|(_, fails)| !fails.ends_with("[]")) {
        let route = |condition: &str| format!("[[route]]\nname = \"r\"\nmatch = {{ {condition} }}\nto = \"echo\"\n");
        assert!(router(&route(holds)).route(&full, 0).is_ok(), "{holds}");
        let error = router(&route(fails)).route(&full, 0).unwrap_err();
        assert_eq!(error, RouteError::NoRoute, "{fails}");
        // What is absent matches no condition but the empty one.
        if !holds.starts_with("path") && !holds.starts_with("transport") && !holds.starts_with("percent") {
            assert!(router(&route(holds)).route(&local(), 0).is_err(), "{holds} without it");
        }
    }
}

#[test]
fn callers_without_credentials_come_in_from_this_machine_or_by_an_anonymous_route() {
    let closed = router("[[route]]\nname = \"r\"\nto = \"echo\"\n");
    let open = router("[[route]]\nname = \"r\"\nto = \"echo\"\nanonymous = true\n");
    for loopback in [true, false] {
        for forwarded in [true, false] {
            for authenticated in [true, false] {
                let request = RouteRequest { loopback, forwarded, authenticated, ..local() };
                let allowed = authenticated || (loopback && !forwarded);
                let result = closed.route(&request, 0);
                assert_eq!(result.is_ok(), allowed, "{loopback} {forwarded} {authenticated}");
                assert!(allowed || result.unwrap_err().code() == ErrorCode::Unauthorized);
                assert!(open.route(&request, 0).is_ok());
            }
        }
    }
}

#[test]
fn weights_labels_and_stickiness_hold_over_users_sessions_and_nodes() {
    let text = "[[route]]\nname = \"ab\"\nto = [{ agent = \"echo\", weight = 9, label = \"A\" }, \
                { agent = \"clip\", weight = 1, label = \"B\" }]\nfallback = [\"clip\", \"echo\"]\n";
    let (node_a, node_b) = (router(text), router(text));
    let mut first = 0u32;
    for user in 0..2000 {
        let call =
            |session: &str| RouteRequest { user: Some(format!("user-{user}")), session_id: session.into(), ..local() };
        let (one, two) = (node_a.route(&call("s1"), 0).unwrap(), node_b.route(&call("s2"), 0).unwrap());
        assert_eq!((&one.label, agents(&one)), (&two.label, agents(&two)), "the same user, whatever node and session");
        let label = one.label.as_deref().unwrap();
        assert_eq!(agents(&one), if label == "A" { ["echo", "clip"] } else { ["clip", "echo"] });
        first += u32::from(label == "A");
    }
    assert!((1740..1860).contains(&first), "{first} of 2000");
}

#[test]
fn sticky_says_what_is_hashed() {
    let route = |sticky: &str| {
        let text = format!("[[route]]\nname = \"r\"\nsticky = \"{sticky}\"\nto = [\"echo\", \"clip\"]\n");
        let router = router(&text);
        move |user: &str, conversation: &str, session: &str| {
            let request = RouteRequest {
                user: Some(user.to_owned()),
                conversation_id: Some(conversation.into()),
                session_id: session.into(),
                ..local()
            };
            agents(&router.route(&request, 0).unwrap())[0].to_owned()
        }
    };
    let varies = |call: &dyn Fn(String) -> String| (0..64).any(|n| call(n.to_string()) != call("x".into()));
    for (sticky, expected) in
        [("user", [true, false, false]), ("conversation", [false, true, false]), ("session", [false, false, true])]
    {
        let go = route(sticky);
        let found = [varies(&|n| go(&n, "c", "s")), varies(&|n| go("u", &n, "s")), varies(&|n| go("u", "c", &n))];
        assert_eq!(found, expected, "{sticky}");
    }
}

#[test]
fn set_ups_are_laid_over_one_another_and_filled_in() {
    let router = router(
        "[agent.echo.setup]\ninstructions = \"Agent for {claim.name}, {context.mood}\"\nvoice = \"one\"\n\
         greeting = { say = \"Hi {vars.first}, it is {now}\" }\n\
         [[route]]\nname = \"r\"\nto = \"echo\"\nfallback = \"clip\"\nsetup.voice = \"two\"\n",
    );
    let request = RouteRequest {
        claims: json!({"name": "Ada"}),
        vars: json!({"first": "A."}),
        context: json!({"mood": "so\nso"}),
        ..local()
    };
    let plan = router.route(&request, 86_400).unwrap();
    let setup = &plan.rungs[0].setup;
    assert_eq!(setup.instructions.as_deref(), Some("Agent for Ada, so so"));
    assert_eq!(setup.voice.as_deref(), Some("two"));
    assert_eq!(setup.greeting, Some(crate::message::Greeting::Say("Hi A., it is 1970-01-02T00:00:00Z".into())));
    assert_eq!(plan.rungs[1].setup.voice.as_deref(), Some("two"), "the route's set-up is for every rung");
}

#[test]
fn a_context_that_is_too_large_is_refused() {
    let router = router("");
    let context = |bytes: usize| RouteRequest { context: json!("x".repeat(bytes - 2)), ..local() };
    assert!(router.route(&context(2048), 0).is_ok());
    let error = router.route(&context(2049), 0).unwrap_err();
    assert_eq!((error.code(), error.field()), (ErrorCode::BadMessage, Some("context")));
    assert!(error.to_string().contains("2049 bytes"), "{error}");
}

#[test]
fn a_tenant_gets_its_own_key() {
    let router = router(
        "[agent.a]\nkind = \"websocket\"\nurl = \"ws://h\"\napi_key = \"${env:OURS}\"\n\
         credential.acme.api_key = \"${env:THEIRS}\"\n[[route]]\nname = \"r\"\nto = \"a\"\n",
    );
    let key = |tenant: Option<&str>| {
        let request = RouteRequest { tenant: tenant.map(str::to_owned), ..local() };
        let plan = router.route(&request, 0).unwrap();
        let AgentKind::Websocket(websocket) = &plan.rungs[0].agent.kind else { panic!() };
        secrecy::ExposeSecret::expose_secret(&websocket.headers[0].1).to_owned()
    };
    assert_eq!(key(None), "Bearer value-of-OURS");
    assert_eq!(key(Some("other")), "Bearer value-of-OURS");
    assert_eq!(key(Some("acme")), "Bearer value-of-THEIRS");
}

#[test]
fn agents_that_this_build_does_not_serve_are_left_out() {
    let agent = "[agent.o]\nkind = \"mux\"\n";
    let some = router(&format!("{agent}[[route]]\nname = \"r\"\nto = \"o\"\nfallback = \"echo\"\n"));
    assert_eq!(agents(&some.route(&local(), 0).unwrap()), ["echo"]);
    let none = router(&format!("{agent}[[route]]\nname = \"r\"\nto = \"o\"\n"));
    assert_eq!(none.route(&local(), 0).unwrap_err().code(), ErrorCode::AgentUnavailable);
}

#[test]
fn a_requested_agent_outside_of_the_zone_is_refused() {
    let router = router(
        "[agent.eu]\nkind = \"echo\"\nzone = \"eu\"\n[[route]]\nname = \"r\"\nto = \"requested\"\nzone = \"eu\"\n",
    );
    assert_eq!(agents(&router.route(&asking("eu"), 0).unwrap()), ["eu"]);
    assert_eq!(router.route(&asking("echo"), 0).unwrap_err().code(), ErrorCode::Forbidden);
}

#[test]
fn an_explanation_says_why() {
    let router = router(
        "[[route]]\nname = \"members\"\nmatch = { claim.subscription = \"active\", transport = \"webrtc\" }\nto = \"echo\"\n\
         [[route]]\nname = \"ab\"\nto = [{ agent = \"echo\", weight = 3, label = \"A\" }, \"clip\"]\n\
         [[route]]\nname = \"rest\"\nto = \"clip\"\n",
    );
    let text = router.explain(&RouteRequest { user: Some("ada".into()), ..local() }, 0).to_string();
    for part in [
        "route members: no\n    transport is websocket, the route wants webrtc\n    claim.subscription is absent, the route wants \"active\"",
        "route ab: matches",
        "`ada` falls on",
        "0.0 % to  75.0 %  echo (A)",
        "75.0 % to 100.0 %  clip",
        "not looked at, because the first match wins: rest",
        "let in, because it comes from this machine",
        "plan: route ab",
        "ends after 3600 s at the latest, after 120 s of silence",
    ] {
        assert!(text.contains(part), "{text}\ndoes not say\n{part}");
    }
    let text = router.explain(&RouteRequest { loopback: false, ..local() }, 0).to_string();
    assert!(text.contains("refused: route `ab` needs credentials"), "{text}");
}

proptest! {
    #[test]
    fn an_explanation_and_a_plan_never_disagree(agent in "[a-d]", user in "[a-z]{0,4}", session in "[a-z]{1,4}", local in any::<bool>()) {
        let router = router(
            "[[route]]\nname = \"one\"\nmatch = { agent = [\"a\", \"b\"], percent = 50 }\nto = [\"echo\", \"clip\"]\n\
             [[route]]\nname = \"two\"\nmatch = { agent = [\"b\", \"c\"] }\nanonymous = true\nto = \"clip\"\n",
        );
        let request = RouteRequest {
            agent: Some(agent.as_str().into()),
            user: (!user.is_empty()).then_some(user),
            session_id: session.as_str().into(),
            loopback: local,
            ..self::local()
        };
        let explanation = router.explain(&request, 0);
        let plan = router.route(&request, 0);
        let matched = explanation.considered.last().filter(|last| last.mismatches.is_empty());
        match &plan {
            Ok(plan) => prop_assert_eq!(plan.route.as_str(), matched.unwrap().route.as_str()),
            Err(RouteError::NoRoute) => prop_assert!(matched.is_none()),
            Err(_) => prop_assert!(matched.is_some()),
        }
    }

    #[test]
    fn a_star_stands_for_any_run(before in "[a-c]{0,4}", middle in "[a-c]{0,4}", after in "[a-c]{0,4}") {
        let text = format!("{before}{middle}{after}");
        let pattern = format!("{}*{}", before, after);
        prop_assert!(matches_glob(&pattern, &text));
        prop_assert!(matches_glob("*", &text) && matches_glob(&text.to_uppercase(), &text));
        let lacking = format!("{text}d");
        prop_assert!(!matches_glob(&text, &lacking));
    }

    #[test]
    fn templates_never_panic_and_keep_text_without_placeholders(text in "[^{}]{0,40}", noise in "[{}a-z.]{0,40}") {
        let null = Value::Null;
        let template = Template { claims: &null, vars: &null, context: &null, now: 0 };
        prop_assert_eq!(template.fill(&text), text);
        let _ = template.fill(&noise);
    }
}

#[test]
fn the_other_entries_of_a_pool_stand_behind_the_chosen_one_and_before_the_fallbacks() {
    let router = router(
        "[[route]]\nname = \"pool\"\nto = [{ agent = \"echo\", weight = 1 }, { agent = \"storyteller\", weight = 0 }, \
         { agent = \"clip\", weight = 1 }]\nfallback = \"storyteller\"\nsticky = \"user\"\n",
    );
    let of = |user: &str| router.route(&RouteRequest { user: Some(user.into()), ..local() }, 0).unwrap();
    let plans: Vec<Plan> = (0..20).map(|user| of(&format!("user-{user}"))).collect();
    for plan in &plans {
        let agents = agents(plan);
        assert!(agents == ["echo", "clip", "storyteller"] || agents == ["clip", "echo", "storyteller"], "{agents:?}");
        assert_eq!(plan.pool, 2, "an entry of weight 0 gets no calls");
    }
    assert!(plans.iter().any(|plan| agents(plan)[0] == "echo") && plans.iter().any(|plan| agents(plan)[0] == "clip"));
}

#[test]
fn an_agent_for_text_only_stands_behind_those_that_are_tried_by_themselves() {
    let router = router(
        "[[route]]\nname = \"r\"\nto = \"echo\"\nfallback = \"storyteller\"\n\
         when_down = [{ text = \"storyteller\" }, \"keep\"]\n",
    );
    let plan = router.route(&local(), 0).unwrap();
    assert_eq!((agents(&plan), plan.regular), (vec!["echo", "storyteller", "storyteller"], 2));
    let explained = router.explain(&local(), 0).to_string();
    assert!(
        explained.contains("when all are down: text only by storyteller, messages are kept for 300 s"),
        "{explained}"
    );
}
