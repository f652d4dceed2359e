//! docs/retries.md says of every failed try what is really decided.

use std::time::Duration;

use orchestrator::domain::failure::{Failure, Progress, Reason, Status};
use orchestrator::domain::retry::{Facts, Means, Place, Policy, Repeat, Verdict, decide};

use crate::source;

const DOCS: &str = "docs/retries.md";

const PROGRESS: [(&str, Progress); 4] = [
    ("never sent", Progress::NeverSent),
    ("never began", Progress::NeverBegan),
    ("may have begun", Progress::MayHaveBegun),
    ("answered", Progress::Answered),
];

/// What is decided first about a try, as a row says it: reason, how far it came, repeated, and if idempotent.
type Row = [String; 4];

fn is_repeated(reason: Reason, progress: Progress, repeat: Repeat) -> &'static str {
    let failure = Failure {
        progress,
        ..Failure::new(reason, "")
    };
    let policy = Policy {
        repeat,
        ..Policy::default()
    };
    let facts = Facts {
        failure: &failure,
        made: 1,
        place: Place::Elsewhere,
        means: Means::Left,
        left: Duration::from_secs(10),
        random: 0,
    };
    match decide(&policy, facts) {
        Verdict::Again(..) => "yes",
        Verdict::Stop(_) => "no",
    }
}

/// Every try that is repeated in some case.
fn decided() -> Vec<Row> {
    let statuses = (1..=16).filter_map(Status::from_number);
    let of_instances = statuses.map(Reason::InstanceFailed);
    let own = |reason: &Reason| !matches!(reason, Reason::InstanceFailed(_));
    let reasons = Reason::ALL.into_iter().filter(own).chain(of_instances);
    let mut rows = Vec::new();
    for reason in reasons {
        let name = if let Reason::InstanceFailed(status) = reason {
            format!("{} with {}", reason.name(), status.name())
        } else {
            reason.name().to_owned()
        };
        for (word, progress) in PROGRESS {
            let plain = is_repeated(reason, progress, Repeat::Unsafe);
            let idempotent = is_repeated(reason, progress, Repeat::Idempotent);
            if [plain, idempotent] != ["no", "no"] {
                rows.push([&name, word, plain, idempotent].map(str::to_owned));
            }
        }
    }
    rows
}

/// The rows of the first table.
fn told(text: &str) -> Vec<Row> {
    let (_, part) = text.split_once("\n## What is repeated\n").unwrap();
    let part = part.split("\nNever repeated:").next().unwrap();
    let rows = part.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        let cells: Vec<_> = cells.map(|cell| cell.trim().replace('`', "")).collect();
        assert_eq!(cells.len(), 6, "{row}");
        [0, 1, 3, 4].map(|at| cells[at].clone())
    })
    .collect()
}

/// What the table lacks, and what it says and is not so.
fn judge(told: &[Row], decided: &[Row]) -> Vec<String> {
    let lacking = decided.iter().filter(|row| !told.contains(row));
    let wrong = told.iter().filter(|row| !decided.contains(row));
    let lacking = lacking.map(|row| format!("there is no row {row:?}"));
    lacking
        .chain(wrong.map(|row| format!("{row:?} is not so")))
        .collect()
}

#[test]
fn what_is_repeated_is_in_the_docs_and_nothing_else() {
    let found = judge(&told(&source::read(DOCS)), &decided());
    assert!(found.is_empty(), "{DOCS}:\n{}", found.join("\n"));
}

#[test]
fn a_wrong_row_of_retries_is_seen() {
    let text = source::read(DOCS);
    let rule = |text: &str| judge(&told(text), &decided()).len();
    assert_eq!(rule(&text), 0);
    assert_eq!(rule(&text.replacen("| yes | yes |", "| no | yes |", 1)), 2);
    assert_eq!(
        rule(&text.replacen("| may have begun |", "| answered |", 1)),
        2
    );
    assert_eq!(
        rule(&text.replacen("with `UNAVAILABLE`", "with `ABORTED`", 1)),
        2
    );
}

#[test]
fn the_bounds_of_retries_are_told_as_they_are() {
    use orchestrator::domain::limit;
    use orchestrator::domain::retry::ATTEMPTS_DEFAULT;
    let text = source::read(DOCS);
    let thousands = |count: usize| format!("{},{:03}", count / 1000, count % 1000);
    let expected = [
        format!(
            "{ATTEMPTS_DEFAULT} unless given, {} at most",
            limit::ATTEMPTS_MAX
        ),
        format!("| {} |", limit::READY_WAITING_MAX),
        format!("until {} answers have come", limit::HEDGE_SAMPLES_MIN),
        format!(
            "{} calls with a key",
            thousands(limit::IDEMPOTENCY_ENTRIES_MAX)
        ),
        format!("{} MiB", limit::IDEMPOTENCY_BYTES_MAX >> 20),
        format!(
            "less than {} minutes",
            limit::IDEMPOTENCY_KEPT_FOR.as_secs() / 60
        ),
    ];
    for words in expected {
        assert!(text.contains(&words), "{DOCS} lacks `{words}`");
    }
}
