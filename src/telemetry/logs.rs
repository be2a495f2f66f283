//! Logs on standard error or in the journal.
//!
//! Nothing above `debug` names a person's address or words. A line never holds up a worker: lines for standard error
//! go through a bounded queue, and warnings that repeat are limited.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry, fmt};

use super::background::Background;
use super::{NodeQueue, Telemetry};
use crate::config::settings::LogFormat;

/// Log lines that may wait for a slow terminal or pipe.
const CAPACITY: usize = 4096;
/// Warnings and errors of one kind that are logged within [`WINDOW`].
const BURST: u32 = 10;
/// After so long a kind of warning may be logged again.
const WINDOW: Duration = Duration::from_secs(10);

/// What [`LogFormat::Auto`] means here: as systemd.exec(5) asks, the journal if `JOURNAL_STREAM` names the device and
/// inode of standard error. Other formats stay as they are.
pub fn resolve(format: LogFormat) -> LogFormat {
    let stderr = std::fs::metadata("/proc/self/fd/2").ok().map(|file| (file.dev(), file.ino()));
    resolve_with(format, std::env::var("JOURNAL_STREAM").ok().as_deref(), stderr)
}

fn resolve_with(format: LogFormat, journal_stream: Option<&str>, stderr: Option<(u64, u64)>) -> LogFormat {
    if format != LogFormat::Auto {
        return format;
    }
    let journal = journal_stream.and_then(|text| {
        let (device, inode) = text.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    if journal.is_some() && journal == stderr { LogFormat::Journald } else { LogFormat::Text }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is no list of `target=level`.
    #[error("log filter {filter:?}: {source}; a level (info, debug) or a list like info,antiphon::session=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// Why it was not taken.
        source: ParseError,
    },
    /// The journal was asked for and does not answer.
    #[error("--log-format=journald: {0} (is systemd-journald running here? else use text or json)")]
    Journal(io::Error),
    /// No thread for the writer.
    #[error("the log writer cannot be started: {0}")]
    Writer(io::Error),
    /// Logging was set up before.
    #[error("logging is set up already")]
    Again,
}

/// The end of logging: to be kept until the process ends. Writes what is left when dropped, for at most a second.
pub struct Logs {
    lines: Option<Background<Vec<u8>>>,
    repeats: Repeats,
    telemetry: Telemetry,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logs")
    }
}

/// Sends all events of the process to standard error or the journal. `filter` is as in `RUST_LOG`.
///
/// # Errors
/// See [`LogError`].
pub fn init(format: LogFormat, filter: &str, telemetry: &Telemetry) -> Result<Logs, LogError> {
    let format = resolve(format);
    let lines = match format {
        LogFormat::Journald => None,
        _ => {
            let dropped = telemetry.node().dropped(NodeQueue::Log);
            let write = |line: Vec<u8>| {
                // Where standard error is closed there is nobody left to tell.
                let _ = io::stderr().write_all(&line);
            };
            Some(Background::spawn("log", CAPACITY, dropped, write).map_err(LogError::Writer)?)
        }
    };
    let repeats = Repeats::default();
    let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = match &lines {
        None => tracing_journald::layer().map_err(LogError::Journal)?.with_filter(repeats.clone()).boxed(),
        Some(lines) => line_layer(format, ansi, Lines(lines.clone())).with_filter(repeats.clone()).boxed(),
    };
    let subscriber = Registry::default().with(layer.with_filter(parse_filter(filter)?));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Again)?;
    Ok(Logs { lines, repeats, telemetry: telemetry.clone() })
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let wrong = |source| LogError::Filter { filter: filter.into(), source };
    let quiet = "wtransport=info".parse().map_err(wrong)?;
    // Below that level it logs the headers of requests, and with them the credentials of callers.
    Ok(EnvFilter::builder().parse(filter).map_err(wrong)?.add_directive(quiet))
}

fn line_layer<S, W>(format: LogFormat, ansi: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(ansi);
    if format == LogFormat::Json {
        layer.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        layer.boxed()
    }
}

impl Logs {
    /// Says which warnings were suppressed as repeats since the last call, and counts them; to be called every second
    /// or so.
    pub fn upkeep(&self) {
        for (callsite, suppressed) in self.repeats.take_suppressed(Instant::now()) {
            self.telemetry.node().record_log_suppressed(suppressed);
            tracing::warn!(callsite, suppressed, "the same warning came too often");
        }
    }

    /// Waits until all lines logged before are written, at most for `deadline`; `false` if they are not.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.lines.as_ref().is_none_or(|lines| lines.flush(deadline))
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.upkeep();
        self.flush(Duration::from_secs(1));
    }
}

/// Writes whole lines into the queue: the formatter hands over one event by one call.
#[derive(Clone)]
struct Lines(Background<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.try_send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.clone()
    }
}

/// Lets [`BURST`] warnings or errors of one place in the code through per [`WINDOW`], and counts the rest.
#[derive(Clone, Default)]
struct Repeats(Arc<Mutex<HashMap<Identifier, Repeated>>>);

struct Repeated {
    callsite: &'static str,
    since: Instant,
    passed: u32,
    suppressed: u64,
}

impl Repeats {
    fn admit(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if *metadata.level() > Level::WARN {
            return true;
        }
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(metadata.callsite()).or_insert_with(|| Repeated {
            callsite: metadata.name(),
            since: now,
            passed: 0,
            suppressed: 0,
        });
        if now.duration_since(place.since) >= WINDOW {
            (place.since, place.passed) = (now, 0);
        }
        if place.passed < BURST {
            place.passed += 1;
            return true;
        }
        place.suppressed += 1;
        false
    }

    /// Places whose window is over, with what was held back there.
    fn take_suppressed(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places
            .values_mut()
            .filter(|place| place.suppressed > 0 && now.duration_since(place.since) >= WINDOW)
            .map(|place| (place.callsite, std::mem::take(&mut place.suppressed)))
            .collect()
    }
}

impl<S: Subscriber> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admit(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged, by format.
    fn logged(format: LogFormat, filter: &str, say: impl FnOnce()) -> String {
        let telemetry = Telemetry::new();
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = text.clone();
        let dropped = telemetry.node().dropped(NodeQueue::Log);
        let lines = Background::spawn("log", CAPACITY, dropped, move |line: Vec<u8>| sink.lock().unwrap().extend(line))
            .unwrap();
        let layer = line_layer(format, false, Lines(lines.clone())).with_filter(Repeats::default());
        let subscriber = Registry::default().with(layer.with_filter(parse_filter(filter).unwrap()));
        tracing::subscriber::with_default(subscriber, say);
        assert!(lines.flush(Duration::from_secs(10)));
        String::from_utf8(text.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn auto_is_the_journal_only_if_standard_error_is_connected_to_it() {
        let auto = |stream, stderr| resolve_with(LogFormat::Auto, stream, stderr);
        assert_eq!(auto(Some("8:1234"), Some((8, 1234))), LogFormat::Journald);
        assert_eq!(auto(Some("8:1234"), Some((8, 99))), LogFormat::Text);
        assert_eq!(auto(Some("nonsense"), None), LogFormat::Text);
        assert_eq!(auto(None, Some((8, 1234))), LogFormat::Text);
        assert_eq!(resolve_with(LogFormat::Json, Some("8:1234"), Some((8, 1234))), LogFormat::Json);
    }

    #[test]
    fn json_lines_carry_the_fields_of_the_event_and_of_its_session() {
        let text = logged(LogFormat::Json, "info", || {
            let _session = tracing::info_span!("session", session = "s-1", route = "default").entered();
            tracing::info!(agent = "echo", "agent is ready");
            tracing::debug!("not at this level");
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).expect("one JSON object");
        assert_eq!(line["message"], "agent is ready");
        assert_eq!(line["agent"], "echo");
        assert_eq!(line["span"]["session"], "s-1");
        assert_eq!(line["span"]["route"], "default");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_lines_name_level_session_and_message() {
        let text = logged(LogFormat::Text, "info", || {
            let _session = tracing::info_span!("session", session = "s-1").entered();
            tracing::warn!(class = "timeout", "agent failed");
        });
        for part in ["WARN", "session=\"s-1\"", "agent failed", "class=\"timeout\""] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn repeats_of_a_warning_are_held_back_but_other_lines_are_not() {
        let text = logged(LogFormat::Text, "info", || {
            for _ in 0..100 {
                tracing::warn!("noisy");
                tracing::info!("usual");
            }
            tracing::warn!("rare");
        });
        assert_eq!(text.matches("noisy").count(), BURST as usize);
        assert_eq!(text.matches("usual").count(), 100);
        assert_eq!(text.matches("rare").count(), 1);
    }

    #[test]
    fn held_back_repeats_are_reported_once_their_window_is_over() {
        let repeats = Repeats::default();
        let warning = warning_metadata();
        let start = Instant::now();
        assert_eq!((0..25).filter(|_| repeats.admit(warning, start)).count(), 10);
        assert_eq!(repeats.take_suppressed(start), []);
        let later = start + WINDOW;
        assert_eq!(repeats.take_suppressed(later).iter().map(|(_, count)| *count).collect::<Vec<_>>(), [15]);
        assert_eq!(repeats.take_suppressed(later), []);
        assert!(repeats.admit(warning, later));
    }

    fn warning_metadata() -> &'static Metadata<'static> {
        use tracing::Callsite;
        tracing::callsite!(
            name: "warning",
            kind: tracing::metadata::Kind::EVENT,
            level: Level::WARN,
            fields: message
        )
        .metadata()
    }

    #[test]
    fn a_wrong_filter_is_named_with_a_way_out() {
        let error = parse_filter("antiphon=loud").unwrap_err().to_string();
        assert!(error.contains("antiphon=loud") && error.contains("antiphon::session=debug"), "{error}");
    }
}
