//! Logs of a whole process, as another one sees them on its standard error.

use std::process::Command;

use antiphon::config::settings::LogFormat;
use antiphon::telemetry::{CallRecordSink, CallRecordTarget, Telemetry, logs};
use std::time::Duration;

const CHILD: &str = "ANTIPHON_TEST_LOGS";

#[derive(serde::Serialize)]
struct Record {
    session_id: &'static str,
}

/// Logs as a daemon does, in the process that the test below starts.
fn log_and_end(format: LogFormat) {
    let telemetry = Telemetry::new();
    let logs = logs::init(format, "info", &telemetry).unwrap();
    assert!(logs::init(format, "info", &telemetry).is_err(), "once per process");
    let records = CallRecordSink::open(CallRecordTarget::Log, &telemetry).unwrap();
    for number in 0..50 {
        let _session = tracing::info_span!("session", session = number).entered();
        tracing::info!("begins");
        tracing::warn!("noisy");
        tracing::debug!("hidden");
    }
    assert!(records.try_send(Record { session_id: "s-1" }));
    assert!(records.flush(Duration::from_secs(10)));
    drop(logs);
}

fn standard_error_of(format: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["all_lines_reach_standard_error_before_the_process_ends", "--exact", "--nocapture"])
        .env(CHILD, format)
        .env_remove("JOURNAL_STREAM")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn all_lines_reach_standard_error_before_the_process_ends() {
    match std::env::var(CHILD).as_deref() {
        Ok("json") => return log_and_end(LogFormat::Json),
        Ok(_) => return log_and_end(LogFormat::Auto),
        Err(_) => {}
    }
    let text = standard_error_of("auto");
    assert_eq!(text.matches("begins").count(), 50, "{text}");
    assert_eq!(text.matches("noisy").count(), 10, "{text}");
    assert!(!text.contains("hidden") && !text.contains('\u{1b}'), "{text}");

    let lines: Vec<serde_json::Value> = standard_error_of("json")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert_eq!(lines.iter().filter(|line| line["message"] == "begins").count(), 50);
    assert_eq!(lines[2]["span"]["session"], 1);
    let record = lines.iter().find(|line| line["target"] == "antiphon::call").expect("the call record");
    assert_eq!(record["record"], r#"{"session_id":"s-1"}"#);
}
