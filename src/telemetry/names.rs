//! Every metric, declared once: name, kind, unit, labels, help and buckets.
//!
//! `docs/operations.md` holds the same table for readers; a test keeps the two equal.

use std::fmt::Write;

/// What a metric is, and what its numbers count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises; whole numbers.
    Counter,
    /// Only rises; exact to a millionth.
    Decimal,
    /// Goes up and down.
    Gauge,
    /// Read when the metrics are rendered, from the process or the configuration; shown as a counter or a gauge.
    Sampled {
        /// Whether it only rises.
        counter: bool,
    },
    /// A distribution over these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The type of the exposition format.
    pub const fn exposed(self) -> &'static str {
        match self {
            Kind::Counter | Kind::Decimal | Kind::Sampled { counter: true } => "counter",
            Kind::Gauge | Kind::Sampled { counter: false } => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

/// The unit of a metric's numbers, always a base unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A number of things.
    Count,
}

impl Unit {
    /// For the reference table.
    pub const fn label(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            Unit::Count => "count",
        }
    }
}

/// One declared metric.
#[derive(Debug)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it counts in.
    pub unit: Unit,
    /// Its label names, in the order in which handles are asked for.
    pub labels: &'static [&'static str],
    /// Its `HELP` line.
    pub help: &'static str,
}

/// Added latency: fine from 0.1 to 20 ms, where a relay works, and up to a second for what went wrong.
pub const LATENCY: &[f64] = &[
    0.000_05, 0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_4, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003, 0.004,
    0.005, 0.006, 0.008, 0.010, 0.012_5, 0.015, 0.020, 0.030, 0.050, 0.075, 0.100, 0.200, 0.500, 1.0,
];
/// What a caller waits for: dense around 0.5 to 1.5 s.
pub const RESPONSE: &[f64] =
    &[0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];
/// Set-up and dialling.
pub const SETUP: &[f64] =
    &[0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0];
/// Waits of a packet behind a gap, bounded by `gap_wait_ms`.
pub const GAP: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.1, 0.15, 0.2, 0.25];
/// Depths of queues of audio.
pub const DEPTH: &[f64] = &[0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Lengths of calls.
pub const CALL: &[f64] = &[1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];
/// Look-ahead of codecs.
pub const CODEC: &[f64] = &[0.0, 0.001, 0.0025, 0.005, 0.0065, 0.01, 0.02];
/// libopus complexity, 0 to 10.
pub const COMPLEXITY: &[f64] = &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];

/// Shares of packets.
pub const RATIO: &[f64] = &[0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0];

macro_rules! metrics {
    ($($ident:ident = $name:literal, $kind:expr, $unit:ident, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $ident: Metric =
                Metric { name: $name, kind: $kind, unit: Unit::$unit, labels: &[$($label),*], help: $help };
        )*
        /// Every metric, in the order of the reference table.
        pub static ALL: &[&Metric] = &[$(&$ident),*];
    };
}

metrics! {
    // What the relay adds.
    ADDED_LATENCY = "antiphon_added_latency_seconds", Kind::Histogram(LATENCY), Seconds,
        ["direction", "transport", "agent", "path"],
        "Arrival of the last byte of a frame on one socket to hand-over of the first byte made of it to the other, gap and re-framing waits included, playout wait not.";
    GAP_WAIT = "antiphon_gap_wait_seconds", Kind::Histogram(GAP), Seconds, ["transport"],
        "How long a packet from the client waited for a missing one before it.";
    PLAYOUT_WAIT = "antiphon_playout_wait_seconds", Kind::Histogram(DEPTH), Seconds, ["transport"],
        "How long audio of the agent waited to be due at the caller's ear.";
    CODEC_DELAY = "antiphon_codec_delay_seconds", Kind::Histogram(CODEC), Seconds, ["direction", "transport"],
        "Algorithmic look-ahead of the codecs that a session uses, once per session and direction.";
    WORKER_LAG = "antiphon_worker_lag_seconds", Kind::Histogram(LATENCY), Seconds, ["worker"],
        "How late a worker ran its own timer: the time that something ready may have waited to be polled.";
    HOLDS_OVERDUE = "antiphon_worker_holds_overdue_total", Kind::Counter, Count, [],
        "Times that an agent's audio had waited a whole frame for what other callers said, and then went beside it: a worker was behind for longer.";
    ENCODER_COMPLEXITY = "antiphon_encoder_complexity", Kind::Histogram(COMPLEXITY), Count, ["transport"],
        "libopus complexity of the encoders towards clients, once whenever one is set.";

    // What the caller notices.
    FIRST_AUDIO = "antiphon_first_audio_seconds", Kind::Histogram(RESPONSE), Seconds, ["agent", "route", "label"],
        "End of the caller's speech to the first audio of the answer sent.";
    BARGEIN_STOP = "antiphon_bargein_stop_seconds", Kind::Histogram(LATENCY), Seconds, ["transport", "agent"],
        "Detection of an interruption to the flush handed over.";
    SESSION_SETUP = "antiphon_session_setup_seconds", Kind::Histogram(SETUP), Seconds, ["stage", "transport"],
        "Time of each stage of a session's set-up; stage=\"total\" runs from the accepted connection to started.";
    INTERRUPTIONS = "antiphon_interruptions_total", Kind::Counter, Count, ["agent", "by"],
        "Interruptions of the agent by the caller; by is who found that: agent, client, relay.";
    BARGEIN_IGNORED = "antiphon_bargein_ignored_total", Kind::Counter, Count, ["agent", "reason"],
        "Voices that the relay's detection heard and did not let interrupt the agent: taken for its echo, or in its warm_up.";
    BARGEIN_PAUSES = "antiphon_bargein_pauses_total", Kind::Counter, Count, ["agent", "outcome"],
        "Reversible interruptions that were settled: confirmed, or resumed because they were none.";
    HEARD = "antiphon_heard_total", Kind::Counter, Count, ["basis"],
        "Figures of heard audio that were fixed, by what they rest on.";

    // Sessions.
    SESSIONS_ACTIVE = "antiphon_sessions_active", Kind::Gauge, Count, ["worker", "transport"],
        "Sessions that run now.";
    SESSIONS_STARTED = "antiphon_sessions_started_total", Kind::Counter, Count, ["transport", "route", "label"],
        "Sessions started.";
    SESSIONS_ENDED = "antiphon_sessions_ended_total", Kind::Counter, Count, ["reason", "transport", "route", "label"],
        "Sessions ended, by reason.";
    SESSION_DURATION = "antiphon_session_duration_seconds", Kind::Histogram(CALL), Seconds, ["route"],
        "How long finished sessions lasted.";
    RESUMES = "antiphon_resumes_total", Kind::Counter, Count, ["outcome"],
        "Attempts to resume a session over a new link.";
    MESSAGES_IGNORED = "antiphon_messages_ignored_total", Kind::Counter, Count, ["transport"],
        "Messages or fields of a newer peer that were ignored.";
    MESSAGES_REFUSED = "antiphon_messages_refused_total", Kind::Counter, Count, ["transport"],
        "Messages of clients that were refused with an error.";

    // Audio that did not go straight through.
    UPLINK_LOST = "antiphon_uplink_lost_packets_total", Kind::Counter, Count, ["transport"],
        "Audio packets from clients that were not there when the wait for them was over.";
    UPLINK_LATE = "antiphon_uplink_late_packets_total", Kind::Counter, Count, ["transport"],
        "Of the lost packets, those that came after they had been given up, and were dropped.";
    UPLINK_RECOVERED = "antiphon_uplink_recovered_packets_total", Kind::Counter, Count, ["transport"],
        "Of the lost packets, those recovered from in-band FEC.";
    JITTER = "antiphon_rtp_jitter_seconds", Kind::Histogram(GAP), Seconds, ["direction", "transport"],
        "Interarrival jitter of RTP, once a second: up as seen here, down as the client reports it.";
    ROUND_TRIP = "antiphon_rtp_round_trip_seconds", Kind::Histogram(SETUP), Seconds, ["transport"],
        "Round trip to clients by RTCP, once a second.";
    PEER_LOSS = "antiphon_rtp_peer_loss_ratio", Kind::Histogram(RATIO), Count, ["transport"],
        "Share of our RTP packets that the client has lost since its last report.";
    CONCEALED = "antiphon_concealed_seconds_total", Kind::Decimal, Seconds, ["transport"],
        "Audio made up in place of lost packets.";
    FILLED = "antiphon_filled_seconds_total", Kind::Decimal, Seconds, ["transport"],
        "Silence made up for time in which a client sent nothing.";
    UPLINK_SKEW = "antiphon_uplink_skew_seconds", Kind::Histogram(DEPTH), Seconds, ["transport"],
        "How far the audio given to the agent is ahead of the caller's real time.";
    QUEUE_DEPTH = "antiphon_queue_depth_seconds", Kind::Histogram(DEPTH), Seconds, ["queue"],
        "Audio waiting in a queue, in seconds of audio.";
    QUEUE_DROPPED_AUDIO = "antiphon_queue_dropped_audio_seconds_total", Kind::Decimal, Seconds, ["queue"],
        "Audio dropped at a full or stale queue, in seconds of audio.";
    QUEUE_DROPPED = "antiphon_queue_dropped_total", Kind::Counter, Count, ["queue"],
        "Things other than audio dropped or refused at a full queue.";

    // Agents.
    UPSTREAM_CONNECT = "antiphon_upstream_connect_seconds", Kind::Histogram(SETUP), Seconds, ["agent"],
        "Dial to open socket: name, TCP, TLS and upgrade.";
    UPSTREAM_READY = "antiphon_upstream_ready_seconds", Kind::Histogram(SETUP), Seconds, ["agent"],
        "Dial to an agent that is ready to talk.";
    UPSTREAM_FAILURES = "antiphon_upstream_failures_total", Kind::Counter, Count, ["agent", "class"],
        "Failures of agents, by class.";
    AGENT_USAGE = "antiphon_agent_usage_total", Kind::Decimal, Count, ["agent", "unit"],
        "What agents reported as used; units outside of the common ones are counted as other.";
    AGENT_COST = "antiphon_agent_cost_total", Kind::Decimal, Count, ["agent", "currency"],
        "What calls cost by the operator's prices, as far as it is known; counted when a call ends.";
    FALLBACKS = "antiphon_fallbacks_total", Kind::Counter, Count, ["route", "agent", "reason"],
        "Times that another agent took over; agent is the one that did, reason how the one before failed, or slow.";
    AGENTS_DOWN = "antiphon_agents_down_seconds", Kind::Histogram(CALL), Seconds, ["route", "outcome"],
        "How long calls were without any agent but one for text, until one was back or the call ended.";
    DOWN_STEPS = "antiphon_down_steps_total", Kind::Counter, Count, ["route", "step"],
        "Steps of when_down that were taken because no agent could be reached.";
    ATTEMPTS = "antiphon_upstream_attempts_total", Kind::Counter, Count, ["agent", "result"],
        "Tries to reach an agent: ready, failed, unanswered (ready, and gone before it answered), refused (its breaker was open: it was not dialled).";
    BREAKER_STATE = "antiphon_breaker_state", Kind::Gauge, Count, ["agent"],
        "Circuit breaker of an agent, as of the last try: 0 closed, 1 half-open, 2 open.";
    ROLLOVERS = "antiphon_rollovers_total", Kind::Counter, Count, ["agent"],
        "Times that a fresh session with the same agent took over before the end of the one before.";

    // Taps.
    TAP_EVENTS = "antiphon_tap_events_total", Kind::Counter, Count, ["agent", "event"],
        "What taps did: ready, lost, transcript (final texts), alert, app (told to the client).";

    // Tools.
    TOOL_CALLS = "antiphon_tool_calls_total", Kind::Counter, Count, ["tool", "result"],
        "Tool calls that are over: ok, error, timeout, cancelled, refused (too many ran); tools that are not configured are counted as other.";
    TOOL_CALL_TIME = "antiphon_tool_call_seconds", Kind::Histogram(RESPONSE), Seconds, ["tool"],
        "From an agent's tool call to its end.";

    // The node.
    CONNECTIONS = "antiphon_connections", Kind::Gauge, Count, ["listener"],
        "Connections open now, handshakes included.";
    CONNECTIONS_ACCEPTED = "antiphon_connections_accepted_total", Kind::Counter, Count, ["listener"],
        "Connections accepted.";
    HANDSHAKES_REFUSED = "antiphon_handshakes_refused_total", Kind::Counter, Count, ["reason"],
        "Connections that were ended before a session started, by reason.";
    CALLERS_DENIED = "antiphon_callers_denied_total", Kind::Counter, Count, ["reason"],
        "Callers that were not let in for want of the right credentials or by the pre-call hook, by reason.";
    CLIENT_TOKENS_MADE = "antiphon_client_tokens_made_total", Kind::Counter, Count, [],
        "Client tokens that were made.";
    KEY_FETCHES = "antiphon_key_fetches_total", Kind::Counter, Count, ["issuer", "result"],
        "Times that the key set of an issuer was read: fetched, failed (the keys known before stay in force).";
    HOOK = "antiphon_hook_seconds", Kind::Histogram(SETUP), Seconds, ["hook", "result"],
        "How long a pre-call hook took to answer: allowed, refused, failed, cached (it was not asked).";
    HOOK_FIELDS_DROPPED = "antiphon_hook_fields_dropped_total", Kind::Counter, Count, ["hook"],
        "Fields of a hook's answer that were left out, because they are unknown or of a wrong form.";
    DATAGRAMS_FORWARDED = "antiphon_datagrams_forwarded_total", Kind::Counter, Count, [],
        "Datagrams that reached a worker that does not run their session and were handed on.";
    DRAINING = "antiphon_draining", Kind::Gauge, Count, [],
        "1 while the node drains, else 0.";
    OVERLOAD_PRESSURE = "antiphon_overload_pressure_ratio", Kind::Gauge, Count, ["signal"],
        "How near each sign of load is to its bound; at 1 new calls are refused.";
    OVERLOAD_MOST = "antiphon_overload_most_sessions", Kind::Gauge, Count, [],
        "Sessions of the node at most, until it shows what the last of them cost; 0 while nobody is held back.";
    OVERLOAD_STEP_ACTIVE = "antiphon_overload_step_active", Kind::Gauge, Count, ["step"],
        "1 while a step against overload is taken, else 0.";
    OVERLOAD_STEPS = "antiphon_overload_steps_total", Kind::Counter, Count, ["step"],
        "Times that a step against overload was taken.";
    OVERLOAD_SKIPPED = "antiphon_overload_skipped_total", Kind::Counter, Count, ["work"],
        "Optional work that was left out because of load.";
    CONFIG_RELOADS = "antiphon_config_reloads_total", Kind::Counter, Count, ["result"],
        "Attempts to load a changed configuration.";
    CONFIG_LAST_RELOAD_SUCCESSFUL = "antiphon_config_last_reload_successful", Kind::Gauge, Count, [],
        "1 if the last load of the configuration was taken, 0 if it was refused and the older one stayed.";
    CONFIG_LAST_RELOAD_SUCCESS_TIMESTAMP =
        "antiphon_config_last_reload_success_timestamp_seconds", Kind::Gauge, Seconds, [],
        "Unix time at which the configuration in force was loaded.";
    CONFIG_HASH_INFO = "antiphon_config_hash_info", Kind::Sampled { counter: false }, Count, ["hash"],
        "Always 1; the label is a hash of the configuration in force, without its secrets.";
    BUILD_INFO = "antiphon_build_info", Kind::Gauge, Count, ["version", "revision"],
        "Always 1; the labels say which build this is.";
    LOG_LINES_SUPPRESSED = "antiphon_log_lines_suppressed_total", Kind::Counter, Count, [],
        "Warnings and errors that were not logged because the same ones came too often.";
    CALL_RECORDS_FAILED = "antiphon_call_records_failed_total", Kind::Counter, Count, [],
        "Call records that could not be written.";

    // Limits, and the cluster that shares them.
    LIMIT_REFUSED = "antiphon_limit_refused_total", Kind::Counter, Count, ["limit", "unit"],
        "Things that were refused because a limit was reached.";
    LIMIT_UNLEASED = "antiphon_limit_unleased_total", Kind::Counter, Count, ["limit", "unit"],
        "Things that were refused because this node's lease of a limit was spent before it was renewed.";
    LIMIT_KEYS = "antiphon_limit_keys", Kind::Gauge, Count, ["kind"],
        "Cells of limits that are kept, by kind: rate, at_once.";
    LIMIT_KEYS_EVICTED = "antiphon_limit_keys_evicted_total", Kind::Counter, Count, ["kind"],
        "Cells of limits that were given up although something was spent of them, because there were too many.";
    REDIS_UP = "antiphon_redis_up", Kind::Gauge, Count, [],
        "1 while Redis answers in time, 0 while this node goes on alone with its share of the limits.";
    REDIS_TROUBLES = "antiphon_redis_troubles_total", Kind::Counter, Count, ["reason"],
        "Times that Redis could not be used any more, by reason.";
    REDIS_ROUND_TRIP = "antiphon_redis_round_trip_seconds", Kind::Histogram(LATENCY), Seconds, [],
        "From a command to its answer.";
    REDIS_COMMANDS = "antiphon_redis_commands_total", Kind::Counter, Count, ["result"],
        "Commands that Redis answered: ok, failed.";
    REDIS_WAITS = "antiphon_redis_waits_total", Kind::Counter, Count, ["result"],
        "Admissions that needed something of Redis: answered, timeout (after 20 ms), skipped (Redis was known to be late), full.";
    REDIS_WAITING = "antiphon_redis_waiting_reports", Kind::Gauge, Count, [],
        "Cells of limits that wait to be reported.";
    REDIS_IN_FLIGHT = "antiphon_redis_in_flight", Kind::Gauge, Count, [],
        "Commands that wait for their answer.";
    REDIS_CLAIMS = "antiphon_redis_claims", Kind::Gauge, Count, [],
        "Cells of limits of which this node holds seats.";
    CLUSTER_NODES = "antiphon_cluster_nodes", Kind::Gauge, Count, [],
        "Nodes that live, as Redis knows.";

    // The process, under the names that Prometheus client libraries share.
    PROCESS_CPU = "process_cpu_seconds_total", Kind::Sampled { counter: true }, Seconds, [],
        "User and system CPU time spent.";
    PROCESS_RESIDENT = "process_resident_memory_bytes", Kind::Sampled { counter: false }, Bytes, [],
        "Resident memory.";
    PROCESS_VIRTUAL = "process_virtual_memory_bytes", Kind::Sampled { counter: false }, Bytes, [],
        "Virtual memory.";
    PROCESS_OPEN_FDS = "process_open_fds", Kind::Sampled { counter: false }, Count, [],
        "Open file descriptors.";
    PROCESS_MAX_FDS = "process_max_fds", Kind::Sampled { counter: false }, Count, [],
        "File descriptors that may be open at most.";
    PROCESS_THREADS = "process_threads", Kind::Sampled { counter: false }, Count, [],
        "Threads.";
    PROCESS_START_TIME = "process_start_time_seconds", Kind::Sampled { counter: false }, Seconds, [],
        "Unix time at which the process started.";
}

/// The reference table as Markdown, one row per metric.
pub fn reference() -> String {
    let mut table = String::from("| Metric | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n");
    for metric in ALL {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (name, kind, unit, help) = (metric.name, metric.kind.exposed(), metric.unit.label(), metric.help);
        writeln!(table, "| `{name}` | {kind} | {unit} | {labels} | {help} |").expect("a string takes everything");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut seen = std::collections::HashSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is declared twice");
            assert!(name.starts_with("antiphon_") || name.starts_with("process_"), "{name}: prefix");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}: help is one sentence");
            assert_eq!(metric.kind.exposed() == "counter", name.ends_with("_total"), "{name}: _total is for counters");
            let stem = name.trim_end_matches("_total");
            match metric.unit {
                Unit::Seconds => assert!(stem.ends_with("_seconds"), "{name}: names its unit"),
                Unit::Bytes => assert!(stem.ends_with("_bytes"), "{name}: names its unit"),
                Unit::Count => assert!(!stem.ends_with("_seconds") && !stem.ends_with("_bytes"), "{name}: unit"),
            }
            for label in metric.labels {
                assert!(!["session", "session_id", "user", "tenant", "address"].contains(label), "{name}: {label}");
            }
        }
    }

    #[test]
    fn buckets_rise_and_added_latency_is_fine_where_a_relay_works() {
        for metric in ALL {
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(!buckets.is_empty() && buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
        assert_eq!(LATENCY.first(), Some(&0.000_05));
        assert_eq!(LATENCY.last(), Some(&1.0));
        let fine: Vec<f64> = LATENCY.iter().copied().filter(|b| (0.000_1..=0.020).contains(b)).collect();
        assert!(fine.windows(2).all(|pair| pair[1] / pair[0] <= 1.51), "{fine:?}");
    }
}
