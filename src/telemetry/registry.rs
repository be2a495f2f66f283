//! The node's telemetry: declared metrics in, the text of `/metrics` out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::admission::AdmissionMetrics;
use super::cluster::ClusterMetrics;
use super::names::{self, Kind, Metric};
use super::node::NodeMetrics;
use super::process::ProcessSample;
use super::{SessionLabels, SessionMetrics};

/// A counter of millionths. The exporter's own counters hold whole numbers only, which are no use for seconds or money.
#[derive(Clone, Debug, Default)]
pub struct DecimalCounter(Arc<AtomicU64>);

impl DecimalCounter {
    /// Adds a span; exact to the microsecond.
    pub fn add(&self, span: Duration) {
        self.0.fetch_add(span.as_micros() as u64, Ordering::Relaxed);
    }

    /// Adds an amount; negative ones are none, and no single one is more than a thousand millions.
    pub fn add_amount(&self, amount: f64) {
        self.0.fetch_add((amount.clamp(0.0, 1e9) * 1e6).round() as u64, Ordering::Relaxed);
    }

    fn value(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 / 1e6
    }
}

/// Series of one counter of millionths by label values.
type DecimalFamily = BTreeMap<Vec<SharedString>, DecimalCounter>;

/// Where handles come from. One per process; tests have their own.
pub(super) struct Registry {
    recorder: PrometheusRecorder,
    decimals: Mutex<BTreeMap<&'static str, DecimalFamily>>,
    config_hash: Mutex<Option<String>>,
    started: SystemTime,
}

impl Registry {
    fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in names::ALL {
            if let Kind::Histogram(buckets) = metric.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)
                    .expect("declared histograms have buckets");
            }
        }
        let recorder = builder.build_recorder();
        for metric in names::ALL {
            match metric.kind {
                Kind::Counter => recorder.describe_counter(metric.name.into(), None, metric.help.into()),
                Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, metric.help.into()),
                Kind::Histogram(_) => recorder.describe_histogram(metric.name.into(), None, metric.help.into()),
                Kind::Decimal | Kind::Sampled { .. } => {}
            }
        }
        Self { recorder, decimals: Mutex::default(), config_hash: Mutex::default(), started: SystemTime::now() }
    }

    pub(super) fn counter(&self, metric: &'static Metric, values: &[&str]) -> Counter {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.recorder.register_counter(&key(metric, values), &METADATA)
    }

    pub(super) fn gauge(&self, metric: &'static Metric, values: &[&str]) -> Gauge {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        self.recorder.register_gauge(&key(metric, values), &METADATA)
    }

    pub(super) fn histogram(&self, metric: &'static Metric, values: &[&str]) -> Histogram {
        debug_assert!(matches!(metric.kind, Kind::Histogram(_)), "{}", metric.name);
        self.recorder.register_histogram(&key(metric, values), &METADATA)
    }

    pub(super) fn decimal(&self, metric: &'static Metric, values: &[&str]) -> DecimalCounter {
        debug_assert_eq!(metric.kind, Kind::Decimal, "{}", metric.name);
        assert_eq!(metric.labels.len(), values.len(), "{}: one value per label", metric.name);
        let values = values.iter().map(|&value| SharedString::from(value.to_owned())).collect();
        let mut families = self.decimals.lock().unwrap_or_else(PoisonError::into_inner);
        families.entry(metric.name).or_default().entry(values).or_default().clone()
    }

    pub(super) fn set_config_hash(&self, hash: &str) {
        *self.config_hash.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash.to_owned());
    }

    /// What the exporter does not keep: counters of millionths, the configuration's hash and the process.
    fn render_own(&self, out: &mut String) {
        let families = self.decimals.lock().unwrap_or_else(PoisonError::into_inner);
        for metric in names::ALL.iter().filter(|metric| metric.kind == Kind::Decimal) {
            if let Some(family) = families.get(metric.name) {
                let series = family.iter().map(|(values, counter)| (values.as_slice(), counter.value()));
                render_family(out, metric, series);
            }
        }
        drop(families);
        if let Some(hash) = self.config_hash.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            render_family(out, &names::CONFIG_HASH_INFO, [([SharedString::from(hash)].as_slice(), 1.0)].into_iter());
        }
        for (metric, value) in ProcessSample::take(self.started).figures() {
            render_family(out, metric, [([].as_slice(), value)].into_iter());
        }
    }
}

static METADATA: Metadata<'static> = Metadata::new("antiphon", Level::INFO, None);

fn key(metric: &'static Metric, values: &[&str]) -> Key {
    assert_eq!(metric.labels.len(), values.len(), "{}: one value per label", metric.name);
    let labels: Vec<Label> =
        metric.labels.iter().zip(values).map(|(&name, &value)| Label::new(name, value.to_owned())).collect();
    Key::from_parts(metric.name, labels)
}

/// One metric in the text exposition format.
fn render_family<'a>(out: &mut String, metric: &Metric, series: impl Iterator<Item = (&'a [SharedString], f64)>) {
    let name = metric.name;
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", escape(metric.help, false), metric.kind.exposed());
    for (values, number) in series {
        out.push_str(name);
        for (index, (label, value)) in metric.labels.iter().zip(values).enumerate() {
            let _ = write!(out, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escape(value, true));
        }
        let _ = writeln!(out, "{} {number}", if values.is_empty() { "" } else { "}" });
    }
    out.push('\n');
}

fn escape(text: &str, quotes: bool) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { escaped.replace('"', "\\\"") } else { escaped }
}

/// The telemetry of a node; cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<Registry>,
    handle: PrometheusHandle,
    node: Arc<NodeMetrics>,
    admission: Arc<AdmissionMetrics>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// Telemetry with nothing counted. The caller must see to [`Telemetry::upkeep`].
    pub fn new() -> Self {
        let registry = Arc::new(Registry::new());
        let handle = registry.recorder.handle();
        let node = Arc::new(NodeMetrics::new(registry.clone()));
        let admission = Arc::new(AdmissionMetrics::new(registry.clone()));
        Self { registry, handle, node, admission }
    }

    /// The metrics of the process and its workers.
    pub fn node(&self) -> &NodeMetrics {
        &self.node
    }

    /// The metrics of admission.
    pub fn admission(&self) -> &AdmissionMetrics {
        &self.admission
    }

    /// The metrics of the cluster and of limits.
    pub fn cluster(&self) -> ClusterMetrics {
        ClusterMetrics::new(&self.registry)
    }

    /// The metrics of one session: resolve once, at its start.
    pub fn session(&self, labels: SessionLabels) -> SessionMetrics {
        SessionMetrics::new(self.registry.clone(), labels)
    }

    /// Everything in the text exposition format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        self.registry.render_own(&mut text);
        text
    }

    /// Folds samples into histograms. To be called every second: without it, and without a scrape, each sample that is
    /// recorded stays in memory.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}
