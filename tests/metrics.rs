//! What a Prometheus server would say of `/metrics`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use antiphon::session::{Direction, Measure, Queue, Transport};
use antiphon::telemetry::{NodeQueue, Path, SessionLabels, Telemetry, names};

#[test]
fn the_rendered_metrics_pass_promtool() {
    let telemetry = Telemetry::new();
    let session = telemetry.session(SessionLabels {
        transport: Transport::Websocket,
        route: "default".into(),
        agent: "echo \"quoted\" \\ back".into(),
        label: None,
    });
    session.record_added(Direction::Up, Path::Transcode, Duration::from_micros(250));
    session.record(&Measure::Concealed(Duration::from_millis(20)));
    telemetry.node().record_config_taken("cafe", SystemTime::now());
    telemetry.node().worker(0).record_lag(Duration::from_micros(80));
    let text = telemetry.render();

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there (`make setup` installs it: Debian package prometheus)");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&verdict.stdout).into_owned() + &String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success() && said.trim().is_empty(), "promtool check metrics: {said}\n{text}");
}

#[test]
fn the_operations_guide_holds_the_reference_table_of_the_declared_metrics() {
    let guide = include_str!("../docs/operations.md");
    let (_, rest) = guide.split_once("<!-- metrics: begin -->\n").expect("the table's beginning is marked");
    let (table, _) = rest.split_once("<!-- metrics: end -->").expect("the table's end is marked");
    let declared = names::reference();
    assert!(
        table == declared,
        "docs/operations.md is behind src/telemetry/names.rs; between its marks belongs:\n\n{declared}"
    );
}

#[test]
fn the_table_of_queues_names_each_queue_that_is_counted() {
    let table = include_str!("../docs/queues.md");
    let audio = [Queue::Preroll, Queue::Uplink, Queue::Playout, Queue::Stale, Queue::Tap].map(Queue::label);
    let labels: Vec<&str> = audio.into_iter().chain(NodeQueue::ALL.map(NodeQueue::label)).collect();
    for label in &labels {
        assert!(table.contains(&format!("\n| `{label}` |")), "docs/queues.md has no row for {label}");
    }
    assert_eq!(table.matches("\n| `").count(), labels.len() + 1, "a row for each queue, and the head");
}
