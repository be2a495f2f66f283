//! OpenAI's own client libraries hold full sessions: with the emulated vendor, which makes it one to be trusted, and with
//! antiphon in front of agents of any kind.

mod harness;

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use harness::{Daemon, PATIENCE, command};

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
    let output = Command::new(python)
        .arg(root.join("tests/sdk").join(name))
        .args(arguments)
        .env("OPENAI_AGENTS_DISABLE_TRACING", "1")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {out}\n{error}");
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
async fn relay(kind: &str, client_may: &str) -> (Child, Daemon) {
    let (emulator, url) = emulate(kind, &["--tool", "weather"]).await;
    let more = if kind == "elevenlabs" { "agent_id = \"agent_1\"" } else { "" };
    let config = format!(
        "[agent.behind]\nkind = \"{kind}\"\nurl = \"{url}\"\napi_key = \"${{env:AGENT_KEY}}\"\n{more}\nsetup.greeting = \"none\"\nsetup.transcribe = true\n\
         [[route]]\nname = \"all\"\nto = \"behind\"\nclient_may = {client_may}\n"
    );
    (emulator, Daemon::start_with(Some(&config), &[("AGENT_KEY", "k")]).await)
}

#[tokio::test]
async fn openai_python_holds_a_full_call_with_agents_of_other_vendors() {
    for kind in ["openai", "elevenlabs", "deepgram"] {
        let (_emulator, mut daemon) = relay(kind, r#"["tools", "turns", "instructions"]"#).await;
        let told = script("openai_session.py", &[&format!("http://{}/v1", daemon.http), "gpt-realtime"]).await;
        assert_eq!((&told["ok"], &told["tools"][0]), (&true.into(), &"weather".into()), "{kind}");
        let record = daemon.call_record().await;
        assert!(
            record["tools"].as_array().map(Vec::len) == Some(1) && record["interruptions"].as_u64() >= Some(1),
            "{kind}: {record}"
        );
        daemon.signal("TERM");
        daemon.ended().await;
    }
}

#[tokio::test]
async fn openai_agents_holds_a_full_call_with_an_agent_of_another_vendor() {
    let (_emulator, daemon) = relay("elevenlabs", r#"["tools", "turns", "instructions"]"#).await;
    let url = format!("ws://{}/v1/realtime?model=gpt-realtime", daemon.http);
    assert_eq!(script("openai_agents.py", &[&url]).await["ok"], true);
}

#[tokio::test]
async fn openai_python_makes_a_client_secret_and_calls_with_it() {
    let key = "ak_00112233445566778899aabbccddeeff";
    let hash = antiphon::auth::api_key::Hash::of(key);
    let config = format!("[auth.key.backend]\nhash = \"{hash}\"\nmint = true\n");
    let daemon = Daemon::start_with(Some(&config), &[]).await;
    let told = script("openai_secret.py", &[&format!("http://{}/v1", daemon.http), key]).await;
    assert_eq!(told, serde_json::json!({ "ok": true, "statuses": [401, 401, 403], "code": "token_scope" }));
}
