//! `make test-live`, without anybody's keys: it refuses clearly, and with an emulator in the vendor's place it reports.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use antiphon::cli::emulate::vendor::script::Script;
use antiphon::config::vendor::VendorKind;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::Vendor;

async fn live(variables: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/run.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(env!("CARGO_BIN_EXE_antiphon")).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(variables.iter().copied());
    timeout(Duration::from_secs(60), command.output()).await.expect("it does not end").unwrap()
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
async fn the_report_of_a_call_names_no_key() {
    let vendor = Vendor::start(VendorKind::Deepgram, Some("very-secret"), Script::default()).await;
    let url = ("ANTIPHON_AGENT__DEEPGRAM__URL", vendor.url.as_str());
    let variables = [("DEEPGRAM_API_KEY", "very-secret"), url, ("LIVE_AGENTS", "deepgram"), ("LIVE_SECONDS", "30")];
    let output = live(&variables).await;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}{error}");
    assert!(!text.contains("very-secret") && text.contains("good"), "{text}");
    let report = text[text.find('{').unwrap()..].rsplit_once('}').unwrap().0.to_owned() + "}";
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["calls"][0]["record"]["agents"][0]["name"], "deepgram", "{report}");
    assert!(report["calls"][0]["record"]["agent_audio_heard_ms"].as_u64().unwrap() > 1000, "{report}");
}
