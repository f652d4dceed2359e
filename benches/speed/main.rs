//! What the speed claims rest on: `cargo bench --bench speed`, or parts of it by name, such as
//! `cargo bench --bench speed -- route fanout sessions observed scan`. benches/README.md tells how to read the figures.
//!
//! `NAME=PATH` among the arguments lets an earlier build of this binary take part in Route as another
//! orchestrator: on a noisy machine only figures of one run can be compared.
//!
//! Each part of the play is a process of its own, so that its CPU can be told apart: this binary starts itself
//! again with the name of a role. Not part of CI: figures of a shared machine decide nothing there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench may fail, and prints its figures"
)]

mod call;
mod echo;
mod fan_out;
mod forward;
mod house;
mod load;
mod nginx;
mod observed;
mod process;
mod route;
mod scan;
mod sessions;
mod spans;

/// As src/main.rs has it; every role of this binary has it too, the forwarders included.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(role) = arguments
        .first()
        .and_then(|first| first.strip_prefix("role:"))
    {
        let role = role.to_owned();
        return play(&role, &arguments.split_off(1));
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing measured: run `cargo bench --bench speed`");
        return;
    }
    arguments.retain(|argument| argument != "--bench");
    let (rivals, parts): (Vec<_>, Vec<_>) = arguments
        .iter()
        .partition(|argument| argument.contains('='));
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| *name == part);
    println!("{}\n", process::machine());
    let mut route_us = None;
    if wanted("route") {
        route_us = Some(route::measure(&rivals));
    }
    if wanted("fanout") {
        fan_out::measure();
    }
    if wanted("sessions") {
        sessions::measure();
    }
    if wanted("observed") {
        spans::measure();
        observed::measure();
    }
    if wanted("scan") {
        scan::measure(route_us);
    }
}

fn play(role: &str, arguments: &[String]) {
    process::end_with_parent();
    match role {
        "echo" => echo::run(arguments),
        "orchestrator-with-sessions" => house::run_with_sessions(arguments),
        "orchestrator" => house::run(arguments),
        "orchestrator-one-thread" => house::run_in_one_thread(arguments),
        "orchestrator-observed" => house::run_observed(arguments),
        "collector" => observed::run_collector(arguments),
        "tonic-opaque" => forward::run::<forward::Opaque>(arguments),
        "tonic-typed" => forward::run::<forward::Typed>(arguments),
        _ => panic!("no such role: {role}"),
    }
}
