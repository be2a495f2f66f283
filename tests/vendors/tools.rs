//! Tools that the relay runs by HTTP: one request for each call, whatever happens to agent and client meanwhile.

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use antiphon::media::format::Format;
use antiphon::upstream::exchange::signature;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::Vendor;
use crate::harness::agent::{AgentLink, AgentServer};
use crate::harness::program::Program;
use crate::harness::tool::ToolServer;
use crate::harness::{Caller, Daemon, Heard, PATIENCE};
use crate::person::Person;

/// A way to a vendor that can be cut.
struct Wire {
    near: String,
    task: AbortOnDropHandle<()>,
}

impl Wire {
    async fn to(vendor: &Vendor) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap().to_string();
        let (far, near) = (vendor.host().to_owned(), vendor.url.replace(vendor.host(), &near));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let far = far.clone();
                connections.spawn(async move {
                    let mut far = TcpStream::connect(far).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Wire { near, task: AbortOnDropHandle::new(task) }
    }

    fn cut(self) {
        self.task.abort();
    }
}

fn tool(url: &str, timeout_ms: u32) -> String {
    format!(
        "[tool.lookup_order]\ndescription = \"Find an order\"\nrun = \"http\"\nurl = \"{url}\"\n\
         secret = \"${{env:TOOL_SECRET}}\"\ntimeout_ms = {timeout_ms}\n"
    )
}

fn agent(name: &str, kind: VendorKind, url: &str) -> String {
    let id = if kind == VendorKind::Elevenlabs { "agent_id = \"agent_1\"\n" } else { "" };
    format!(
        "[agent.{name}]\nkind = \"{}\"\nurl = \"{url}\"\napi_key = \"${{env:TEST_KEY}}\"\n{id}\
         setup = {{ tools = [\"lookup_order\"] }}\n",
        kind.label()
    )
}

const VARIABLES: [(&str, &str); 2] = [("TEST_KEY", "secret"), ("TOOL_SECRET", "tool-secret")];

/// The first agent calls the tool and dies; the second one, of another vendor, `calls_too` or only listens.
async fn killed_between_call_and_result(first: VendorKind, second: VendorKind, calls_too: bool) {
    let plays = |tool: bool| Script { tool: tool.then(|| "lookup_order".into()), ..Script::default() };
    let first_vendor = Vendor::start(first, Some("secret"), plays(true)).await;
    let second_vendor = Vendor::start(second, Some("secret"), plays(calls_too)).await;
    let mut tools = ToolServer::start().await;
    let wire = Wire::to(&first_vendor).await;
    let config = format!(
        "[[route]]\nname = \"r\"\nto = \"first\"\nfallback = \"second\"\n{}{}{}",
        tool(&tools.url, 15_000),
        agent("first", first, &wire.near),
        agent("second", second, &second_vendor.url)
    );
    let daemon = Daemon::start_with(Some(&config), &VARIABLES).await;
    let mut person = Person::call(&daemon, "first", Format::pcm16(24_000)).await;
    person.until("the agent", |person| !person.said("agent").iter().all(|agent| agent["status"] == "connecting")).await;
    person.say(json!({ "type": "message", "id": "m", "text": "Where is my order?" })).await;

    let asked = tools.asked().await;
    let signed = asked.header("antiphon-signature");
    let time = signed.strip_prefix("t=").and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap();
    assert_eq!(signed, signature(&"tool-secret".to_owned().into(), time, &asked.raw), "{first:?}");
    let key = asked.header("idempotency-key").to_owned();
    assert!(key.starts_with(asked.body["session_id"].as_str().unwrap()), "{key}: {}", asked.body);
    assert_eq!(
        (&asked.body["name"], &asked.body["arguments"], &asked.body["agent"]),
        (&"lookup_order".into(), &json!({ "query": "as scripted" }), &"first".into())
    );

    wire.cut();
    person.until("the second agent", |person| person.said("agent").iter().any(|a| a["status"] == "fallback")).await;
    if calls_too {
        let called = |vendor: &Vendor| !vendor.logged("/event", "tool_call").is_empty();
        person.until("the same call of the second agent", |_| called(&second_vendor)).await;
    }
    let turns = |person: &Person| person.said("turn").iter().filter(|turn| turn["phase"] == "start").count();
    let before = turns(&person);
    asked.answer(200, r#"{"status":"sent on Friday"}"#);
    // A result that overtakes the second agent's call on its way to the relay is told as news, and answers the call too.
    let knows = |line: &Value| line.to_string().contains("sent on Friday");
    let results = |vendor: &Vendor| vendor.logged("/event", "tool_result");
    let learns = |vendor: &Vendor| if calls_too { !results(vendor).is_empty() } else { vendor.any(knows) };
    person.until("the result at the second agent", |_| learns(&second_vendor)).await;
    let results = results(&second_vendor);
    assert!(results.iter().all(|result| result["known"] == true && knows(result)), "{results:?}");
    person.until("the answer by the result", |person| turns(person) > before).await;
    person.until("the end of the tool", |person| person.said("tool").iter().any(|tool| tool["status"] == "done")).await;
    assert!(person.said("tool_call").is_empty(), "it is not the client's");

    person.say(json!({ "type": "end" })).await;
    person.until("the end", |_| false).await;
    assert_eq!(tools.count(), 1, "{first:?} to {second:?}: one request");
    let record = daemon.call_record().await;
    assert_eq!(record["agents"].as_array().map(Vec::len), Some(2), "{record}");
    let [entry] = &record["tools"].as_array().unwrap()[..] else { panic!("{record}") };
    assert_eq!(
        (&entry["name"], &entry["by"], &entry["result"]),
        (&"lookup_order".into(), &"http".into(), &"ok".into())
    );
    assert!(daemon.metric("antiphon_tool_calls_total", "tool=\"lookup_order\",result=\"ok\"").await == 1.0);
    assert!(!daemon.log().contains("tool-secret") && !daemon.log().contains("hidden"), "a secret is in the log");
}

#[tokio::test]
async fn openai_dies_between_call_and_result_and_deepgram_gets_the_result_of_the_one_request() {
    killed_between_call_and_result(VendorKind::Openai, VendorKind::Deepgram, true).await;
}

#[tokio::test]
async fn deepgram_dies_between_call_and_result_and_openai_gets_the_result_of_the_one_request() {
    killed_between_call_and_result(VendorKind::Deepgram, VendorKind::Openai, true).await;
}

#[tokio::test]
async fn gemini_dies_between_call_and_result_and_openai_which_does_not_call_is_told_the_result() {
    killed_between_call_and_result(VendorKind::Gemini, VendorKind::Openai, false).await;
}

#[tokio::test]
async fn a_vendor_that_takes_its_call_back_breaks_the_request_off_and_the_client_knows() {
    for kind in [VendorKind::Gemini, VendorKind::Deepgram, VendorKind::Pipecat] {
        let plays = Script { tool: Some("lookup_order".into()), cancel_tool: true, ..Script::default() };
        let vendor = Vendor::start(kind, Some("secret"), plays).await;
        let mut tools = ToolServer::start().await;
        let config = format!(
            "[[route]]\nname = \"r\"\nto = \"vendor\"\n{}{}",
            tool(&tools.url, 15_000),
            agent("vendor", kind, &vendor.url)
        );
        let daemon = Daemon::start_with(Some(&config), &VARIABLES).await;
        let mut person = Person::call(&daemon, "vendor", Format::pcm16(24_000)).await;
        person.until("the agent", |person| person.said("agent").iter().any(|agent| agent["status"] == "ready")).await;
        person.say(json!({ "type": "message", "id": "m", "text": "Where is my order?" })).await;
        let asked = tools.asked().await;
        person.speak();
        let told = |person: &Person| person.said("tool").iter().any(|tool| tool["status"] == "cancelled");
        person.until("the end of the tool", told).await;
        asked.gone().await;
        person.say(json!({ "type": "end" })).await;
        person.until("the end", |_| false).await;
        assert_eq!((tools.count(), vendor.logged("/event", "tool_result").len()), (1, 0), "{kind:?}");
        assert_eq!(daemon.call_record().await["tools"][0]["result"], "cancelled", "{kind:?}");
        assert_eq!(daemon.metric("antiphon_tool_calls_total", "result=\"cancelled\"").await, 1.0);
    }
}

/// A call with an agent of ours that may use the tool.
async fn own_agent(tool_url: &str, timeout_ms: u32) -> (Daemon, Caller, AgentLink) {
    own_agent_with(tool_url, timeout_ms, "").await
}

async fn own_agent_with(tool_url: &str, timeout_ms: u32, more: &str) -> (Daemon, Caller, AgentLink) {
    let server = AgentServer::bind().await;
    let (daemon, caller) = call_own(&server, tool_url, timeout_ms, more).await;
    let mut agent = server.accept().await;
    agent.begin().await;
    (daemon, caller, agent)
}

async fn call_own(server: &AgentServer, tool_url: &str, timeout_ms: u32, more: &str) -> (Daemon, Caller) {
    let config = format!(
        "[[route]]\nname = \"r\"\nto = \"own\"\n{}{more}[agent.own]\nkind = \"websocket\"\nurl = \"{}\"\n\
         setup = {{ tools = [\"lookup_order\"] }}\n",
        tool(tool_url, timeout_ms),
        server.url()
    );
    let daemon = Daemon::start_with(Some(&config), &VARIABLES).await;
    let mut caller = Caller::connect(&daemon).await;
    caller.say(json!({ "type": "start", "metadata": { "campaign": "spring" } })).await;
    (daemon, caller)
}

async fn call(agent: &mut AgentLink, id: &str, arguments: Value) {
    let arguments = arguments.to_string();
    agent.say(json!({ "type": "tool_call", "call_id": id, "name": "lookup_order", "arguments": arguments })).await;
}

#[tokio::test]
async fn a_call_that_is_taken_back_or_takes_too_long_is_broken_off_at_the_tool() {
    let mut tools = ToolServer::start().await;
    let (daemon, mut caller, mut agent) = own_agent(&tools.url, 15_000).await;
    call(&mut agent, "c1", json!({ "number": 17 })).await;
    let asked = tools.asked().await;
    assert_eq!(asked.body["metadata"], json!({ "campaign": "spring" }));
    assert_eq!(caller.hear_type("tool").await["status"], "running");
    agent.say(json!({ "type": "tool", "call_id": "c1", "name": "lookup_order", "status": "cancelled" })).await;
    asked.gone().await;
    assert_eq!(caller.hear_type("tool").await["status"], "cancelled");
    drop((daemon, caller, agent));

    let (daemon, mut caller, mut agent) = own_agent(&tools.url, 300).await;
    call(&mut agent, "c1", json!({})).await;
    tools.asked().await.gone().await;
    let result = agent.hear_type("tool_result").await;
    assert!(result["is_error"] == true && result["output"].as_str().unwrap().contains("in time"), "{result}");
    while caller.hear_type("tool").await["status"] != "timeout" {}
    assert_eq!(daemon.metric("antiphon_tool_calls_total", "result=\"timeout\"").await, 1.0);
}

#[tokio::test]
async fn whatever_a_tool_answers_the_agent_learns_what_it_may_know() {
    let mut tools = ToolServer::start().await;
    let (daemon, mut caller, mut agent) = own_agent(&tools.url, 15_000).await;
    let cases = [
        (200, r#"{"a":1}"#, false, r#"{"a":1}"#),
        (404, "there is no such order", true, "there is no such order"),
        (500, "Traceback: /srv/app.py", true, "the tool failed (status 500)"),
        (302, "elsewhere", true, "the tool failed (status 302)"),
        (200, &"x".repeat(64 * 1024 + 1), true, "the tool's answer cannot be used"),
    ];
    for (index, (status, body, is_error, output)) in cases.into_iter().enumerate() {
        call(&mut agent, &format!("c{index}"), json!({ "number": index })).await;
        tools.asked().await.answer(status, body);
        let result = agent.hear_type("tool_result").await;
        let told = (result["is_error"].as_bool().unwrap_or(false), result["output"].as_str().unwrap());
        assert_eq!(told, (is_error, output));
    }
    assert_eq!(tools.count(), cases.len(), "nothing is tried twice");
    caller.say(json!({ "type": "end" })).await;
    caller.hear_out().await;
    let results: Vec<Value> =
        daemon.call_record().await["tools"].as_array().unwrap().iter().map(|t| t["result"].clone()).collect();
    assert_eq!(results, ["ok", "error", "error", "error", "error"]);
}

#[tokio::test]
async fn a_client_that_comes_back_on_a_new_link_finds_its_tool_running_once() {
    let mut tools = ToolServer::start().await;
    let (daemon, mut caller, mut agent) = own_agent(&tools.url, 15_000).await;
    let started = caller.hear_type("started").await;
    call(&mut agent, "c1", json!({ "number": 17 })).await;
    let asked = tools.asked().await;
    drop(caller);
    let mut caller = Caller::connect(&daemon).await;
    caller.say(json!({ "type": "start", "resume": started["resume_token"] })).await;
    assert_eq!(caller.hear_type("started").await["session_id"], started["session_id"]);
    asked.answer(200, "sent on Friday");
    assert_eq!(agent.hear_type("tool_result").await["output"], "sent on Friday");
    while caller.hear_type("tool").await["status"] != "done" {}
    assert_eq!(tools.count(), 1);
}

#[tokio::test]
async fn a_tool_that_runs_over_a_rollover_is_asked_once_and_the_fresh_session_learns_the_result() {
    let mut tools = ToolServer::start().await;
    let server = AgentServer::bind().await;
    let (daemon, mut caller) = call_own(&server, &tools.url, 15_000, "").await;
    let mut agent = server.accept().await;
    agent.begin().await;
    call(&mut agent, "c1", json!({ "number": 17 })).await;
    let asked = tools.asked().await;
    agent.say(json!({ "type": "draining", "reconnect_after_ms": 0, "deadline_ms": 500 })).await;
    let mut fresh = server.accept().await;
    fresh.begin().await;
    agent.hear_type("end").await;
    asked.answer(200, "sent on Friday");
    // It was asked to go on before.
    while !fresh.hear_type("message").await["text"].as_str().unwrap().contains("sent on Friday") {}
    while caller.hear_type("tool").await["status"] != "done" {}
    assert_eq!(tools.count(), 1);
    assert_eq!(daemon.metric("antiphon_rollovers_total", "agent=\"own\"").await, 1.0);
}

#[tokio::test]
async fn the_example_server_takes_what_antiphon_signs_and_nothing_else() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = tokio::process::Command::new(root.join(".venv/bin/python"));
    command.arg(root.join("examples/tool_server.py")).arg("0").env("TOOL_SECRET", "tool-secret");
    let mut server = Program::start(command);
    let port = server.line().await.rsplit(' ').next().unwrap().to_owned();
    let (_daemon, _caller, mut agent) = own_agent(&format!("http://127.0.0.1:{port}/"), 15_000).await;
    call(&mut agent, "c1", json!({ "number": 17 })).await;
    assert_eq!(agent.hear_type("tool_result").await["output"], r#"{"status": "sent on Friday"}"#);
    assert_eq!(server.line().await, r#"called lookup_order {"number": 17}"#);
    call(&mut agent, "c2", json!({ "number": 1 })).await;
    let result = agent.hear_type("tool_result").await;
    assert!(result["is_error"] == true && result["output"].as_str().unwrap().contains("no such order"), "{result}");
    let wrong = timeout(
        PATIENCE,
        crate::harness::ask(
            format!("127.0.0.1:{port}").parse().unwrap(),
            "POST",
            "/",
            &["antiphon-signature: t=1,v1=00", "idempotency-key: k"],
            "{}",
        ),
    );
    assert_eq!(wrong.await.unwrap().0, 401);
}

#[tokio::test]
async fn whoever_waits_for_a_tool_hears_the_filler_and_the_result_comes_all_the_same() {
    let mut tools = ToolServer::start().await;
    let more = "filler = { after_ms = 100 }\n";
    let (_daemon, mut caller, mut agent) = own_agent_with(&tools.url, 15_000, more).await;
    call(&mut agent, "c1", json!({})).await;
    let asked = tools.asked().await;
    while !matches!(caller.hear().await, Heard::Audio(_)) {}
    asked.answer(200, "done");
    assert_eq!(agent.hear_type("tool_result").await["output"], "done");
}

#[tokio::test]
async fn vendors_hang_up_by_the_built_in_tool() {
    for kind in [VendorKind::Openai, VendorKind::Gemini, VendorKind::Deepgram] {
        let plays = Script { tool: Some("end_call".into()), ..Script::default() };
        let vendor = Vendor::start(kind, Some("secret"), plays).await;
        let agent = agent("vendor", kind, &vendor.url).replace("lookup_order", "end_call");
        let config = format!("[[route]]\nname = \"r\"\nto = \"vendor\"\n{agent}");
        let daemon = Daemon::start_with(Some(&config), &VARIABLES).await;
        let mut person = Person::call(&daemon, "vendor", Format::pcm16(24_000)).await;
        person.until("the agent", |person| person.said("agent").iter().any(|agent| agent["status"] == "ready")).await;
        person.say(json!({ "type": "message", "id": "m", "text": "Goodbye." })).await;
        person.until("the end", |_| false).await;
        assert_eq!(person.said("ended")[0]["reason"], "agent_hangup", "{kind:?}");
        assert_eq!(
            (&person.said("tool")[0]["name"], &person.said("tool")[0]["status"]),
            (&"end_call".into(), &"done".into())
        );
        assert_eq!(daemon.call_record().await["tools"][0]["by"], "relay");
    }
}
