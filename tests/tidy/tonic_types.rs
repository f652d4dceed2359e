//! One translation from failures to the wire: a gRPC status or code is made, or looked at, in one file.

use crate::source::{self, Source, check, inspect};

/// Where else, and why.
const EXCEPTIONS: [(&str, &str); 3] = [
    (
        "src/ingress/failure_table.rs",
        "the one table of the front door",
    ),
    (
        "src/instance/builtin/",
        "a gRPC server of its own, on the other side of the back door",
    ),
    ("src/cli/", "a client: it reads what servers answer"),
];

fn statuses(source: &Source) -> Vec<String> {
    if EXCEPTIONS
        .iter()
        .any(|(place, _)| source.path.starts_with(place))
    {
        return Vec::new();
    }
    let paths = source.paths();
    let mut found = Vec::new();
    for path in &paths {
        for whole in source.resolved(&paths, path) {
            let whole: Vec<_> = whole.iter().map(String::as_str).collect();
            if let ["tonic", "Status" | "Code", what, ..] = whole[..] {
                found.push(source.says(
                    path.line,
                    format!("may not use tonic's {}::{what}", whole[1]),
                ));
            }
        }
    }
    found
}

#[test]
fn failures_become_statuses_in_one_file() {
    inspect(source::program(), statuses);
    for (place, _) in EXCEPTIONS {
        let there = source::program();
        assert!(
            there.iter().any(|file| file.path.starts_with(place)),
            "{place} is gone"
        );
    }
}

#[test]
fn a_status_made_elsewhere_is_seen() {
    let rule = |snippet, expected| check(statuses, "src/ingress/grpc/x.rs", snippet, expected);
    let made = "may not use tonic's Status::internal";
    rule("use tonic::Status; fn f() { Status::internal(1) }", made);
    rule(
        "use tonic::{self as t, Status as S}; fn f() { S::internal(1) }",
        made,
    );
    rule("fn f() { tonic::Status::internal(1) }", made);
    let matched = "may not use tonic's Code::Ok";
    rule(
        "use tonic::{Code, Status}; fn f(c: Code) { match c { Code::Ok => 1 } }",
        matched,
    );
    rule(
        "use tonic::Status; fn f(s: Status) -> Result<(), Status> { Err(s) }",
        "",
    );
    rule(
        "use crate::domain::failure::Status; fn f() { Status::from_number(1) }",
        "",
    );
}
