//! What may not stand in the program, and where it may after all.

use crate::source::{self, Kind, Source, check, inspect};

/// Paths; the places where each is allowed, and why.
const PATHS: [(&str, &[(&str, &str)]); 14] = [
    ("tokio::spawn", &[]),
    ("tokio::task::spawn", &[]),
    ("tokio::task::spawn_blocking", &[]),
    ("tokio::task::spawn_local", &[]),
    ("std::thread::spawn", &[]),
    ("std::thread::scope", &[]),
    (
        "std::thread::Builder::new",
        &[("src/tasks.rs", "owns every thread")],
    ),
    ("std::sync::mpsc::channel", &[]),
    ("tokio::sync::mpsc::unbounded_channel", &[]),
    ("std::time::Instant::now", &[]),
    ("std::env::var", ENVIRONMENT),
    ("std::env::var_os", ENVIRONMENT),
    ("std::env::vars", ENVIRONMENT),
    ("std::env::vars_os", ENVIRONMENT),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("src/cli/", "where the environment is read"),
    ("src/config/", "names its variables"),
];

/// Macros that have no place in a program that is finished, that writes through its one output, and that what comes from
/// outside does not break.
const MACROS: [&str; 9] = [
    "panic",
    "unreachable",
    "todo",
    "unimplemented",
    "dbg",
    "print",
    "println",
    "eprint",
    "eprintln",
];

fn banned_paths(source: &Source) -> Vec<String> {
    let paths = source.paths();
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| !path.is_test) {
        for whole in source.resolved(&paths, path) {
            let shown = whole.join("::");
            let Some((_, places)) = PATHS.iter().find(|(banned, _)| *banned == shown) else {
                continue;
            };
            if !places
                .iter()
                .any(|(place, _)| source.path.starts_with(place))
            {
                found.push(source.says(path.line, format!("{shown} may not stand here")));
            }
        }
    }
    found
}

fn banned_macros(source: &Source) -> Vec<String> {
    let code = source.code();
    code.filter(|(at, token)| {
        token.kind == Kind::Word
            && MACROS.contains(&token.text.as_str())
            && source.stands(at + 1, &["!"])
    })
    .map(|(_, token)| source.says(token.line, format!("{}! may not stand here", token.text)))
    .collect()
}

/// What comes from outside is handled, and what is a bug of ours is an `assert!` that says what was relied on.
fn unwraps(source: &Source) -> Vec<String> {
    let code = source.code();
    code.filter(|(at, _)| {
        ["unwrap", "expect"]
            .iter()
            .any(|name| source.stands(*at, &[".", name, "("]))
    })
    .map(|(_, token)| source.says(token.line, "unwrap or expect outside tests"))
    .collect()
}

/// `true` at the place of a call says nothing: an enum does.
fn bool_parameters(source: &Source) -> Vec<String> {
    /// Where, and why.
    const EXCEPTIONS: [(&str, &str); 1] = [("visit_bool", "serde's, whose form is given")];
    let mut found = Vec::new();
    for (at, token) in source.code() {
        let is_function = source.stands(at, &["fn"]);
        let Some(name) = source.tokens.get(at + 1).filter(|_| is_function) else {
            continue;
        };
        if EXCEPTIONS.iter().any(|(known, _)| *known == name.text) {
            continue;
        }
        let parameters = at + 2..source.tokens.len();
        let body = parameters.clone().find(|&at| source.stands(at, &["{"]));
        let end = body.unwrap_or(parameters.end);
        let takes = |at| {
            [",", ")"]
                .iter()
                .any(|end| source.stands(at, &[":", "bool", end]))
        };
        if (at + 2..end).any(takes) {
            found.push(source.says(
                token.line,
                format!("{} takes a bool: make it an enum", name.text),
            ));
        }
    }
    found
}

fn ignored(source: &Source) -> Vec<String> {
    let there = (0..source.tokens.len()).filter(|&at| source.stands(at, &["[", "ignore"]));
    there
        .map(|at| source.says(source.tokens[at].line, "an ignored test is no test"))
        .collect()
}

/// A test that waits by the clock is slow or flaky: it waits for what it is about instead.
fn sleeps(source: &Source) -> Vec<String> {
    /// Where, and why.
    const EXCEPTIONS: [(&str, &str); 2] = [
        (
            "tests/it/stage/instance.rs",
            "an instance that takes its time: what it does, and not how a test waits",
        ),
        (
            "tests/simulation/",
            "its clock is simulated, and but for a watchdog nobody waits by another",
        ),
    ];
    let is_there = |place: &str| source.path.starts_with(place);
    if EXCEPTIONS.iter().any(|(place, _)| is_there(place)) {
        return Vec::new();
    }
    let there = (0..source.tokens.len()).filter(|&at| source.stands(at, &["sleep", "("]));
    there
        .map(|at| source.says(source.tokens[at].line, "a test may not sleep"))
        .collect()
}

#[test]
fn nothing_banned_stands_in_the_program() {
    inspect(source::program(), banned_paths);
    inspect(source::program(), banned_macros);
    inspect(source::program(), unwraps);
    inspect(source::program(), bool_parameters);
}

#[test]
fn no_test_is_ignored_and_none_sleeps() {
    inspect(source::files(&["src", "tests", "benches"]), ignored);
    inspect(source::files(&["tests"]), sleeps);
}

#[test]
fn what_is_banned_is_seen() {
    let path = "src/fleet/mod.rs";
    let rule = |snippet, expected| check(banned_paths, path, snippet, expected);
    let spawn = "tokio::spawn may not stand here";
    rule("fn f() { tokio::spawn(g()); }", spawn);
    rule("use tokio::spawn;", spawn);
    rule(
        "use tokio::task; fn f() { task::spawn(g()); }",
        "tokio::task::spawn may not stand here",
    );
    rule(
        "use std::time::Instant; fn f() { Instant::now(); }",
        "std::time::Instant::now may not stand here",
    );
    rule("use tokio::time::Instant; fn f() { Instant::now(); }", "");
    rule(
        "fn f() { std::env::var(1); }",
        "std::env::var may not stand here",
    );
    rule(
        "#[cfg(test)] mod tests { fn f() { tokio::spawn(g()); } }",
        "",
    );
    check(
        banned_paths,
        "src/cli/serve.rs",
        "fn f() { std::env::var(1); }",
        "",
    );

    let rule = |snippet, expected| check(banned_macros, path, snippet, expected);
    rule("fn f() { todo!() }", "todo! may not stand here");
    rule(
        "fn f() { select! { a => println!(1) } }",
        "println! may not stand here",
    );
    rule("fn f() { panic!() }", "panic! may not stand here");
    rule("fn print() { print(\"todo!()\") } // dbg!()", "");

    let rule = |snippet, expected| check(bool_parameters, path, snippet, expected);
    rule(
        "fn f(a: u8, is_b: bool) {}",
        "f takes a bool: make it an enum",
    );
    rule("fn f(is_b: bool,) {}", "f takes a bool: make it an enum");
    rule("fn f(a: &[bool]) -> bool { let b: bool = g(a); b }", "");
    rule("fn visit_bool(value: bool) {}", "");
}

#[test]
fn what_a_program_and_its_tests_may_not_do_is_seen() {
    let path = "src/fleet/mod.rs";
    let rule = |snippet, expected| check(unwraps, path, snippet, expected);
    rule("fn f() { g().unwrap(); }", "unwrap or expect outside tests");
    rule(
        "fn f() { select! { _ = g().expect(1) => {} } }",
        "unwrap or expect outside tests",
    );
    rule(
        "fn f() { g().unwrap_or(1); g().expected(2); } #[test] fn t() {}",
        "",
    );
    rule("#[cfg(test)] mod tests { fn t() { g().unwrap(); } }", "");

    check(
        ignored,
        path,
        "#[test] #[ignore] fn f() {}",
        "an ignored test is no test",
    );
    check(
        ignored,
        path,
        "#[ignore = 1] fn f() {}",
        "an ignored test is no test",
    );
    check(
        sleeps,
        "tests/it/x.rs",
        "fn f() { time::sleep(1) }",
        "a test may not sleep",
    );
    check(
        sleeps,
        "tests/it/stage/instance.rs",
        "fn f() { time::sleep(1) }",
        "",
    );
}
