//! What docs/operations.md says of the metrics is what the program serves, and no more series than it says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::domain::failure::Reason;
use crate::domain::gather::Outcome;
use crate::domain::health::State;
use crate::domain::task::AttemptKind;
use crate::ingress::{metered_codes, metered_paths};
use crate::telemetry::metric::{BUCKETS, Kind, METRICS, Metric, SpanEnd};

const PAGE: &str = include_str!("../../docs/operations.md");
/// Those of the process, which have no labels: tests/interop counts them.
const PROCESS_SERIES_MAX: usize = 16;

/// All that a label can say.
fn values(metric: &Metric, label: &str) -> Vec<&'static str> {
    let of_states = || State::ALL.iter().map(|state| state.word()).collect();
    let name = metric.name.trim_start_matches("orchestrator_");
    match (name, label) {
        ("calls_total" | "call_seconds", "path") => metered_paths(),
        ("calls_total", "code") => metered_codes(),
        ("attempts_total", "kind") => AttemptKind::ALL.iter().map(|kind| kind.word()).collect(),
        ("attempts_total", "result") => {
            let reasons = Reason::ALL.iter().map(|reason| reason.name());
            ["OK"].into_iter().chain(reasons).collect()
        }
        ("legs_total", "outcome") => Outcome::ALL.iter().map(|outcome| outcome.word()).collect(),
        ("health_changes_total", "from" | "to") | ("instances", "state") => of_states(),
        ("journal_commits_total", "result") => vec!["ok", "failed"],
        ("spans_total", "result") => SpanEnd::ALL.iter().map(|end| end.word()).collect(),
        ("tls_end_seconds", "file") => vec!["certificate_file", "client_crl_file"],
        other => panic!("which values has {other:?}? A label without an end to them is none"),
    }
}

/// Series of one metric when each of its labels has said all that it can.
fn series_max(metric: &Metric) -> usize {
    let labels = metric.labels.iter();
    let combinations: usize = labels.map(|label| values(metric, label).len()).product();
    let each = match metric.kind {
        Kind::Counter | Kind::Gauge => 1,
        // Those of the buckets, the last of which has no bound, the sum and the count.
        Kind::Histogram => BUCKETS.len() + 1 + 2,
    };
    combinations * each
}

fn as_one_line() -> String {
    let words: Vec<_> = PAGE.split_whitespace().collect();
    words.join(" ")
}

#[test]
fn there_are_never_more_series_than_the_page_says() {
    let page = as_one_line();
    let (_, rest) = page.split_once("there are never more than ").unwrap();
    let (stated, _) = rest.split_once(" series").unwrap();
    let stated: usize = stated.replace(',', "").parse().unwrap();
    let each: BTreeMap<_, _> = METRICS
        .map(|metric| (metric.name, series_max(&metric)))
        .into();
    let all = PROCESS_SERIES_MAX + each.values().sum::<usize>();
    assert!(all <= stated, "{all} by {each:?}");
    assert!(
        stated < all + 200,
        "it is no bound that says nothing: {all}"
    );
}

#[test]
fn the_page_has_every_metric_with_its_labels_and_its_meaning() {
    let code = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        words.join(", ")
    };
    let (mut metrics, mut labels) = (String::new(), String::new());
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let Metric { name, meaning, .. } = metric;
        writeln!(
            metrics,
            "| `{name}` | {kind} | {} | {meaning} |",
            code(metric.labels)
        )
        .unwrap();
        for label in metric.labels {
            let said = match (name, *label) {
                (_, "path") => "a method of the contract such as `/openclaw.orchestrator.v1.OrchestratorService/Route`, a path of the REST door such as `/orchestrator/route` or `/orchestrator/sessions/{id}`, `/grpc.health.v1.Health`, `/grpc.reflection`, or `other`".to_owned(),
                ("orchestrator_attempts_total", "result") => {
                    "`OK`, or a reason of docs/failures.md".to_owned()
                }
                (_, label) => code(&values(&metric, label)),
            };
            writeln!(labels, "| `{name}` | `{label}` | {said} |").unwrap();
        }
    }
    // As one: no row is missing, none is there of what is gone, and the order is that of the program.
    for table in [metrics, labels] {
        let first = table.lines().next().unwrap();
        let found = PAGE
            .split_once(first)
            .map(|(_, rest)| format!("{first}{rest}"));
        let found = found.unwrap_or_else(|| panic!("the page lacks a table:\n{table}"));
        let found: String = found
            .lines()
            .take_while(|line| line.starts_with('|'))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(found, table, "the page has another table");
    }
}

#[test]
fn the_page_has_every_bucket() {
    let page = as_one_line();
    let (_, rest) = page.split_once("Buckets: ").unwrap();
    let (said, _) = rest.split_once(" s.").unwrap();
    let (millis, seconds) = said.split_once(" ms, ").unwrap();
    let read = |said: &str, unit: f64| -> Vec<f64> {
        let numbers = said
            .split([',', ' '])
            .filter_map(|word| word.parse::<f64>().ok());
        numbers.map(|number| number * unit).collect()
    };
    let all = [read(millis, 0.001), read(seconds, 1.0)].concat();
    assert_eq!(all.len(), BUCKETS.len(), "{said}");
    for (said, bucket) in all.iter().zip(BUCKETS) {
        assert!((said - bucket).abs() < 1e-9, "{said} {bucket}");
    }
}
