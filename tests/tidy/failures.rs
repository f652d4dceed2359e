//! docs/failures.md lists every failure with what it really is on the wire.

use orchestrator::domain::failure::{Failure, Reason, Status};
use orchestrator::ingress::failure_table::codes;

use crate::source::{self, Kind, Source};

const DOCS: &str = "docs/failures.md";

/// The rows of a table of Markdown whose first cell is code; cells without their backticks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    };
    rows.map(cells).collect()
}

/// The part under a heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

fn on_the_wire(reason: Reason) -> [String; 2] {
    let (code, http) = codes(reason);
    let code = Status::from_number(i32::from(code) as u64).unwrap().name();
    [code.to_owned(), http.as_u16().to_string()]
}

/// What is wrong with the table, given what each reason is.
fn judge(rows: &[Vec<String>], reasons: &[Reason]) -> Vec<String> {
    let mut found = Vec::new();
    for &reason in reasons {
        let name = reason.name();
        let [code, http] = on_the_wire(reason);
        let row = rows.iter().find(|row| row[..3] == [name, &code, &http]);
        let Some(row) = row else {
            found.push(format!("there is no row | `{name}` | `{code}` | {http} |"));
            continue;
        };
        if row.len() != 6 || row.iter().any(String::is_empty) {
            found.push(format!("the row of {name} has an empty cell"));
        }
        let never = !Failure::new(reason, "").is_retryable();
        let said = row.last().unwrap();
        if never && said != "no" || !["yes", "no", "if not begun"].contains(&said.as_str()) {
            found.push(format!("{name}: retryable is said to be `{said}`"));
        }
    }
    for row in rows {
        if !reasons.iter().any(|reason| reason.name() == row[0]) {
            found.push(format!("{} is no reason", row[0]));
        }
    }
    found
}

#[test]
fn every_failure_is_in_the_docs_as_it_is_on_the_wire() {
    let text = source::read(DOCS);
    let own: Vec<_> = Reason::ALL
        .into_iter()
        .filter(|reason| !matches!(reason, Reason::InstanceFailed(_)))
        .collect();
    let found = judge(&rows(section(&text, "Reasons")), &own);
    assert!(found.is_empty(), "{DOCS}:\n{}", found.join("\n"));
}

#[test]
fn every_status_of_an_instance_is_in_the_docs() {
    let text = source::read(DOCS);
    let rows = rows(section(&text, "What an instance answered"));
    let expected: Vec<_> = (1..=16)
        .filter_map(Status::from_number)
        .map(|status| {
            let [code, http] = on_the_wire(Reason::InstanceFailed(status));
            vec![status.name().to_owned(), code, http]
        })
        .collect();
    let found: Vec<_> = rows.iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_wrong_row_is_seen() {
    let table = |row: &str| rows(&format!("| reason |\n|---|\n{row}"));
    let rule = |row: &str| judge(&table(row), &[Reason::TargetInvalid]);
    let right = "| `TARGET_INVALID` | `INVALID_ARGUMENT` | 400 | meaning | what to do | no |";
    assert_eq!(rule(right), Vec::<String>::new());
    assert_eq!(rule(&right.replace("400", "404")).len(), 1);
    assert_eq!(rule(&right.replace("| no |", "| yes |")).len(), 1);
    assert_eq!(rule(&right.replace("what to do", "")).len(), 1);
    assert_eq!(
        rule(&format!("{right}\n{}", right.replace("TARGET", "NOBODY"))).len(),
        1
    );
    assert_eq!(rule("").len(), 1);
}

/// The names of an enum's variants.
fn variants(source: &Source, of: &str) -> Vec<String> {
    let start = (0..source.tokens.len())
        .find(|&at| source.stands(at, &["enum", of, "{"]))
        .unwrap();
    let mut found = Vec::new();
    let (mut at, mut begins) = (start + 3, true);
    while !source.stands(at, &["}"]) {
        let token = &source.tokens[at];
        if begins && token.kind == Kind::Word {
            found.push(token.text.clone());
        }
        begins = token.text == ",";
        at += 1;
    }
    found
}

#[test]
fn the_list_of_all_reasons_has_them_all() {
    let program = source::program();
    let file = |path: &str| program.iter().find(|file| file.path == path).unwrap();
    let listed: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| format!("{reason:?}").split('(').next().unwrap().to_owned())
        .collect();
    assert_eq!(listed, variants(file("src/domain/failure.rs"), "Reason"));
}

#[test]
fn variants_are_read_from_the_source() {
    let source = Source::new("src/x.rs", "pub enum E { /// One.\n A, B(Status), #[x] C }");
    assert_eq!(variants(&source, "E")[..2], ["A", "B"]);
}
