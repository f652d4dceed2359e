//! What callers see when real processes die, stall, lose their network or their clock, under load.
//!
//! Each test accounts for every call: none lost, none late, none executed twice that may not be. An instance is this
//! binary, started again (`instance`). What needs root or packages of the system runs where FAULTS_OF_THE_MACHINE is set,
//! as `.ci/run` sets it, and fails there when it cannot run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may fail, and tells what it counted"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test's own tasks and threads end with the test"
)]

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

mod clock;
mod cut;
mod instance;
mod kill;
mod load;
mod network;
mod processes;
/// Shared with the simulation.
#[allow(dead_code, reason = "the simulation sees more of a session")]
#[path = "../sessions/mod.rs"]
mod sessions;
mod storm;
mod talk;
mod talk_disk;
mod talk_idle;
mod talk_kill;
mod talk_network;

macro_rules! trials {
    ($($file:ident :: $test:ident),+ $(,)?) => {
        vec![$(trial(stringify!($test), $file::$test)),+]
    };
}

fn main() {
    if let Ok(listen) = std::env::var(instance::LISTEN) {
        return instance::serve(&listen);
    }
    // They load the same two cores: one after the other.
    let arguments = Arguments {
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let mut trials = trials![
        kill::a_killed_instance_costs_no_call_that_may_be_repeated,
        kill::a_killed_instance_makes_nobody_execute_a_task_twice,
        kill::a_stopped_instance_costs_no_call_that_may_be_repeated,
        cut::an_answer_cut_at_any_byte_is_one_outcome_and_never_a_second_execution,
        storm::a_storm_of_failures_is_not_made_worse_and_is_over_with_its_cause,
        talk_kill::an_orchestrator_that_is_killed_again_and_again_loses_nothing_that_it_has_acknowledged,
        talk_kill::a_killed_instance_costs_no_message_where_another_goes_on,
    ];
    if std::env::var_os("FAULTS_OF_THE_MACHINE").is_some() {
        trials.extend(trials![
            network::an_instance_behind_a_black_hole_costs_no_call_that_may_be_repeated,
            network::a_connection_reset_by_the_network_makes_nobody_execute_a_task_twice,
            clock::a_jump_of_the_wall_clock_changes_no_deadline_and_no_lease,
            talk_network::a_session_outlives_a_cut_between_the_orchestrator_and_its_instance,
            talk_network::a_session_whose_connection_is_a_black_hole_goes_on_although_its_instance_is_well,
            talk_network::a_session_outlives_a_cut_between_its_client_and_the_orchestrator,
            talk_disk::a_full_disk_refuses_clearly_keeps_what_was_acknowledged_and_goes_on_by_itself,
            talk_disk::a_small_disk_that_the_log_could_fill_goes_on_by_itself,
            talk_disk::a_sync_that_fails_acknowledges_nothing_and_the_session_goes_on,
            talk_disk::a_kill_at_any_write_or_sync_of_the_journal_loses_nothing_that_was_acknowledged,
        ]);
        trials.extend(beside_the_others(
            &arguments,
            "an_idle_session_behind_a_black_hole_is_opened_again_before_anybody_asks",
            talk_idle::an_idle_session_behind_a_black_hole_is_opened_again_before_anybody_asks,
        ));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test that begins now, if it is asked for, and whose end is waited for after all others: it does little but wait.
fn beside_the_others<F>(arguments: &Arguments, name: &str, test: fn() -> F) -> Option<Trial>
where
    F: Future<Output = ()> + 'static,
{
    let is_asked_for = arguments
        .filter
        .as_ref()
        .is_none_or(|filter| name.contains(filter.as_str()));
    if !is_asked_for || arguments.list {
        return None;
    }
    let running = std::thread::spawn(move || Runtime::new().unwrap().block_on(test()));
    Some(Trial::test(name, move || {
        running.join().unwrap();
        Ok(())
    }))
}

fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        Runtime::new().unwrap().block_on(test());
        Ok(())
    })
}
