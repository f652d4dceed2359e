//! What a fan-out promises, on a fleet of scripted instances and a clock of our own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::domain::failure::Status;
use crate::domain::gather::Rule;
use crate::instance::scripted::Act;
use crate::orchestrate::stage::{Stage, ms, task};

fn completion(rule: Rule) -> Completion {
    Completion {
        rule,
        failures_max: None,
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Failed => "failed",
        Outcome::TimedOut => "timed_out",
        Outcome::Cancelled => "cancelled",
        Outcome::Skipped => "skipped",
    }
}

/// Everything that the caller reads, as text.
async fn read(mut events: Events) -> String {
    let mut read = Vec::new();
    while let Some(event) = events.next().await {
        read.push(match event {
            Ok(Event::Started(roster, _)) => format!("started {}", roster.len()),
            Ok(Event::Partial(leg)) => format!("{} {}", leg.instance, word(leg.outcome)),
            Ok(Event::Summary(summary)) => format!("{:?} {:?}", summary.stop, summary.missing),
            Err(failure) => failure.to_string(),
        });
    }
    read.join(" | ")
}

async fn check(stage: &Stage, completion: Completion, timeout: Duration, expected: &str) {
    let events = fan_out(stage.fan_out(completion, timeout), &Tasks::new()).unwrap();
    assert_eq!(read(events).await, expected);
    tokio::task::yield_now().await;
    assert_eq!(stage.running(), 0, "no leg is left");
}

#[tokio::test]
async fn a_fan_out_that_breaks_off_does_not_end_well() {
    let tasks = Tasks::new();
    let ends = async |verdict: Option<Result<(), Failure>>| {
        let (feed, told, queue) = events::channel();
        if let Some(verdict) = verdict {
            told.set(verdict);
        }
        drop(feed);
        read(Events::new(queue, tasks.spawn_owned(async {}))).await
    };
    assert_eq!(ends(Some(Ok(()))).await, "");
    // Nobody has said how it ended.
    assert_eq!(ends(None).await, "INTERNAL: the fan-out broke off");
}

#[tokio::test(start_paused = true)]
async fn partials_come_in_order_of_arrival_and_all_ends_ok() {
    let mut stage = Stage::new([
        ("A", Act::Echo(ms(30))),
        ("B", Act::Echo(ms(10))),
        ("C", Act::Fail(Status::Internal)),
        ("D", Act::Echo(ms(1))),
    ]);
    stage.set_down("D", "connection refused");
    check(
        &stage,
        Completion::default(),
        ms(1000),
        "started 4 | D failed | C failed | B answered | A answered | AllTerminal [C, D]",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_gives_every_target_an_outcome() {
    let stage = Stage::new([
        ("A", Act::Silent),
        ("B", Act::Echo(ms(10))),
        ("C", Act::Silent),
    ]);
    check(
        &stage,
        Completion::default(),
        ms(1000),
        "started 3 | B answered | A timed_out | C timed_out | Deadline [A, C]",
    )
    .await;
    check(
        &stage,
        completion(Rule::Quorum(2)),
        ms(1000),
        "started 3 | B answered | A timed_out | C timed_out | Deadline [A, C] \
         | COMPLETION_UNMET: 1 of 3 targets answered, 0 failed, 2 timed out",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_lets_time_run_out_is_known_as_slow_whichever_leg_is_seen_first() {
    let ids = ["A", "B", "C", "D", "E", "F", "G", "H"];
    let stage = Stage::new(ids.map(|id| (id, Act::Silent)));
    let events = fan_out(
        stage.fan_out(Completion::default(), ms(1000)),
        &Tasks::new(),
    );
    let told = read(events.unwrap()).await;
    assert_eq!(told.matches(" timed_out").count(), ids.len(), "{told}");
    let slow = stage.latencies().filter(|latency| ms(900) < *latency);
    assert_eq!(slow.count(), ids.len(), "each leg has judged its own try");
}

#[tokio::test(start_paused = true)]
async fn all_legs_share_the_bytes_of_the_task() {
    let stage = Stage::new(["A", "B", "C"].map(|id| (id, Act::Echo(ms(1)))));
    let payload = Payload::check(vec![0x1a, 1, b'x'].into()).unwrap();
    let bytes = payload.encoded().as_ptr();
    let mut call = stage.fan_out(Completion::default(), ms(1000));
    call.task = task(payload);
    let mut events = fan_out(call, &Tasks::new()).unwrap();
    let mut echoed = 0;
    while let Some(event) = events.next().await {
        if let Event::Partial(leg) = event.unwrap() {
            assert_eq!(leg.payload.unwrap().encoded().as_ptr(), bytes);
            echoed += 1;
        }
    }
    assert_eq!(echoed, 3);
}

#[tokio::test(start_paused = true)]
async fn once_enough_have_answered_the_others_are_cancelled() {
    let stage = Stage::new([
        ("A", Act::Silent),
        ("B", Act::Echo(ms(10))),
        ("C", Act::Echo(ms(20))),
    ]);
    let first = completion(Rule::First(1));
    check(
        &stage,
        first,
        ms(1000),
        "started 3 | B answered | A cancelled | C cancelled | Met [A, C]",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_vote_is_given_up_at_once() {
    let stage = Stage::new([
        ("A", Act::Fail(Status::Internal)),
        ("B", Act::Fail(Status::Internal)),
        ("C", Act::Silent),
    ]);
    check(
        &stage,
        completion(Rule::Majority),
        ms(1000),
        "started 3 | A failed | B failed | C skipped | Impossible [A, B, C] \
         | COMPLETION_UNMET: 0 of 3 targets answered, 2 failed, 0 timed out",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn too_many_failures_stop_the_call() {
    let stage = Stage::new([("A", Act::Refuse), ("B", Act::Silent)]);
    let none_may_fail = Completion {
        rule: Rule::All,
        failures_max: Some(0),
    };
    check(
        &stage,
        none_may_fail,
        ms(1000),
        "started 2 | A failed | B cancelled | FailuresMax [A, B] \
         | COMPLETION_UNMET: 0 of 2 targets answered, 1 failed, 0 timed out",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_begun_anywhere_is_not_called_retryable() {
    let of = async |acts: [(&str, Act); 2]| {
        let stage = Stage::new(acts);
        let call = stage.fan_out(completion(Rule::First(2)), ms(1000));
        let events: Vec<_> = fan_out(call, &Tasks::new()).unwrap().collect().await;
        let failure = events.into_iter().find_map(Result::err).unwrap();
        (failure.reason.name(), failure.is_retryable())
    };
    let (refuse, echo) = (|id| (id, Act::Refuse), |id| (id, Act::Echo(ms(1))));
    let unmet = "COMPLETION_UNMET";
    assert_eq!(of([refuse("A"), refuse("B")]).await, (unmet, true));
    assert_eq!(of([echo("A"), refuse("B")]).await, (unmet, false));
    assert_eq!(of([("A", Act::Silent), refuse("B")]).await, (unmet, false));
}

#[tokio::test(start_paused = true)]
async fn targets_beyond_the_first_wave_are_skipped_once_the_call_is_over() {
    let ids: Vec<_> = (0..FANOUT_WAVE + 8).map(|at| format!("w{at:02}")).collect();
    let stage = Stage::new(
        ids.iter()
            .map(|id| (id.as_str(), Act::Echo(Duration::ZERO))),
    );
    let events = fan_out(
        stage.fan_out(completion(Rule::First(1)), ms(1000)),
        &Tasks::new(),
    )
    .unwrap();
    let read = read(events).await;
    let untouched = |id: &&String| stage.instance(id).calls.lock().unwrap().is_empty();
    let untouched = ids.iter().filter(untouched).count();
    assert!(8 <= untouched, "{read}");
    assert_eq!(read.matches("skipped").count(), untouched, "{read}");
    let cancelled = ids.len() - untouched - 1;
    assert_eq!(read.matches("cancelled").count(), cancelled, "{read}");
}

#[tokio::test(start_paused = true)]
async fn the_first_answers_are_read_before_the_next_wave_is_sent() {
    let ids: Vec<_> = (0..8 * FANOUT_WAVE).map(|at| format!("w{at:03}")).collect();
    let stage = Stage::new(
        ids.iter()
            .map(|id| (id.as_str(), Act::Echo(Duration::ZERO))),
    );
    let call = stage.fan_out(completion(Rule::All), ms(1000));
    let mut events = fan_out(call, &Tasks::new()).unwrap();
    while let Some(event) = events.next().await {
        if matches!(event, Ok(Event::Partial(_))) {
            break;
        }
    }
    let asked = |id: &&String| !stage.instance(id).calls.lock().unwrap().is_empty();
    assert_eq!(ids.iter().filter(asked).count(), FANOUT_WAVE_FIRST);
}

/// Every leg with its tries, as text: `A timed_out: first instance_lost, retry deadline_exceeded`.
async fn legs(call: FanOut) -> Vec<String> {
    let events = fan_out(call, &Tasks::new()).unwrap();
    let legs = events.filter_map(|event| async move {
        let Ok(Event::Partial(leg)) = event else {
            return None;
        };
        let tries = leg.attempts.iter().map(|attempt| {
            let failure = attempt.failure.as_ref();
            let said = failure.map_or("ok".to_owned(), |failure| {
                failure.reason.name().to_lowercase()
            });
            format!("{} {said}", attempt.kind.word())
        });
        let tries: Vec<_> = tries.collect();
        Some(format!(
            "{} {}: {}",
            leg.instance,
            word(leg.outcome),
            tries.join(", ")
        ))
    });
    legs.collect().await
}

#[tokio::test(start_paused = true)]
async fn a_leg_that_is_cut_tells_every_try_it_has_made() {
    let stage = Stage::with_scripts([
        ("A", vec![Act::Break, Act::Silent]),
        ("B", vec![Act::Echo(ms(300))]),
        ("C", vec![Act::Break, Act::Break, Act::Break, Act::Silent]),
    ]);
    let idempotent = |completion| {
        let mut call = stage.fan_out(completion, ms(2000));
        call.retry.repeat = retry::Repeat::Idempotent;
        call
    };
    let lost = "instance_lost";
    // The others are cut when B has answered, while C may still wait for its next try.
    let found = legs(idempotent(completion(Rule::First(1)))).await;
    assert_eq!(found[0], "B answered: first ok");
    assert_eq!(
        found[1],
        format!("A cancelled: first {lost}, retry not_needed")
    );
    assert!(
        found[2].starts_with(&format!("C cancelled: first {lost}")),
        "{}",
        found[2]
    );
    let stage = Stage::with_scripts([("A", vec![Act::Break, Act::Silent])]);
    let mut call = stage.fan_out(Completion::default(), ms(1000));
    call.retry.repeat = retry::Repeat::Idempotent;
    let found = legs(call).await;
    let expected = format!("A timed_out: first {lost}, retry deadline_exceeded");
    assert_eq!(found, [expected]);
    let stage = Stage::new([("A", Act::Unconnected)]);
    let found = legs(stage.fan_out(Completion::default(), ms(1000))).await;
    assert_eq!(
        found,
        ["A skipped: first deadline_exceeded"],
        "nothing was sent"
    );
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_is_in_roster_order_and_partials_are_bare() {
    let stage = Stage::new([
        ("A", Act::Echo(ms(30))),
        ("B", Act::Refuse),
        ("C", Act::Echo(ms(10))),
    ]);
    let call = FanOut {
        aggregate: true,
        ..stage.fan_out(Completion::default(), ms(1000))
    };
    let events: Vec<_> = fan_out(call, &Tasks::new())
        .unwrap()
        .map(Result::unwrap)
        .collect()
        .await;
    for event in &events {
        if let Event::Partial(leg) = event {
            assert_eq!(leg.payload, None);
        }
    }
    let Some(Event::Summary(summary)) = events.last() else {
        panic!("{events:?}")
    };
    let found: Vec<_> = summary
        .aggregate
        .iter()
        .map(|leg| {
            (
                leg.instance.as_str(),
                leg.payload.is_some(),
                leg.failure.is_some(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [("A", true, false), ("B", false, true), ("C", true, false)]
    );
}

#[tokio::test(start_paused = true)]
async fn an_aggregate_beyond_its_cap_ends_the_call_by_name() {
    let text = prost_types::Value::from("x".repeat(2_000_000));
    let payload = Payload::check(prost::Message::encode_to_vec(&text).into()).unwrap();
    let stage = Stage::new([
        ("A", Act::Echo(ms(10))),
        ("B", Act::Echo(ms(20))),
        ("C", Act::Silent),
    ]);
    let call = FanOut {
        aggregate: true,
        task: task(payload),
        ..stage.fan_out(Completion::default(), ms(1000))
    };
    let events = fan_out(call, &Tasks::new()).unwrap();
    assert_eq!(
        read(events).await,
        "started 3 | A answered | B answered | C cancelled | TooLarge [C] | AGGREGATE_TOO_LARGE: the collected \
         results are larger than an answer may be: ask fewer targets, or without aggregate"
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_the_stream_resets_every_leg() {
    let stage = Stage::new([("A", Act::Silent), ("B", Act::Silent)]);
    let mut events = fan_out(
        stage.fan_out(Completion::default(), ms(1000)),
        &Tasks::new(),
    )
    .unwrap();
    let _started = events.next().await;
    while stage.running() < 2 {
        tokio::task::yield_now().await;
    }
    drop(events);
    tokio::task::yield_now().await;
    assert_eq!(stage.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn legs_end_at_the_deadline_even_when_nobody_reads() {
    let ids: Vec<_> = (0..200).map(|at| format!("w{at:03}")).collect();
    let act = |at: usize| {
        if at.is_multiple_of(2) {
            Act::Echo(ms(1))
        } else {
            Act::Silent
        }
    };
    let stage = Stage::new(
        ids.iter()
            .enumerate()
            .map(|(at, id)| (id.as_str(), act(at))),
    );
    let events = fan_out(
        stage.fan_out(Completion::default(), ms(1000)),
        &Tasks::new(),
    )
    .unwrap();
    time::sleep(ms(999)).await;
    assert_eq!(stage.running(), 0, "every leg was reset");
    let mut outcomes = BTreeMap::new();
    let read = read(events).await;
    for event in read.split(" | ").filter(|event| event.starts_with('w')) {
        *outcomes
            .entry(event.split(' ').next().unwrap().to_owned())
            .or_insert(0) += 1;
    }
    assert_eq!(
        read.matches(" answered").count(),
        100,
        "what had arrived in time counts: {read}"
    );
    assert_eq!(outcomes.len(), 200, "{read}");
    assert!(outcomes.values().all(|count| *count == 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_does_not_make_instances_look_slow() {
    let ids: Vec<_> = (0..200).map(|at| format!("w{at:03}")).collect();
    let stage = Stage::new(ids.iter().map(|id| (id.as_str(), Act::Echo(ms(1)))));
    let call = stage.fan_out(Completion::default(), ms(5000));
    let mut events = fan_out(call, &Tasks::new()).unwrap();
    let mut answered = 0;
    while let Some(event) = events.next().await {
        time::sleep(ms(10)).await;
        let event = event.unwrap();
        answered +=
            usize::from(matches!(event, Event::Partial(leg) if leg.outcome == Outcome::Answered));
    }
    assert_eq!(answered, 200);
    // It fades with time.
    assert!((ms(0)..=ms(1)).contains(&stage.latency_max()));
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_is_stuck_is_cut() {
    let ids: Vec<_> = (0..200).map(|at| format!("w{at:03}")).collect();
    let stage = Stage::new(ids.iter().map(|id| (id.as_str(), Act::Echo(ms(1)))));
    let mut events = fan_out(
        stage.fan_out(Completion::default(), ms(1000)),
        &Tasks::new(),
    )
    .unwrap();
    time::sleep(Duration::from_secs(60)).await;
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    let failure = last.unwrap().unwrap_err();
    assert_eq!(failure.reason, Reason::SlowConsumer);
    assert!(!failure.is_retryable(), "the instances have answered");
}
