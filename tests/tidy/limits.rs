//! Every bound of `domain::limit` bounds something.

use crate::source::{self, Kind, Source};

const LIMITS: &str = "src/domain/limit.rs";

/// The names of its constants.
fn declared(limits: &Source) -> Vec<&str> {
    let there = (0..limits.tokens.len()).filter(|&at| limits.stands(at, &["pub", "const"]));
    there
        .map(|at| limits.tokens[at + 2].text.as_str())
        .collect()
}

/// Those that no other file of the program uses outside its tests.
fn unused<'a>(limits: &'a Source, program: &[&Source]) -> Vec<&'a str> {
    let others = || program.iter().filter(|file| file.path != LIMITS);
    let is_used = |name: &str| {
        let mut words = others().flat_map(|file| file.code());
        words.any(|(_, token)| token.kind == Kind::Word && token.text == name)
    };
    let declared = declared(limits).into_iter();
    declared.filter(|name| !is_used(name)).collect()
}

#[test]
fn every_limit_is_used() {
    let program = source::program();
    let limits = program.iter().find(|file| file.path == LIMITS).unwrap();
    assert!(50 < declared(limits).len(), "the limits are found");
    let found = unused(limits, &program);
    assert!(found.is_empty(), "limits that limit nothing: {found:?}");
}

#[test]
fn a_limit_that_nothing_uses_is_seen() {
    let limits = Source::new(
        LIMITS,
        "pub const A_MAX: u8 = 1; pub const B_MAX: u8 = A_MAX;",
    );
    let user = "use limit::A_MAX; #[cfg(test)] mod tests { use limit::B_MAX; } // B_MAX";
    let user = Source::new("src/fleet/mod.rs", user);
    assert_eq!(unused(&limits, &[&user]), ["B_MAX"]);
}
