//! `make test-live`, without anybody's keys: it refuses clearly, and with an emulator in the vendor's place it reports.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use antiphon::cli::emulate::vendor::script::Script;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::Vendor;
use crate::examples::{KEYS, WITH_KEYS};

async fn live(variables: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/run.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(env!("CARGO_BIN_EXE_antiphon")).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(variables.iter().copied());
    timeout(Duration::from_secs(150), command.output()).await.expect("it does not end").unwrap()
}

#[tokio::test]
async fn nobody_is_called_without_keys_or_above_the_cap() {
    let output = live(&[]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("No vendor is called") && error.contains("ELEVENLABS_API_KEY, ELEVENLABS_AGENT_ID"),
        "{error}"
    );
    let output = live(&[("DEEPGRAM_API_KEY", "secret"), ("LIVE_MAX_COST", "0.1")]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(2) && error.contains("may cost 0.33, more than LIVE_MAX_COST = 0.1"),
        "{error}"
    );
}

#[tokio::test]
async fn each_vendor_is_called_and_the_report_names_no_key_and_no_word() {
    let mut vendors = Vec::new();
    let mut variables: Vec<(String, String)> = [("LIVE_SECONDS", "30"), ("LIVE_MAX_COST", "5"), ("LIVE_PARALLEL", "4")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    for (_, agent, kind) in WITH_KEYS {
        let vendor = Vendor::start(kind, Some("very-secret"), Script::default()).await;
        variables.push((format!("ANTIPHON_AGENT__{}__URL", agent.to_uppercase()), vendor.url.clone()));
        vendors.push(vendor);
    }
    variables.extend(KEYS.map(|key| (key.to_owned(), "very-secret".to_owned())));
    variables.push(("ELEVENLABS_AGENT_ID".to_owned(), "secret-agent".to_owned()));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = live(&variables).await;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}{error}");
    for private in ["very-secret", "secret-agent", "Hello, and welcome"] {
        assert!(!text.contains(private), "{private}: {text}");
    }
    let report = text[text.find('{').unwrap()..].rsplit_once('}').unwrap().0.to_owned() + "}";
    let report: Value = serde_json::from_str(&report).unwrap();
    for (at, (name, agent, kind)) in WITH_KEYS.into_iter().enumerate() {
        let call = &report["calls"][at];
        assert_eq!((&call["agent"], &call["record"]["agents"][0]["name"]), (&name.into(), &agent.into()), "{call}");
        assert!(call["record"]["agent_audio_heard_ms"].as_u64() > Some(1000), "{call}");
        let reports_usage = !kind.units().is_empty();
        assert_eq!(call["record"]["usage"].as_object().is_some_and(|usage| !usage.is_empty()), reports_usage, "{call}");
        assert!(call["record"]["cost"].is_null(), "without prices nothing is known: {call}");
    }
}
