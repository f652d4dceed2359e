//! FLOORS: a module may use itself and the floors below it. Rooms on the same floor do not see each other.

use crate::source::{self, Source, check, inspect};

/// Bottom first. Within a floor's module everything may use everything.
const FLOORS: [&[&str]; 10] = [
    &["domain"],
    &[
        "tasks",
        "telemetry",
        "chance",
        "payload_json",
        "late_flush",
        "memory",
        "certificates",
    ],
    &["message_json"],
    &["instance", "store"],
    &["fleet"],
    &["orchestrate"],
    &["ingress"],
    &["config"],
    &["app"],
    &["cli"],
];

/// Modules that only some may see, whatever their floor.
const PRIVATE: [(&[&str], &[&[&str]]); 4] = [
    // The contract as generated types stays where messages are read and written.
    (
        &["proto"],
        &[
            &["proto"],
            &["ingress", "grpc"],
            &["ingress", "methods"],
            &["ingress", "rest"],
            &["instance"],
            &["cli"],
        ],
    ),
    // Everybody else knows the trait: `app` alone names this way to an instance.
    (&["instance", "grpc"], &[&["instance", "grpc"], &["app"]]),
    (&["instance", "http"], &[&["instance", "http"], &["app"]]),
    (
        &["instance", "builtin"],
        &[&["instance", "builtin"], &["app"], &["config"]],
    ),
];

/// Who does not see whom, though both stand in one module: the doors use the methods, the methods know no door,
/// and a door knows no other.
const BLIND: [(&[&str], &[&str]); 4] = [
    (&["ingress", "grpc"], &["ingress", "rest"]),
    (&["ingress", "rest"], &["ingress", "grpc"]),
    (&["ingress", "methods"], &["ingress", "grpc"]),
    (&["ingress", "methods"], &["ingress", "rest"]),
];

/// Where the framework of the front door may be named at all, so that it can be replaced.
const SEES_TONIC: [&str; 5] = [
    "src/ingress/",
    "src/cli/",
    "src/instance/builtin/",
    "src/proto.rs",
    // The exporter of spans speaks over a channel of it.
    "src/app/traces.rs",
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn may_see(from: &[String], to: &[String]) -> bool {
    let begins = |path: &[String], start: &[&str]| {
        start.len() <= path.len() && path.iter().zip(start).all(|(a, b)| a == b)
    };
    let is_blind = |(one, other): &(&[&str], &[&str])| begins(from, one) && begins(to, other);
    if BLIND.iter().any(is_blind) {
        return false;
    }
    for (private, visitors) in PRIVATE {
        if begins(to, private) {
            return visitors.iter().any(|visitor| begins(from, visitor));
        }
    }
    match (floor(&from[0]), floor(&to[0])) {
        (Some(own), Some(other)) => other < own || from[0] == to[0],
        // A name at the root that is no module, such as a macro of ours: there are none.
        (Some(_), None) => false,
        // proto is generated and sees nobody.
        (None, _) => from[0] == to[0],
    }
}

fn arrows(source: &Source) -> Vec<String> {
    let from = source.module();
    if from.is_empty() {
        return Vec::new();
    }
    let paths = source.paths();
    let into_crate = paths
        .iter()
        .filter_map(|path| Some((path.line, source.within_crate(path)?)));
    into_crate
        .filter(|(_, to)| !to.is_empty() && !may_see(&from, to))
        .map(|(line, to)| {
            let shown = PRIVATE.iter().find(|(private, _)| {
                private.len() <= to.len() && to.iter().zip(*private).all(|(a, b)| a == b)
            });
            let shown = shown.map_or(to[0].clone(), |(private, _)| private.join("::"));
            source.says(line, format!("may not use `{shown}`"))
        })
        .collect()
}

#[test]
fn arrows_point_down_only() {
    inspect(source::program(), arrows);
}

#[test]
fn an_arrow_that_points_up_or_sideways_is_seen() {
    let rule = |path, snippet, expected| check(arrows, path, snippet, expected);
    let up = "may not use `ingress`";
    rule("src/domain/id.rs", "use crate::ingress::grpc;", up);
    rule("src/domain/id.rs", "fn f() { crate::ingress::g() }", up);
    rule("src/fleet/mod.rs", "use super::ingress::Door;", up);
    rule(
        "src/fleet/view.rs",
        "mod tests { use super::super::super::ingress; }",
        up,
    );
    rule(
        "src/tasks.rs",
        "use crate::{domain::id, ingress::{grpc, layer}};",
        "may not use `ingress`; may not use `ingress`",
    );
    rule(
        "src/ingress/body.rs",
        "fn f() { select! { crate::cli::run() } }",
        "may not use `cli`",
    );
    let sideways = "may not use `payload_json`";
    rule("src/tasks.rs", "use crate::payload_json::read;", sideways);
    rule(
        "src/fleet/mod.rs",
        "use crate::proto::health;",
        "may not use `proto`",
    );
    rule(
        "src/ingress/caller.rs",
        "use crate::proto::health;",
        "may not use `proto`",
    );
    let doors = "may not use `ingress`";
    let ingress = |door: &str, snippet, expected| {
        rule(format!("src/ingress/{door}/x.rs").leak(), snippet, expected);
    };
    ingress("grpc", "use crate::ingress::rest::Endpoints;", doors);
    ingress("rest", "use super::super::grpc::Methods;", doors);
    ingress("methods", "use crate::ingress::rest::Endpoints;", doors);
    ingress("methods", "use crate::ingress::grpc;", doors);
    ingress("rest", "use crate::ingress::methods::House;", "");
    ingress(
        "grpc",
        "use crate::ingress::methods::House; use crate::proto::health;",
        "",
    );
    let concrete = "may not use `instance::grpc`";
    rule(
        "src/fleet/mod.rs",
        "use crate::instance::grpc::GrpcInstance;",
        concrete,
    );
    rule(
        "src/fleet/mod.rs",
        "use crate::instance::{Spec, tls}; use super::domain::id;",
        "",
    );
    rule(
        "src/fleet/view.rs",
        "use super::load::Load; use super::super::tasks;",
        "",
    );
}

#[test]
fn every_module_of_the_program_has_its_floor() {
    let modules = source::program();
    let modules = modules
        .iter()
        .filter_map(|file| file.module().into_iter().next());
    for module in modules {
        assert!(
            module == "proto" || floor(&module).is_some(),
            "`{module}` stands on no floor: add it to FLOORS"
        );
    }
}

fn pure(source: &Source) -> Vec<String> {
    /// IO, async, the clock, logging, wire formats and randomness, none of which decides anything.
    const BANNED: [&str; 23] = [
        "tokio",
        "tokio_stream",
        "tokio_util",
        "futures_util",
        "hyper",
        "hyper_util",
        "h2",
        "http",
        "http_body",
        "tower",
        "tonic",
        "prost",
        "prost_types",
        "serde",
        "serde_json",
        "tracing",
        "tracing_opentelemetry",
        "opentelemetry",
        "rand",
        "std::fs",
        "std::net",
        "std::env",
        "std::io",
    ];
    if source
        .module()
        .first()
        .is_none_or(|first| first != "domain")
    {
        return Vec::new();
    }
    let paths = source.paths();
    let code = paths.iter().filter(|path| !path.is_test);
    let mut found = Vec::new();
    for path in code {
        for whole in source.resolved(&paths, path) {
            let shown = whole.join("::");
            let clock = ["::Instant::now", "::SystemTime::now"]
                .iter()
                .any(|now| shown.ends_with(now));
            let banned = BANNED.iter().any(|banned| {
                shown
                    .strip_prefix(banned)
                    .is_some_and(|rest| rest.is_empty() && path.is_use || rest.starts_with("::"))
            });
            if banned || clock {
                found.push(source.says(path.line, format!("the domain may not use {shown}")));
            }
        }
    }
    found
}

#[test]
fn the_domain_decides_and_does_nothing_else() {
    inspect(source::program(), pure);
}

#[test]
fn a_domain_that_does_something_is_seen() {
    let rule = |snippet, expected| check(pure, "src/domain/id.rs", snippet, expected);
    rule(
        "use tokio::sync::mpsc;",
        "the domain may not use tokio::sync::mpsc",
    );
    rule(
        "use std::{fmt, fs::File};",
        "the domain may not use std::fs::File",
    );
    rule(
        "fn f() { tracing::info!(1) }",
        "the domain may not use tracing::info",
    );
    rule(
        "use std::time::Instant; fn f() { Instant::now(); }",
        "the domain may not use std::time::Instant::now",
    );
    rule(
        "fn f() { std::env::var(1) }",
        "the domain may not use std::env::var",
    );
    rule("use rand;", "the domain may not use rand");
    rule("fn f(random: u8) { rand(random) }", "");
    rule("#[cfg(test)] mod tests { use prost::Message; }", "");
    check(pure, "src/fleet/mod.rs", "use tokio::sync::mpsc;", "");
}

fn framework(source: &Source) -> Vec<String> {
    if SEES_TONIC
        .iter()
        .any(|place| source.path.starts_with(place))
    {
        return Vec::new();
    }
    let paths = source.paths();
    let named = paths.iter().filter(|path| path.segments[0] == "tonic");
    named
        .map(|path| source.says(path.line, "may not name tonic"))
        .collect()
}

#[test]
fn the_core_is_free_of_the_framework() {
    inspect(source::program(), framework);
}

#[test]
fn a_framework_in_the_core_is_seen() {
    let rule = |path, expected| check(framework, path, "use tonic::body::Body;", expected);
    rule("src/orchestrate/attempt.rs", "may not name tonic");
    rule("src/ingress/body.rs", "");
}
