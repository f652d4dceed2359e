//! One word for one thing: an instance has no second name, and no file is named after nothing.

use crate::source::{self, Source, check, inspect, walk};

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["utils", "common", "helpers", "types", "manager", "core"];

/// What others call an instance.
const SECOND_NAMES: [&str; 4] = ["worker", "node", "backend", "upstream"];

/// Words of others that cannot be avoided.
const EXCEPTIONS: [&str; 1] = [
    // A setting of tokio's runtime.
    "worker_threads",
];

fn second_names(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| !EXCEPTIONS.contains(word)) {
            let parts = parts(word);
            let second = |part: &&String| {
                SECOND_NAMES
                    .iter()
                    .any(|name| part.strip_suffix('s').unwrap_or(part) == *name)
            };
            if let Some(part) = parts.iter().find(second) {
                found.push(format!(
                    "{path}:{}: `{part}`: it is called an instance",
                    at + 1
                ));
            }
        }
    }
    found
}

/// `NodeId` and `node_id` have the same parts.
fn parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for c in word.chars() {
        if c == '_' || (c.is_ascii_uppercase() && was_lower) {
            parts.push(String::new());
        }
        was_lower = c.is_ascii_lowercase();
        parts
            .last_mut()
            .unwrap()
            .extend(c.to_lowercase().filter(|c| *c != '_'));
    }
    parts
}

fn empty_names(path: &str) -> Vec<String> {
    let parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
    parts
        .filter(|part| EMPTY_NAMES.contains(part))
        .map(|part| format!("{path}: `{part}` names nothing"))
        .collect()
}

#[test]
fn an_instance_has_no_second_name() {
    inspect(source::files(&["src", "tests/it"]), |source| {
        second_names(&source.path, &source.text)
    });
    let mut contracts = Vec::new();
    walk("proto", &mut contracts);
    contracts.retain(|path| path.ends_with(".proto"));
    assert!(2 <= contracts.len(), "the contracts are found");
    for path in contracts {
        let found = second_names(&path, &source::read(&path));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn every_file_and_folder_is_named_after_what_it_is_for() {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches", "proto"] {
        walk(folder, &mut paths);
    }
    let found: Vec<_> = paths.iter().flat_map(|path| empty_names(path)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    inspect(source::program(), inline_names);
}

fn inline_names(source: &Source) -> Vec<String> {
    let there = (0..source.tokens.len()).filter(|&at| source.stands(at, &["mod"]));
    there
        .map(|at| &source.tokens[at + 1])
        .filter(|name| EMPTY_NAMES.contains(&name.text.as_str()))
        .map(|name| source.says(name.line, format!("`{}` names nothing", name.text)))
        .collect()
}

#[test]
fn second_and_empty_names_are_seen() {
    let rule = |text: &str, expected: usize| {
        assert_eq!(second_names("src/x.rs", text).len(), expected, "{text}");
    };
    rule("// the backend answers", 1);
    rule("let node_id = workers.len();", 2);
    rule("struct UpstreamNode;", 1);
    rule("fn f(node: Node) {}", 2);
    rule(".worker_threads(1); let nodejs = network; anode", 0);
    assert_eq!(empty_names("src/utils/mod.rs").len(), 1);
    assert_eq!(empty_names("src/fleet/types.rs").len(), 1);
    assert_eq!(empty_names("src/fleet/score.rs").len(), 0);
    check(
        inline_names,
        "src/x.rs",
        "mod helpers { fn f() {} }",
        "`helpers` names nothing",
    );
}
