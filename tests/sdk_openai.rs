//! OpenAI's own client libraries hold full sessions: with the emulated vendor, which makes it one to be trusted, and with
//! antiphon in front of agents of any kind.

mod harness;

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use harness::{Daemon, PATIENCE, ask, command};

/// `antiphon emulate`, and where it is reached.
async fn emulate(kind: &str, arguments: &[&str]) -> (Child, String) {
    let mut command = command(&[]);
    command.args(["emulate", kind]).args(arguments).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let url = serde_json::from_str::<Value>(&line).unwrap()["listening"].as_str().unwrap().to_owned();
    (child, url)
}

/// Runs a script of `tests/sdk`; gives the JSON object that it ends with.
async fn script(name: &str, arguments: &[&str]) -> Value {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(python.exists(), "{} is missing; run `make setup`", python.display());
    run(Command::new(python), name, arguments).await
}

/// The same for a script that Node runs, with the packages of `clients`.
async fn node_script(name: &str, arguments: &[&str]) -> Value {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = root.join("clients/node_modules/@openai/agents-realtime");
    assert!(installed.exists(), "{} is missing; run `make setup`", installed.display());
    run(Command::new("node"), name, arguments).await
}

async fn run(mut interpreter: Command, name: &str, arguments: &[&str]) -> Value {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name);
    let output = interpreter
        .arg(script)
        .args(arguments)
        .env("OPENAI_AGENTS_DISABLE_TRACING", "1")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {out}\n{error}");
    serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{out}\n{error}"))
}

#[tokio::test]
async fn openai_python_holds_a_full_session_with_the_emulator() {
    let (_emulator, url) = emulate("openai", &["--tool", "weather", "--key", "sk-test"]).await;
    let base = url.replacen("ws", "http", 1).replace("/realtime", "");
    let told = script("openai_session.py", &[&base, "gpt-realtime"]).await;
    assert_eq!((&told["ok"], &told["tools"][0]), (&true.into(), &"weather".into()));
}

#[tokio::test]
async fn openai_agents_holds_a_full_session_with_the_emulator() {
    let (_emulator, url) = emulate("openai", &["--tool", "weather", "--key", "sk-test"]).await;
    let told = script("openai_agents.py", &[&format!("{url}?model=gpt-realtime")]).await;
    assert_eq!(told["ok"], true, "{told}");
}

/// antiphon in front of an emulated agent of a kind, as a client of the Realtime wire finds it.
async fn relay(kind: &str, client_may: &str, more: &str) -> (Child, Daemon) {
    relay_to(kind, &["--tool", "weather"], client_may, more).await
}

/// The same, with an agent that does as these arguments of `antiphon emulate` say.
async fn relay_to(kind: &str, plays: &[&str], client_may: &str, more: &str) -> (Child, Daemon) {
    let (emulator, url) = emulate(kind, plays).await;
    let id = if kind == "elevenlabs" { "agent_id = \"agent_1\"" } else { "" };
    let config = format!(
        "[agent.behind]\nkind = \"{kind}\"\nurl = \"{url}\"\napi_key = \"${{env:AGENT_KEY}}\"\n{id}\n\
         setup = {{ greeting = \"none\", transcribe = true }}\n\
         [[route]]\nname = \"all\"\nto = \"behind\"\nclient_may = {client_may}\n{more}"
    );
    (emulator, Daemon::start_with(Some(&config), &[("AGENT_KEY", "k")]).await)
}

/// The key of a server that makes client secrets.
const KEY: &str = "ak_00112233445566778899aabbccddeeff";

fn backend() -> String {
    let hash = antiphon::auth::api_key::Hash::of(KEY);
    format!("[auth.key.backend]\nhash = \"{hash}\"\nmint = true\n")
}

/// A client secret that this server asks for.
async fn secret(daemon: &Daemon) -> String {
    let bearer = format!("authorization: Bearer {KEY}");
    let (status, _, body) = ask(daemon.http, "POST", "/v1/realtime/client_secrets", &[&bearer], "{}").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["value"].as_str().unwrap().to_owned()
}

/// What the stock clients ask for.
const CLIENT_MAY: &str = r#"["tools", "turns", "instructions"]"#;

/// The tools that the echo must name: those that the agent takes.
fn tools(kind: &str) -> Value {
    json!(if kind == "elevenlabs" { vec![] } else { vec!["weather"] })
}

/// Holds a call, and looks at its record.
async fn held(daemon: &mut Daemon, kind: &str, told: &Value) {
    assert_eq!(told["ok"], true, "{kind}: {told}");
    let record = daemon.call_record().await;
    let tools = record["tools"].as_array().map(Vec::len);
    assert!(tools == Some(1) && record["interruptions"].as_u64() >= Some(1), "{kind}: {record}");
    daemon.signal("TERM");
    daemon.ended().await;
}

#[tokio::test]
async fn openai_python_holds_a_full_call_with_agents_of_other_vendors() {
    for kind in ["openai", "elevenlabs", "deepgram", "gemini"] {
        let (_emulator, mut daemon) = relay(kind, CLIENT_MAY, "").await;
        let told = script("openai_session.py", &[&format!("http://{}/v1", daemon.http), "gpt-realtime"]).await;
        assert_eq!(told["tools"], tools(kind), "{kind}: the echo tells the truth");
        held(&mut daemon, kind, &told).await;
    }
}

#[tokio::test]
async fn openai_agents_holds_a_full_call_with_agents_of_other_vendors() {
    for kind in ["elevenlabs", "gemini"] {
        let (_emulator, mut daemon) = relay(kind, CLIENT_MAY, "").await;
        let url = format!("ws://{}/v1/realtime?model=gpt-realtime", daemon.http);
        let told = script("openai_agents.py", &[&url]).await;
        held(&mut daemon, kind, &told).await;
    }
}

#[tokio::test]
async fn openai_agents_for_javascript_holds_a_full_session_with_the_emulator() {
    let (_emulator, url) = emulate("openai", &["--tool", "weather", "--key", "ek_test"]).await;
    let told = node_script("agents_realtime.mjs", &["websocket", &format!("{url}?model=gpt-realtime")]).await;
    assert_eq!(told["ok"], true, "{told}");
}

#[tokio::test]
async fn openai_agents_for_javascript_holds_full_calls_over_websocket_with_agents_of_other_vendors() {
    for kind in ["elevenlabs", "gemini"] {
        let (_emulator, mut daemon) = relay(kind, CLIENT_MAY, "").await;
        let url = format!("ws://{}/v1/realtime?model=gpt-realtime", daemon.http);
        let told = node_script("agents_realtime.mjs", &["websocket", &url]).await;
        assert_eq!(told["roles"][0], "user", "{kind}: the history is in order: {told}");
        held(&mut daemon, kind, &told).await;
    }
}

#[tokio::test]
async fn openai_agents_for_javascript_holds_full_calls_over_webrtc_whatever_agent_is_behind() {
    for kind in ["openai", "elevenlabs", "gemini"] {
        let (_emulator, mut daemon) = relay(kind, CLIENT_MAY, &backend()).await;
        let url = format!("http://{}/v1/realtime/calls?model=gpt-realtime", daemon.http);
        let told = node_script("agents_realtime.mjs", &["webrtc", &url, &secret(&daemon).await]).await;
        let named: Value =
            told["session"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
        assert_eq!(named, tools(kind), "{kind}: the echo tells the truth");
        held(&mut daemon, kind, &told).await;
    }
}

#[tokio::test]
async fn openai_python_makes_calls_over_webrtc_whatever_agent_is_behind() {
    for kind in ["openai", "deepgram", "gemini"] {
        let (_emulator, mut daemon) = relay(kind, CLIENT_MAY, "").await;
        let told = script("openai_call.py", &[&format!("http://{}/v1", daemon.http), "gpt-realtime"]).await;
        assert_eq!(told["refusals"][0], json!([400, "bad_offer"]), "{kind}: {told}");
        held(&mut daemon, kind, &told).await;
    }
}

#[tokio::test]
async fn openai_python_changes_what_the_route_lets_it_and_is_told_the_truth() {
    let fields = |session: &Value| {
        let (input, output) = (&session["audio"]["input"], &session["audio"]["output"]);
        json!([
            session["instructions"],
            session["tools"].as_array().map(Vec::len),
            input["turn_detection"]["type"],
            input["transcription"]["language"],
            output["voice"],
        ])
    };
    let first = json!(["Be rude.", 1, null, "de", "cedar"]);
    let second = json!(["", 1, null, "de", "ash"]);
    for (client_may, expected) in [
        ("[]", [json!(["", 0, "server_vad", null, "marin"]), json!(["", 0, "server_vad", null, "marin"])]),
        (r#"["voice"]"#, [json!(["", 0, "server_vad", null, "cedar"]), json!(["", 0, "server_vad", null, "ash"])]),
        (r#"["voice", "instructions", "tools", "turns", "language", "model"]"#, [first, second]),
    ] {
        let own = "setup = { voice = \"marin\", instructions = \"Be kind.\" }\n";
        let (_emulator, daemon) = relay("openai", client_may, own).await;
        let told = script("openai_update.py", &[&format!("http://{}/v1", daemon.http), "gpt-realtime"]).await;
        let told: Vec<&Value> = told.as_array().unwrap().iter().collect();
        assert_eq!(told.iter().map(|session| fields(session)).collect::<Vec<_>>(), expected, "{client_may}");
        for session in told {
            assert_eq!((&session["model"], &session["output_modalities"]), (&json!("gpt-realtime"), &json!(["audio"])));
            assert!(session.get("tool_choice").is_none() && session["audio"]["output"].get("speed").is_none());
        }
    }
}

#[tokio::test]
async fn openai_python_makes_a_client_secret_and_calls_with_it() {
    let daemon = Daemon::start_with(Some(&backend()), &[]).await;
    let told = script("openai_secret.py", &[&format!("http://{}/v1", daemon.http), KEY]).await;
    let statuses = json!([401, "token_signature", 401, "api_key_unknown", 403]);
    assert_eq!(told, json!({ "ok": true, "statuses": statuses, "code": "token_scope" }));
}

#[tokio::test]
async fn openai_python_is_told_that_an_agent_has_failed_in_mid_answer() {
    for kind in ["openai", "elevenlabs"] {
        let (_emulator, daemon) = relay_to(kind, &["--close-at-ms", "1000"], CLIENT_MAY, "").await;
        let told = script("openai_failed.py", &[&format!("http://{}/v1", daemon.http), "gpt-realtime"]).await;
        let errors = json!([["server_error", "agent_unavailable"]]);
        let expected = json!({ "heard": true, "responses": ["failed"], "errors": errors, "code": 1013 });
        assert_eq!(told, expected, "{kind}");
    }
}
