//! Every declared metric, driven through the handles that the rest of the crate uses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::names::{self, Kind};
use super::*;
use crate::message::{Basis, CloseReason, FailureClass};
use crate::session::{Direction, Ignored, Interrupter, Measure, Queue, TapEvent, ToolOutcome, Transport};

fn labels() -> SessionLabels {
    SessionLabels {
        transport: Transport::Websocket,
        route: "default".into(),
        agent: "storyteller".into(),
        label: Some("A".into()),
    }
}

/// A call in which everything happens that is counted.
fn eventful(telemetry: &Telemetry) {
    let span = Duration::from_micros(1500);
    let node = telemetry.node();
    let cluster = telemetry.cluster();
    cluster.record_up(true);
    cluster.record_trouble(crate::cluster::Trouble::Late);
    cluster.record_command(span, true);
    cluster.record_wait(WaitResult::Answered);
    cluster.record_queues(1, 1, 1);
    cluster.record_peers(3);
    cluster.record_lost_report();
    cluster.record_lost_entry();
    cluster.record_limit("chunks", "audio_frames", 1, 1);
    cluster.record_keys("rate", 1, 1);
    let worker = node.worker(0);
    let session = telemetry.session(labels());
    worker.record_lag(span);
    for direction in [Direction::Up, Direction::Down] {
        for path in Path::ALL {
            session.record_added(direction, path, span);
        }
        session.record_codec_delay(direction, span);
    }
    for stage in SetupStage::ALL {
        session.record_setup(stage, span);
    }
    for measure in [
        Measure::FirstAudio(span),
        Measure::BargeInStop(span),
        Measure::UplinkLoss { lost: 2, recovered: 1 },
        Measure::UplinkLate(1),
        Measure::RoundTrip(span),
        Measure::Jitter { direction: Direction::Up, jitter: span },
        Measure::PeerLoss(0.1),
        Measure::PlayoutWait(span),
        Measure::CodecDelay { direction: Direction::Up, delay: span },
        Measure::EncoderComplexity(1),
        Measure::Concealed(span),
        Measure::Filled(span),
        Measure::GapWait(span),
        Measure::Dropped { queue: Queue::Stale, audio: span },
        Measure::UplinkSkew(span),
        Measure::PlayoutDepth(span),
        Measure::Heard { basis: Basis::Marked },
        Measure::Interruption { by: Interrupter::Relay },
        Measure::BargeInIgnored(Ignored::Echo),
        Measure::PauseEnded { confirmed: false },
        Measure::Failover { reason: "lost" },
        Measure::DownStep("keep"),
        Measure::Down { span, recovered: true },
        Measure::Rollover,
        Measure::Replayed { chars: 120 },
        Measure::UpstreamReady(span),
        Measure::InterimSkipped,
        Measure::Ignored,
        Measure::Refused,
    ] {
        session.record(&measure);
    }
    session.record_tap(&"monitor".into(), TapEvent::Alert);
    session.record_tool(Some("lookup_order"), ToolOutcome::Ok, span);
    session.record_failure(&"storyteller".into(), FailureClass::Lost);
    session.record_playout_wait(span);
    session.record_upstream_connect(span);
    session.record_attempt(&"storyteller".into(), "refused", crate::upstream::breaker::BreakerState::Open);
    session.record_usage(
        &"storyteller".into(),
        &crate::message::Usage {
            amounts: [("output_audio_tokens".to_owned(), 12.0), ("moon phases".to_owned(), 1.0)].into(),
            ..crate::message::Usage::default()
        },
    );
    session.record_cost("storyteller", &crate::session::Cost { currency: "EUR".into(), amount: 0.000_25 });
    session.record_encoder_complexity(1);
    session.record_end(CloseReason::ClientHangup, span);
    node.record_refusal(Refusal::Origin);
    node.record_dropped(NodeQueue::Mailbox);
    node.record_overdue_hold();
    node.record_forwarded();
    node.record_resume(ResumeOutcome::OtherWorker);
    node.set_draining(true);
    node.overload().record_pressure(&crate::runtime::overload::Pressure {
        cpu: 0.5,
        peak: 0.6,
        lag: 0.1,
        memory: 0.2,
        files: 0.3,
    });
    node.overload().record_most(Some(40));
    node.overload().record_step(crate::runtime::overload::Step::Refuse, true);
    node.record_config_taken("1f2e", UNIX_EPOCH + Duration::from_millis(1_700_000_000_500));
    node.record_config_refused();
    node.record_log_suppressed(3);
    node.call_records_failed().increment(1);
    telemetry.admission().record_denied(crate::auth::Denied::Expired);
    telemetry.admission().record_minted();
    telemetry.admission().record_key_fetch("main", false);
    telemetry.admission().record_hook("crm", HookOutcome::Allowed, span);
    telemetry.admission().record_hook_dropped("crm", 2);
    std::mem::forget(worker.session(Transport::Websocket));
    std::mem::forget(node.connection("http"));
}

/// The value of a series, by its full text before the number.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_declared_metric_is_rendered_with_type_and_help_and_moves() {
    let telemetry = Telemetry::new();
    eventful(&telemetry);
    let text = telemetry.render();
    for metric in names::ALL {
        let name = metric.name;
        assert!(text.contains(&format!("# TYPE {name} {}\n", metric.kind.exposed())), "{name}: no type\n{text}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}: no help");
        let series = if let Kind::Histogram(_) = metric.kind { format!("{name}_count") } else { name.to_owned() };
        let moved = text
            .lines()
            .filter(|line| line.strip_prefix(&series).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .any(|line| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()) > Some(0.0));
        // A gauge that a refused reload sets to zero.
        assert!(moved || name == names::CONFIG_LAST_RELOAD_SUCCESSFUL.name, "{name} never moves");
    }
}

#[test]
fn nothing_undeclared_is_rendered() {
    let telemetry = Telemetry::new();
    eventful(&telemetry);
    for line in telemetry.render().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(names::ALL.iter().any(|metric| metric.name == name), "{name}");
    }
}

#[test]
fn figures_land_in_the_series_that_their_labels_name() {
    let telemetry = Telemetry::new();
    eventful(&telemetry);
    let text = telemetry.render();
    for (series, expected) in [
        (
            r#"antiphon_added_latency_seconds_count{direction="up",transport="websocket",agent="storyteller",path="passthrough"}"#,
            1.0,
        ),
        (
            r#"antiphon_added_latency_seconds_bucket{direction="down",transport="websocket",agent="storyteller",path="transcode",le="0.0015"}"#,
            1.0,
        ),
        (
            r#"antiphon_added_latency_seconds_bucket{direction="down",transport="websocket",agent="storyteller",path="transcode",le="0.001"}"#,
            0.0,
        ),
        (r#"antiphon_uplink_lost_packets_total{transport="websocket"}"#, 2.0),
        (r#"antiphon_uplink_recovered_packets_total{transport="websocket"}"#, 1.0),
        (r#"antiphon_concealed_seconds_total{transport="websocket"}"#, 0.0015),
        (r#"antiphon_queue_dropped_audio_seconds_total{queue="stale"}"#, 0.0015),
        (r#"antiphon_queue_dropped_audio_seconds_total{queue="playout"}"#, 0.0),
        (r#"antiphon_heard_total{basis="marked"}"#, 1.0),
        (r#"antiphon_heard_total{basis="reported"}"#, 0.0),
        (
            r#"antiphon_sessions_ended_total{reason="client_hangup",transport="websocket",route="default",label="A"}"#,
            1.0,
        ),
        (r#"antiphon_upstream_failures_total{agent="storyteller",class="lost"}"#, 1.0),
        (r#"antiphon_handshakes_refused_total{reason="origin"}"#, 1.0),
        (r#"antiphon_queue_dropped_total{queue="mailbox"}"#, 1.0),
        (r#"antiphon_config_hash_info{hash="1f2e"}"#, 1.0),
        ("antiphon_config_last_reload_successful", 0.0),
        ("antiphon_config_last_reload_success_timestamp_seconds", 1_700_000_000.5),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}\n{text}");
    }
}

#[test]
fn after_a_fallback_figures_count_for_the_agent_that_took_over() {
    let telemetry = Telemetry::new();
    let mut session = telemetry.session(labels());
    session.record_added(Direction::Up, Path::Transcode, Duration::from_millis(1));
    session.set_agent(&"sorry-clip".into());
    session.record(&Measure::Failover { reason: "lost" });
    session.record_added(Direction::Up, Path::Transcode, Duration::from_millis(1));
    session.record_added(Direction::Up, Path::Transcode, Duration::from_millis(1));
    let text = telemetry.render();
    for (agent, count) in [("storyteller", 1.0), ("sorry-clip", 2.0)] {
        let series = format!(
            r#"antiphon_added_latency_seconds_count{{direction="up",transport="websocket",agent="{agent}",path="transcode"}}"#
        );
        assert_eq!(value(&text, &series), Some(count), "{series}");
    }
    assert_eq!(
        value(&text, r#"antiphon_fallbacks_total{route="default",agent="sorry-clip",reason="lost"}"#),
        Some(1.0)
    );
}

#[test]
fn active_sessions_and_connections_fall_when_their_guards_go_even_in_a_panic() {
    let telemetry = Telemetry::new();
    let worker = telemetry.node().worker(1);
    let kept = worker.session(Transport::Websocket);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let (_session, _connection) = (worker.session(Transport::Websocket), telemetry.node().connection("http"));
        std::panic::resume_unwind(Box::new("a session's own fault"));
    }));
    let text = telemetry.render();
    assert_eq!(value(&text, r#"antiphon_sessions_active{worker="1",transport="websocket"}"#), Some(1.0));
    assert_eq!(value(&text, r#"antiphon_connections{listener="http"}"#), Some(0.0));
    assert_eq!(value(&text, r#"antiphon_connections_accepted_total{listener="http"}"#), Some(1.0));
    drop(kept);
    let series = r#"antiphon_sessions_active{worker="1",transport="websocket"}"#;
    assert_eq!(value(&telemetry.render(), series), Some(0.0));
}

#[test]
fn only_the_configuration_in_force_has_a_hash_series() {
    let telemetry = Telemetry::new();
    telemetry.node().record_config_taken("aaaa1111", SystemTime::now());
    telemetry.node().record_config_taken("bbbb2222", SystemTime::now());
    let text = telemetry.render();
    assert!(text.contains(r#"antiphon_config_hash_info{hash="bbbb2222"} 1"#) && !text.contains("aaaa1111"), "{text}");
}

#[test]
fn label_values_are_escaped() {
    let telemetry = Telemetry::new();
    telemetry.node().record_config_taken("a\"b\\c\nd", SystemTime::now());
    assert!(telemetry.render().contains(r#"{hash="a\"b\\c\nd"} 1"#));
}
