//! What the docs say of the program is so: modules, tests, settings, defaults, and the example of a config.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use orchestrator::config;
use orchestrator::ingress::listener::Limits;

use crate::source::{self, Source, walk};

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const README: &str = "README.md";
const INSTANCE_SESSIONS: &str = "docs/instance_sessions.md";
const EXAMPLE: &str = "examples/orchestrator.json";

/// What stands in backticks, outside blocks of code.
fn code_words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The part under a heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("there is no `## {heading}`"));
    rest.split("\n## ").next().unwrap()
}

/// Every module as `a::b`, those in folders of the program only.
fn modules(program: &[&Source]) -> BTreeSet<String> {
    let whole = program.iter().map(|file| file.module().join("::"));
    whole.filter(|module| !module.is_empty()).collect()
}

/// What the map names and is not there, and what is there and not on the map.
fn judge_map(map: &str, modules: &BTreeSet<String>) -> Vec<String> {
    let named: Vec<_> = code_words(map);
    let is_module = |word: &&String| {
        !word.is_empty()
            && word.split("::").all(|part| {
                !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            })
    };
    let known = |word: &str| {
        modules.contains(word)
            || modules
                .iter()
                .any(|module| module.ends_with(&format!("::{word}")))
    };
    let unknown = named
        .iter()
        .filter(is_module)
        .filter(|word| !known(word))
        .map(|word| format!("`{word}` is no module"));
    let top = modules.iter().filter(|module| !module.contains("::"));
    let unnamed = top
        .filter(|module| !named.contains(module))
        .map(|module| format!("`{module}` is not on the map"));
    unknown.chain(unnamed).collect()
}

#[test]
fn the_map_names_the_modules_that_there_are() {
    let text = source::read(ARCHITECTURE);
    let found = judge_map(section(&text, "The map"), &modules(&source::program()));
    assert!(found.is_empty(), "{ARCHITECTURE}:\n{}", found.join("\n"));
}

#[test]
fn a_wrong_map_is_seen() {
    let modules = ["fleet", "fleet::view", "ingress"]
        .map(str::to_owned)
        .into();
    let rule = |map: &str| judge_map(map, &modules);
    assert_eq!(
        rule("`fleet` `view` `fleet::view` `ingress` `App::start`").len(),
        0
    );
    assert_eq!(
        rule("`fleet` `ingress` `cellar`"),
        ["`cellar` is no module"]
    );
    assert_eq!(rule("`fleet`"), ["`ingress` is not on the map"]);
}

#[test]
fn every_path_in_the_docs_exists() {
    for docs in [
        ARCHITECTURE,
        README,
        "docs/failures.md",
        "docs/rest.md",
        "CHANGELOG.md",
    ] {
        let roots = ["src/", "tests/", "proto/", "docs/", "examples/", "benches/"];
        for word in code_words(&source::read(docs)) {
            if roots.iter().any(|root| word.starts_with(root))
                && !word.contains(char::is_whitespace)
            {
                let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(&word).exists();
                assert!(there, "{docs} names {word}");
            }
        }
    }
}

/// Rows of a table whose last cell names no test, or one that is not there.
fn judge_invariants(table: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows: Vec<_> = table
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(|c: char| c.is_ascii_digit()))
        .collect();
    let mut found = Vec::new();
    for row in &rows {
        let guards = row
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .unwrap_or_default();
        let guards = code_words(guards);
        if guards.is_empty() {
            found.push(format!("no test guards: {row}"));
        }
        let missing = guards.iter().filter(|guard| !tests.contains(*guard));
        found.extend(missing.map(|guard| format!("there is no test `{guard}`")));
    }
    if rows.is_empty() {
        found.push("there are no invariants".to_owned());
    }
    found
}

fn tests() -> BTreeSet<String> {
    let files = source::files(&["src", "tests"]);
    let in_file = |file: &Source| -> Vec<String> {
        let there = (0..file.tokens.len()).filter(|&at| file.stands(at, &["fn"]));
        there
            .filter(|&at| file.tokens[at].is_test)
            .map(|at| file.tokens[at + 1].text.clone())
            .collect()
    };
    files.flat_map(in_file).collect()
}

#[test]
fn every_invariant_has_a_test_that_exists() {
    let text = source::read(ARCHITECTURE);
    let found = judge_invariants(section(&text, "Invariants"), &tests());
    assert!(found.is_empty(), "{ARCHITECTURE}:\n{}", found.join("\n"));
}

#[test]
fn an_invariant_without_a_test_is_seen() {
    let tests = ["it_holds".to_owned()].into();
    let rule = |table: &str| judge_invariants(table, &tests);
    assert_eq!(rule("| 1 | so it is | `it_holds` |").len(), 0);
    assert_eq!(
        rule("| 1 | so it is | `it_does_not` |"),
        ["there is no test `it_does_not`"]
    );
    assert_eq!(rule("| 1 | so it is | trust us |").len(), 1);
    assert_eq!(rule("").len(), 1);
}

#[test]
fn the_example_of_a_config_is_accepted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLE);
    let config = config::read(&path, &|_| Some("token".to_owned()));
    let config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(!config.instances.is_empty() && !config.keys.keys.is_empty());
}

#[test]
fn the_docs_show_the_examples_as_they_are() {
    let text = source::read(README) + &source::read(INSTANCE_SESSIONS);
    let mut examples = Vec::new();
    walk("examples", &mut examples);
    assert!(examples.iter().any(|path| path == EXAMPLE));
    for path in examples {
        assert!(
            shows(&text, &source::read(&path)),
            "neither {README} nor {INSTANCE_SESSIONS} shows {path} as it is"
        );
    }
    assert!(!shows("```json\n{}\n```", "{ }\n"));
}

fn shows(text: &str, example: &str) -> bool {
    text.contains(&format!("\n{example}```"))
}

#[test]
fn the_exit_codes_are_told_as_the_help_tells_them() {
    let help = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let text = source::read(README);
    for line in codes.trim_end().lines() {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        let row = format!("| {code} | {meaning} |");
        assert!(text.contains(&row), "{README} lacks {row}");
    }
}

/// The names that the config reader knows.
fn settings(program: &[&Source]) -> BTreeSet<String> {
    let readers = program
        .iter()
        .filter(|file| file.path.starts_with("src/config/check/"));
    let mut found = BTreeSet::new();
    for file in readers {
        let lists = (0..file.tokens.len())
            .filter(|&at| !file.tokens[at].is_test && file.stands(at, &["fields", "(", "&", "["]));
        for at in lists {
            let list = file.tokens[at + 4..].iter();
            let names = list.take_while(|token| token.text != "]");
            let names = names.filter(|token| token.text.starts_with('"'));
            found.extend(names.map(|name| name.text.trim_matches('"').to_owned()));
        }
    }
    found
}

/// Settings that a reference does not name.
fn untold<'a>(settings: &'a BTreeSet<String>, reference: &str) -> Vec<&'a String> {
    let words = code_words(reference);
    let told = |setting: &&String| {
        words
            .iter()
            .any(|word| word.split('.').any(|part| part == *setting))
    };
    settings.iter().filter(|setting| !told(setting)).collect()
}

#[test]
fn every_setting_is_in_the_readme() {
    let settings = settings(&source::program());
    assert!(40 < settings.len(), "the settings are found: {settings:?}");
    let text = source::read(README);
    let parts = ["Config file", "Limits of the front door"].map(|part| section(&text, part));
    let found = untold(&settings, &parts.concat());
    assert!(found.is_empty(), "{README} lacks the settings {found:?}");
}

#[test]
fn a_setting_that_is_not_told_is_seen() {
    let reader = "fn f() { place.fields(&[\"grace\", \"age\"])?; }";
    let reader = Source::new("src/config/check/x.rs", reader);
    let settings = settings(&[&reader]);
    assert_eq!(untold(&settings, "the `limits.age` and grace"), ["grace"]);
    assert_eq!(untold(&settings, "`age` `shutdown.grace`").len(), 0);
}

#[test]
fn the_limits_of_the_front_door_and_of_a_stop_are_told_as_they_are() {
    let limits = Limits::default();
    let time = |time| humantime::format_duration(time).to_string();
    let expected = [
        ("connections", limits.connections.to_string()),
        (
            "connections_per_address",
            limits.connections_per_address.to_string(),
        ),
        ("streams_per_connection", limits.streams.to_string()),
        ("stream_window_bytes", limits.stream_window.to_string()),
        (
            "connection_window_bytes",
            limits.connection_window.to_string(),
        ),
        ("tls_handshake_timeout", time(limits.tls_handshake)),
        ("first_bytes_timeout", time(limits.first_bytes)),
        ("http1_headers_timeout", time(limits.http1_headers)),
        ("body_timeout", time(limits.body)),
        ("stream_idle", time(limits.stream_idle)),
        ("keepalive_interval", time(limits.keepalive_interval)),
        ("keepalive_timeout", time(limits.keepalive_timeout)),
        ("connection_age", time(limits.age)),
        ("connection_age_grace", time(limits.age_grace)),
    ];
    let text = source::read(README);
    let row = |row: String| assert!(text.contains(&row), "{README} lacks {row}");
    for (setting, value) in expected {
        row(format!("| `limits.{setting}` | {value} |"));
    }
    let grace = time(config::Shutdown::default().grace);
    row(format!("| `shutdown.grace` | {grace} |"));
}

/// Places where a merge was not decided.
fn undecided(text: &str) -> Vec<usize> {
    let marks = ["<<<<<<< ", "||||||| ", ">>>>>>> "];
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| marks.iter().any(|mark| line.starts_with(mark)))
        .map(|(at, _)| at + 1)
        .collect()
}

#[test]
fn every_merge_was_decided() {
    let listed = Command::new("git").arg("ls-files").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut found = Vec::new();
    for path in listed.lines() {
        // What is no text has no such lines, and what was taken out is not there.
        if let Ok(text) = std::fs::read_to_string(path) {
            let lines = undecided(&text).into_iter();
            found.extend(lines.map(|line| format!("{path}:{line}")));
        }
    }
    assert!(
        found.is_empty(),
        "a merge is not decided:\n{}",
        found.join("\n")
    );
    let text = "a\n<<<<<<< HEAD\nb\n>>>>>>> main\n";
    assert_eq!(undecided(text), [2, 4]);
}
