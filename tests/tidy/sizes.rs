//! How big things are, and how files open.

use std::collections::BTreeSet;

use crate::source::{self, Source, check, inspect, walk};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// `src/a/b/file.rs`.
const FOLDERS_MAX: usize = 2;
/// Folders of data, which are not counted.
const DATA: [&str; 2] = ["snapshots", "samples"];

fn file_size(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![source.says(
        lines,
        format!("{lines} lines, {FILE_LINES_MAX} are allowed"),
    )]
}

fn function_sizes(source: &Source) -> Vec<String> {
    let tokens = &source.tokens;
    let starts = (0..tokens.len()).filter(|&at| source.stands(at, &["fn"]));
    let mut found = Vec::new();
    for start in starts.filter(|&at| !source.stands(at + 1, &["("])) {
        let Some(lines) = body_lines(source, start) else {
            continue;
        };
        if FUNCTION_LINES_MAX < lines {
            let name = &tokens[start + 1].text;
            let what = format!("`{name}` has {lines} lines, {FUNCTION_LINES_MAX} are allowed");
            found.push(source.says(tokens[start].line, what));
        }
    }
    found
}

/// Lines between the braces, comments and empty ones included; none for a declaration.
fn body_lines(source: &Source, start: usize) -> Option<usize> {
    let (mut open, mut nested) = (None, 0_usize);
    for token in &source.tokens[start..] {
        match token.text.as_str() {
            ";" if nested == 0 => return None,
            "{" if nested == 0 && open.is_none() => {
                open = Some(token.line);
                nested = 1;
            }
            "{" | "(" | "[" => nested += 1,
            "}" | ")" | "]" => {
                nested -= 1;
                if let Some(open) = open.filter(|_| nested == 0) {
                    return Some((token.line - open).saturating_sub(1));
                }
            }
            _ => {}
        }
    }
    None
}

fn opening(source: &Source) -> Vec<String> {
    if source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.says(1, "does not open with `//!` and what it is for")]
}

fn depth(path: &str) -> usize {
    let folders = path.split('/').skip(1).filter(|part| !DATA.contains(part));
    folders.count() - 1
}

#[test]
fn files_and_functions_stay_small() {
    inspect(source::files(&["src", "tests", "benches"]), file_size);
    inspect(source::program(), function_sizes);
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    inspect(source::files(&["src", "tests", "benches"]), opening);
}

#[test]
fn folders_are_at_most_two_deep_and_open_with_mod_rs() {
    let mut paths = Vec::new();
    walk("src", &mut paths);
    for path in &paths {
        assert!(
            depth(path) <= FOLDERS_MAX,
            "{path} lies deeper than {FOLDERS_MAX} folders"
        );
    }
    let found = folders_without_mod(&paths);
    assert!(found.is_empty(), "{found:?}");
}

/// `ls src` is the architecture: a module with a folder lives in the folder.
fn folders_without_mod(paths: &[String]) -> Vec<String> {
    let rust: BTreeSet<_> = paths.iter().filter(|path| path.ends_with(".rs")).collect();
    let folders: BTreeSet<_> = rust
        .iter()
        .filter_map(|path| path.rsplit_once('/'))
        .map(|(folder, _)| folder)
        .filter(|folder| *folder != "src")
        .collect();
    folders
        .into_iter()
        .filter(|folder| {
            !rust.contains(&format!("{folder}/mod.rs")) || rust.contains(&format!("{folder}.rs"))
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_is_too_large_or_too_deep_is_seen() {
    check(
        file_size,
        "src/x.rs",
        &"\n".repeat(501),
        "501 lines, 500 are allowed",
    );
    check(file_size, "src/x.rs", &"\n".repeat(500), "");
    let function = |lines: usize| format!("fn f(x: [u8; 2]) -> u8 {{{}}}", "\n".repeat(lines + 1));
    let rule = |snippet: &str, expected| check(function_sizes, "src/x.rs", snippet, expected);
    rule(&function(71), "`f` has 71 lines, 70 are allowed");
    rule(&function(70), "");
    rule(&format!("trait T {{ fn g(); {} }}", function(70)), "");
    let missing = "does not open with `//!` and what it is for";
    check(opening, "src/x.rs", "\n//! Late.", missing);
    check(opening, "src/x.rs", "//! In time.", "");
    assert_eq!(depth("src/a/b/c.rs"), 2);
    assert_eq!(depth("src/a/b/c/d.rs"), 3);
    assert_eq!(depth("src/a/b/snapshots/d.snap"), 2);
    let paths = |paths: &[&str]| {
        paths
            .iter()
            .map(|path| (*path).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        folders_without_mod(&paths(&["src/a.rs", "src/a/b.rs"])),
        ["src/a"]
    );
    assert_eq!(
        folders_without_mod(&paths(&["src/a/mod.rs", "src/a/b.rs"])).len(),
        0
    );
}
