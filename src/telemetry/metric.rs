//! Every metric with its meaning: names, labels and what moves them. The docs are held against this table.
//!
//! No label has the name of an instance, a caller or a session: however large the fleet is, there are as many series
//! as there are words. Who it was stands in the log and in the answers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A count in buckets.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        labels,
        meaning,
    }
}

const CALLS: &str = "orchestrator_calls_total";
const CALL_SECONDS: &str = "orchestrator_call_seconds";
const ATTEMPTS: &str = "orchestrator_attempts_total";
const ATTEMPT_SECONDS: &str = "orchestrator_attempt_seconds";
const LEGS: &str = "orchestrator_legs_total";
const HEALTH_CHANGES: &str = "orchestrator_health_changes_total";
const JOURNAL_COMMITS: &str = "orchestrator_journal_commits_total";
const JOURNAL_COMMIT_SECONDS: &str = "orchestrator_journal_commit_seconds";
const INSTANCES: &str = "orchestrator_instances";
const CALLS_IN_FLIGHT: &str = "orchestrator_calls_in_flight";
const CALLS_WAITING: &str = "orchestrator_calls_waiting";
const LEGS_IN_FLIGHT: &str = "orchestrator_legs_in_flight";
const INSTANCE_CALLS: &str = "orchestrator_instance_calls_in_flight";
const CONNECTIONS: &str = "orchestrator_connections";
const SESSIONS: &str = "orchestrator_sessions";
const MESSAGE_BYTES: &str = "orchestrator_message_bytes";
const MESSAGE_BYTES_LIMIT: &str = "orchestrator_message_bytes_limit";
const RETRY_TOKENS: &str = "orchestrator_retry_tokens";
const HEDGE_TOKENS: &str = "orchestrator_hedge_tokens";
const DRAINING: &str = "orchestrator_draining";
const SPANS: &str = "orchestrator_spans_total";
const JOURNAL_READY: &str = "orchestrator_journal_ready";
const TLS_END: &str = "orchestrator_tls_end_seconds";
const TASKS: &str = "orchestrator_runtime_tasks";
const QUEUE: &str = "orchestrator_runtime_queue_depth";

/// Every metric of the program. Beside them stand those of the process, as every client of Prometheus names them:
/// `process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and so on.
pub const METRICS: [Metric; 25] = [
    metric(
        CALLS,
        Kind::Counter,
        &["path", "code"],
        "Calls that have ended, by what was called and how it ended: a gRPC code, or an HTTP status over REST",
    ),
    metric(
        CALL_SECONDS,
        Kind::Histogram,
        &["path"],
        "How long calls took, from the arrival of their headers to the end of their answer",
    ),
    metric(
        ATTEMPTS,
        Kind::Counter,
        &["kind", "result"],
        "Tries at instances that have ended, by why they were made, and how they ended: OK, or the reason of the failure",
    ),
    metric(
        ATTEMPT_SECONDS,
        Kind::Histogram,
        &[],
        "How long tries at instances took",
    ),
    metric(
        LEGS,
        Kind::Counter,
        &["outcome"],
        "Targets of fan-outs, by their outcome",
    ),
    metric(
        HEALTH_CHANGES,
        Kind::Counter,
        &["from", "to"],
        "Instances whose state has changed",
    ),
    metric(
        JOURNAL_COMMITS,
        Kind::Counter,
        &["result"],
        "Commits of the journal; each has what several sessions had to write",
    ),
    metric(
        JOURNAL_COMMIT_SECONDS,
        Kind::Histogram,
        &[],
        "How long commits of the journal took, the sync of the disk included",
    ),
    metric(
        SPANS,
        Kind::Counter,
        &["result"],
        "Spans of traces that were recorded, by what became of them: delivered to the collector, rejected by it, not_delivered, or dropped because the queue_full",
    ),
    metric(
        INSTANCES,
        Kind::Gauge,
        &["state"],
        "Instances of the fleet, by their state",
    ),
    metric(
        CALLS_IN_FLIGHT,
        Kind::Gauge,
        &[],
        "Calls that were let in and have not ended",
    ),
    metric(
        CALLS_WAITING,
        Kind::Gauge,
        &[],
        "Calls that wait to be let in",
    ),
    metric(
        LEGS_IN_FLIGHT,
        Kind::Gauge,
        &[],
        "Targets of the fan-outs that were let in and have not ended",
    ),
    metric(
        INSTANCE_CALLS,
        Kind::Gauge,
        &[],
        "Tries that are with any instance",
    ),
    metric(
        CONNECTIONS,
        Kind::Gauge,
        &[],
        "Connections of callers, and the calls on them: tasks at the front door",
    ),
    metric(
        SESSIONS,
        Kind::Gauge,
        &[],
        "Sessions that are known; those that are closed stay for a while",
    ),
    metric(
        MESSAGE_BYTES,
        Kind::Gauge,
        &[],
        "Bytes of all messages that are held",
    ),
    metric(
        MESSAGE_BYTES_LIMIT,
        Kind::Gauge,
        &[],
        "Bytes of messages that may be held; beyond them calls are refused",
    ),
    metric(
        RETRY_TOKENS,
        Kind::Gauge,
        &[],
        "Retries that the shared budget has left",
    ),
    metric(
        HEDGE_TOKENS,
        Kind::Gauge,
        &[],
        "Hedges that the shared budget has left",
    ),
    metric(DRAINING, Kind::Gauge, &[], "1 once a stop has begun"),
    metric(
        JOURNAL_READY,
        Kind::Gauge,
        &[],
        "1 while the journal takes what sessions say, 0 while its disk is full or has failed",
    ),
    metric(
        TLS_END,
        Kind::Gauge,
        &["file"],
        "When the certificate of the front door expires, and the first of its revocation lists is overdue, in seconds since 1970; only where it speaks TLS",
    ),
    metric(
        TASKS,
        Kind::Gauge,
        &[],
        "Tasks of the runtime that are alive",
    ),
    metric(
        QUEUE,
        Kind::Gauge,
        &[],
        "Tasks of the runtime that wait for a thread",
    ),
];

/// Upper bounds of the buckets of each histogram, in seconds.
pub const BUCKETS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];

/// Whether anything is counted: labels cost memory on each call, also where nobody takes them.
static IS_COUNTED: AtomicBool = AtomicBool::new(false);

/// The metrics as they are now.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// In the text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        metrics_process::Collector::default().collect();
        self.0.render()
    }

    /// Takes what has come into the buckets; to be called every few seconds, or samples gather.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Why nothing is counted.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Built in wrongly.
    #[error("metrics: {0}")]
    Build(#[from] BuildError),
    /// Something counts already.
    #[error("metrics have been started already")]
    Twice,
}

/// From now on everything is counted, for the whole process. Before that, counting costs next to nothing.
pub fn start() -> Result<Exposition, MetricsError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)?
        .build_recorder();
    let exposition = Exposition(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Twice)?;
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.meaning),
            Kind::Gauge => describe_gauge!(metric.name, metric.meaning),
            Kind::Histogram => describe_histogram!(metric.name, metric.meaning),
        }
    }
    metrics_process::Collector::default().describe();
    IS_COUNTED.store(true, Ordering::Relaxed);
    Ok(exposition)
}

/// A call has ended.
pub fn call_ended(path: &'static str, code: Cow<'static, str>, took: Duration) {
    if !IS_COUNTED.load(Ordering::Relaxed) {
        return;
    }
    counter!(CALLS, "path" => path, "code" => code).increment(1);
    histogram!(CALL_SECONDS, "path" => path).record(took);
}

/// A try at an instance has ended.
pub fn attempt_ended(kind: &'static str, result: &'static str, took: Duration) {
    if !IS_COUNTED.load(Ordering::Relaxed) {
        return;
    }
    counter!(ATTEMPTS, "kind" => kind, "result" => result).increment(1);
    histogram!(ATTEMPT_SECONDS).record(took);
}

/// A target of a fan-out has its outcome.
pub fn leg_ended(outcome: &'static str) {
    if !IS_COUNTED.load(Ordering::Relaxed) {
        return;
    }
    counter!(LEGS, "outcome" => outcome).increment(1);
}

/// The state of an instance has changed.
pub fn health_changed(from: &'static str, to: &'static str) {
    if !IS_COUNTED.load(Ordering::Relaxed) {
        return;
    }
    counter!(HEALTH_CHANGES, "from" => from, "to" => to).increment(1);
}

/// A commit of the journal has ended.
pub fn journal_committed(result: &'static str, took: Duration) {
    if !IS_COUNTED.load(Ordering::Relaxed) {
        return;
    }
    counter!(JOURNAL_COMMITS, "result" => result).increment(1);
    histogram!(JOURNAL_COMMIT_SECONDS).record(took);
}

/// What became of spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanEnd {
    /// The collector has them.
    Delivered,
    /// The collector did not want them.
    Rejected,
    /// The collector could not be reached.
    NotDelivered,
    /// Too many waited for it.
    QueueFull,
}

impl SpanEnd {
    /// Every end there is.
    pub const ALL: [Self; 4] = [
        Self::Delivered,
        Self::Rejected,
        Self::NotDelivered,
        Self::QueueFull,
    ];

    /// The end as a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Rejected => "rejected",
            Self::NotDelivered => "not_delivered",
            Self::QueueFull => "queue_full",
        }
    }
}

/// So many spans have come to their end.
pub fn spans_ended(end: SpanEnd, count: u64) {
    if !IS_COUNTED.load(Ordering::Relaxed) {
        return;
    }
    counter!(SPANS, "result" => end.word()).increment(count);
}

/// What is read when somebody asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    /// Instances by state; every state is there.
    pub instances: Vec<(&'static str, usize)>,
    /// Calls that were let in.
    pub calls_in_flight: u32,
    /// Calls that wait for it.
    pub calls_waiting: u32,
    /// Targets of fan-outs.
    pub legs_in_flight: u32,
    /// Tries that are with instances.
    pub instance_calls: u64,
    /// Tasks at the front door.
    pub connections: usize,
    /// Sessions that are known.
    pub sessions: usize,
    /// Bytes of messages, and how many there may be.
    pub message_bytes: (usize, usize),
    /// Retries that are left.
    pub retry_tokens: f64,
    /// Hedges that are left.
    pub hedge_tokens: f64,
    /// Whether a stop has begun.
    pub is_draining: bool,
    /// Whether the journal takes what it is given.
    pub is_journal_ready: bool,
    /// By the key of the config that names the file: when what is in it ends.
    pub tls_ends: Vec<(&'static str, SystemTime)>,
}

/// Notes the levels, as they are now.
pub fn note(levels: &Levels) {
    for (state, count) in &levels.instances {
        gauge!(INSTANCES, "state" => *state).set(*count as f64);
    }
    for (file, end) in &levels.tls_ends {
        let since = end.duration_since(SystemTime::UNIX_EPOCH);
        gauge!(TLS_END, "file" => *file).set(since.unwrap_or_default().as_secs_f64());
    }
    let runtime = tokio::runtime::Handle::current().metrics();
    for (name, value) in [
        (CALLS_IN_FLIGHT, f64::from(levels.calls_in_flight)),
        (CALLS_WAITING, f64::from(levels.calls_waiting)),
        (LEGS_IN_FLIGHT, f64::from(levels.legs_in_flight)),
        (INSTANCE_CALLS, levels.instance_calls as f64),
        (CONNECTIONS, levels.connections as f64),
        (SESSIONS, levels.sessions as f64),
        (MESSAGE_BYTES, levels.message_bytes.0 as f64),
        (MESSAGE_BYTES_LIMIT, levels.message_bytes.1 as f64),
        (RETRY_TOKENS, levels.retry_tokens),
        (HEDGE_TOKENS, levels.hedge_tokens),
        (DRAINING, f64::from(u8::from(levels.is_draining))),
        (JOURNAL_READY, f64::from(u8::from(levels.is_journal_ready))),
        (TASKS, runtime.num_alive_tasks() as f64),
        (QUEUE, runtime.global_queue_depth() as f64),
    ] {
        gauge!(name).set(value);
    }
}
