//! The kinds of metric, and the one Prometheus recorder of the process.
//!
//! Handles come from the recorder itself, never from the `metrics` macros: there is no other way to spell a name than
//! [`super::catalogue`], and recording before [`install`] is as good as after it.

use std::sync::{LazyLock, Once, OnceLock};
use std::time::Duration;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::catalogue;

/// How often recorded samples are folded into their histograms. Without it they pile up while nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

static RECORDER: LazyLock<(PrometheusRecorder, PrometheusHandle)> = LazyLock::new(|| {
    let builder = catalogue::ALL
        .iter()
        .fold(PrometheusBuilder::new(), |builder, metric| match metric.buckets() {
            // Refused only when empty, which a test forbids.
            Some(buckets) => builder
                .set_buckets_for_metric(Matcher::Full(metric.name().to_owned()), buckets)
                .unwrap_or_default(),
            None => builder,
        });
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    (recorder, handle)
});

/// Makes every metric of the catalogue appear with its zero, and keeps histograms folded. Once a process is enough; the
/// roles of one process and the tests of one binary share what is recorded.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (recorder, handle) = &*RECORDER;
        for metric in catalogue::ALL {
            describe(recorder, *metric);
            metric.register();
        }
        catalogue::BUILD_INFO.set(env!("CARGO_PKG_VERSION"), 1.0);
        let handle = handle.clone();
        // A thread and not a task: the recorder outlives every runtime that records into it.
        let upkeep = std::thread::Builder::new()
            .name("metrics-upkeep".to_owned())
            .spawn(move || {
                loop {
                    std::thread::sleep(UPKEEP);
                    handle.run_upkeep();
                }
            });
        if let Err(error) = upkeep {
            tracing::error!(%error, "no thread for metrics: histograms grow until they are scraped");
        }
    });
}

fn describe(recorder: &PrometheusRecorder, metric: &dyn Metric) {
    let name = KeyName::from_const_str(metric.name());
    let help = metric.help().into();
    match metric.kind() {
        "counter" => recorder.describe_counter(name, None, help),
        "gauge" => recorder.describe_gauge(name, None, help),
        _ => recorder.describe_histogram(name, None, help),
    }
}

/// Everything recorded, in Prometheus's text format.
#[must_use]
pub fn render() -> String {
    RECORDER.1.render()
}

/// What the documentation and the recorder need to know of a metric.
pub trait Metric: Sync {
    /// As scraped.
    fn name(&self) -> &'static str;
    /// What it counts.
    fn help(&self) -> &'static str;
    /// `counter`, `gauge` or `histogram`.
    fn kind(&self) -> &'static str;
    /// Its label and the values known in advance.
    fn label(&self) -> Option<(&'static str, &'static [&'static str])> {
        None
    }
    /// Upper bounds of a histogram, in its unit.
    fn buckets(&self) -> Option<&'static [f64]> {
        None
    }
    /// Makes it appear with 0, for each value known in advance.
    fn register(&self);
}

fn key(name: &'static str) -> Key {
    Key::from_static_name(name)
}

fn key_with(name: &'static str, label: &'static str, value: &str) -> Key {
    Key::from_parts(name, vec![Label::new(label, value.to_owned())])
}

/// Grows.
#[derive(Debug)]
pub struct Counter {
    name: &'static str,
    help: &'static str,
    handle: OnceLock<metrics::Counter>,
}

impl Counter {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            handle: OnceLock::new(),
        }
    }

    fn handle(&self) -> &metrics::Counter {
        self.handle
            .get_or_init(|| RECORDER.0.register_counter(&key(self.name), &METADATA))
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.handle().increment(count);
    }
}

impl Metric for Counter {
    fn name(&self) -> &'static str {
        self.name
    }
    fn help(&self) -> &'static str {
        self.help
    }
    fn kind(&self) -> &'static str {
        "counter"
    }
    fn register(&self) {
        self.handle();
    }
}

/// Grows, one for each value of its label.
#[derive(Debug)]
pub struct CounterBy {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [&'static str],
    handles: OnceLock<Vec<metrics::Counter>>,
}

impl CounterBy {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            help,
            label,
            values,
            handles: OnceLock::new(),
        }
    }

    fn handles(&self) -> &[metrics::Counter] {
        self.handles
            .get_or_init(|| self.values.iter().map(|value| self.register_value(value)).collect())
    }

    fn register_value(&self, value: &str) -> metrics::Counter {
        RECORDER
            .0
            .register_counter(&key_with(self.name, self.label, value), &METADATA)
    }

    /// Adds 1 to the counter of `value`. Values known in advance are found without a lookup in the registry.
    pub fn add(&self, value: &str) {
        match self.values.iter().position(|known| *known == value) {
            Some(index) => self.handles()[index].increment(1),
            None => self.register_value(value).increment(1),
        }
    }
}

impl Metric for CounterBy {
    fn name(&self) -> &'static str {
        self.name
    }
    fn help(&self) -> &'static str {
        self.help
    }
    fn kind(&self) -> &'static str {
        "counter"
    }
    fn label(&self) -> Option<(&'static str, &'static [&'static str])> {
        Some((self.label, self.values))
    }
    fn register(&self) {
        self.handles();
    }
}

/// Goes up and down.
#[derive(Debug)]
pub struct Gauge {
    name: &'static str,
    help: &'static str,
    handle: OnceLock<metrics::Gauge>,
}

impl Gauge {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            handle: OnceLock::new(),
        }
    }

    fn handle(&self) -> &metrics::Gauge {
        self.handle
            .get_or_init(|| RECORDER.0.register_gauge(&key(self.name), &METADATA))
    }

    /// Sets it.
    pub fn set(&self, value: f64) {
        self.handle().set(value);
    }

    /// Raises it by `change`; negative lowers it. For a gauge that several parts of the process share.
    pub fn add(&self, change: f64) {
        self.handle().increment(change);
    }
}

impl Metric for Gauge {
    fn name(&self) -> &'static str {
        self.name
    }
    fn help(&self) -> &'static str {
        self.help
    }
    fn kind(&self) -> &'static str {
        "gauge"
    }
    fn register(&self) {
        self.handle().increment(0.0);
    }
}

/// Goes up and down, one for each value of its label: a bot or a dependency, so their number is bounded by the
/// configuration.
#[derive(Debug)]
pub struct GaugeBy {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [&'static str],
}

impl GaugeBy {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            help,
            label,
            values,
        }
    }

    /// Sets the gauge of `value`.
    pub fn set(&self, value: &str, to: f64) {
        RECORDER
            .0
            .register_gauge(&key_with(self.name, self.label, value), &METADATA)
            .set(to);
    }
}

impl Metric for GaugeBy {
    fn name(&self) -> &'static str {
        self.name
    }
    fn help(&self) -> &'static str {
        self.help
    }
    fn kind(&self) -> &'static str {
        "gauge"
    }
    fn label(&self) -> Option<(&'static str, &'static [&'static str])> {
        Some((self.label, self.values))
    }
    fn register(&self) {
        for value in self.values {
            self.set(value, 0.0);
        }
    }
}

/// Durations, in seconds.
#[derive(Debug)]
pub struct Histogram {
    name: &'static str,
    help: &'static str,
    buckets: &'static [f64],
    handle: OnceLock<metrics::Histogram>,
}

impl Histogram {
    pub(super) const fn new(name: &'static str, help: &'static str, buckets: &'static [f64]) -> Self {
        Self {
            name,
            help,
            buckets,
            handle: OnceLock::new(),
        }
    }

    fn handle(&self) -> &metrics::Histogram {
        self.handle
            .get_or_init(|| RECORDER.0.register_histogram(&key(self.name), &METADATA))
    }

    /// Records one duration.
    pub fn record(&self, duration: Duration) {
        self.handle().record(duration.as_secs_f64());
    }
}

impl Metric for Histogram {
    fn name(&self) -> &'static str {
        self.name
    }
    fn help(&self) -> &'static str {
        self.help
    }
    fn kind(&self) -> &'static str {
        "histogram"
    }
    fn buckets(&self) -> Option<&'static [f64]> {
        Some(self.buckets)
    }
    fn register(&self) {
        self.handle();
    }
}

/// Durations, in seconds, one histogram for each value of its label: a bot, so their number is bounded by the configuration.
#[derive(Debug)]
pub struct HistogramBy {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    buckets: &'static [f64],
}

impl HistogramBy {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        buckets: &'static [f64],
    ) -> Self {
        Self {
            name,
            help,
            label,
            buckets,
        }
    }

    /// Records one duration of `value`.
    pub fn record(&self, value: &str, duration: Duration) {
        RECORDER
            .0
            .register_histogram(&key_with(self.name, self.label, value), &METADATA)
            .record(duration.as_secs_f64());
    }
}

impl Metric for HistogramBy {
    fn name(&self) -> &'static str {
        self.name
    }
    fn help(&self) -> &'static str {
        self.help
    }
    fn kind(&self) -> &'static str {
        "histogram"
    }
    fn label(&self) -> Option<(&'static str, &'static [&'static str])> {
        Some((self.label, &[]))
    }
    fn buckets(&self) -> Option<&'static [f64]> {
        Some(self.buckets)
    }
    fn register(&self) {}
}
