//! A crash at any instant: what was answered is there. Shown on the engine in memory, whose power can be cut; the
//! real one is killed in `tests/it`. An engine that answers too early must be found out here.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::store::memory::{Fault, MemoryStore, Promise};
use crate::store::{Error, Readiness};

fn slow(promise: Promise) -> MemoryStore {
    MemoryStore::new(Settings {
        sync_takes: Duration::from_millis(10),
        promise,
        ..Settings::default()
    })
}

/// Several writers append while time passes; then the power is cut. What is missing of what was answered.
async fn cut(promise: Promise, gaps_ms: &[u64], cut_at_ms: u64) -> Vec<String> {
    let store = slow(promise);
    for name in ["a", "b", "c"] {
        make(&store, name).await;
    }
    let (told, mut answered) = tokio::sync::mpsc::channel(1000);
    let tasks = Tasks::new();
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        let (store, told) = (store.clone(), told.clone());
        let gaps: Vec<_> = gaps_ms.iter().copied().skip(at).collect();
        tasks.spawn(async move {
            for (seq, gap) in (1_u64..).zip(gaps) {
                let words = vec![streamed(seq, &seq.to_string())];
                match store.append_to_instance(&id(name), &fence(), words).await {
                    Ok(_) => told.send((name, seq)).await.unwrap(),
                    Err(_) => return,
                }
                tokio::time::sleep(Duration::from_millis(gap)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(cut_at_ms)).await;
    let left = store.crash();
    drop(told);
    let mut newest = BTreeMap::new();
    while let Some((name, seq)) = answered.recv().await {
        newest.insert(name, seq);
    }
    let mut missing = Vec::new();
    for (name, seq) in newest {
        let there = to_instance(&left, &id(name), 0).await;
        let expected: Vec<_> = (1..=there.len()).map(|n| format!("{n} {n}")).collect();
        assert_eq!(there, expected, "no hole and no changed word");
        if (there.len() as u64) < seq {
            missing.push(format!(
                "{name}: {seq} was answered, {} are there",
                there.len()
            ));
        }
    }
    missing
}

fn run(promise: Promise, gaps_ms: &[u64], cut_at_ms: u64) -> Vec<String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(cut(promise, gaps_ms, cut_at_ms))
}

proptest! {
    #[test]
    fn nothing_that_was_answered_is_lost_whenever_the_power_is_cut(
        gaps_ms in prop::collection::vec(0_u64..7, 1..30),
        cut_at_ms in 0_u64..200,
    ) {
        prop_assert_eq!(run(Promise::Kept, &gaps_ms, cut_at_ms), Vec::<String>::new());
    }

    #[test]
    fn an_engine_that_answers_before_it_has_synced_is_found_out(
        gaps_ms in prop::collection::vec(1_u64..7, 3..30),
    ) {
        // Once all have written and nothing more comes, the last answer is the lie. Gaps begin at 1: with a first
        // gap of 0 another writer's commit carries out the last word, and its own writer's commit syncs it before
        // it is answered, so that nothing was a lie.
        let missing = run(Promise::AckBeforeSync, &gaps_ms, 100_000);
        prop_assert!(!missing.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_relaxed_is_seen_at_once_and_durable_with_the_next_durable_call() {
    let store = slow(Promise::Kept);
    let s = make(&store, "s").await;
    let words = vec![streamed(1, "a"), streamed(2, "b")];
    store.append_to_instance(&s, &fence(), words).await.unwrap();
    let ack = |through| store.acknowledge(&s, &fence(), Direction::ToInstance, through);
    ack(1).await.unwrap();
    make(&store, "other").await;
    ack(2).await.unwrap();
    assert_eq!(store.get(&s).await.unwrap().to_instance.acked, 2);
    let left = store.crash();
    assert_eq!(left.get(&s).await.unwrap().to_instance.acked, 1);
    let gone = store.get(&s).await;
    assert!(matches!(gone, Err(Error::Failed(_))), "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_seen_before_it_is_durable() {
    let store = slow(Promise::Kept);
    let s = make(&store, "s").await;
    let append = store.append_to_instance(&s, &fence(), vec![streamed(1, "a")]);
    let mut append = std::pin::pin!(append);
    let half = tokio::time::timeout(Duration::from_millis(5), append.as_mut()).await;
    assert!(half.is_err());
    assert_eq!(to_instance(&store, &s, 0).await, Vec::<String>::new());
    assert_eq!(store.get(&s).await.unwrap().to_instance.last, 0);
    append.await.unwrap();
    assert_eq!(to_instance(&store, &s, 0).await, ["1 a"]);
}

#[tokio::test]
async fn a_full_disk_refuses_and_goes_on_by_itself() {
    let Memory(store) = Memory::empty(usize::MAX);
    let s = make(&store, "s").await;
    let say = |seq| store.append_to_instance(&s, &fence(), vec![streamed(seq, "a")]);
    say(1).await.unwrap();
    store.set_fault(Fault::NoSpace);
    assert_eq!(say(2).await, Err(Error::NoSpace));
    assert_eq!(*store.readiness().borrow(), Readiness::NoSpace);
    assert_eq!(to_instance(&store, &s, 0).await, ["1 a"]);
    store.set_fault(Fault::None);
    assert_eq!(say(2).await, Ok(vec![Appended::New(2)]));
    assert_eq!(*store.readiness().borrow(), Readiness::Ready);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_taken_until_the_disk_is_well() {
    let Memory(store) = Memory::empty(usize::MAX);
    let s = make(&store, "s").await;
    let say = |seq| store.append_to_instance(&s, &fence(), vec![streamed(seq, "a")]);
    store.set_fault(Fault::SyncFails);
    assert!(matches!(say(1).await, Err(Error::Failed(_))));
    assert_eq!(*store.readiness().borrow(), Readiness::Failed);
    assert!(matches!(say(1).await, Err(Error::Failed(_))));
    store.set_fault(Fault::None);
    assert_eq!(say(1).await, Ok(vec![Appended::New(1)]));
}
