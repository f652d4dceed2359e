//! What of a session is gone, and who is told of what.

use super::*;
use crate::domain::limit::SETTLED_KEPT;
use crate::domain::session::gone::Gone;
use crate::store::Error;

on_every_engine! {
    what_is_gone_is_noted_durably_and_merged
    what_is_gone_is_told_of_messages_of_that_kind_only
}

fn gone(first: u64, last: u64, since: u64) -> Gone {
    Gone { first, last, since }
}

async fn what_is_gone_is_noted_durably_and_merged(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let note = async |store: &dyn Store, position| {
        let noted = store.note_gone(&s, &fence(), position).await;
        noted.map(|(gone, _)| gone)
    };
    let last = 0;
    assert_eq!(
        note(engine.store(), 1).await,
        Err(Error::OverAck { last }),
        "it never was sent"
    );
    let sent = (1..=5).map(|seq| streamed(seq, "m")).collect();
    let store = engine.store();
    store.append_to_instance(&s, &fence(), sent).await.unwrap();
    let answers = vec![said(1, 0, "one"), said(2, 0, "two")];
    store.append_to_client(&s, &fence(), answers).await.unwrap();
    assert_eq!(note(store, 2).await, Ok(gone(1, 2, 2)));
    let engine = engine.crash();
    let store = engine.store();
    assert_eq!(store.get(&s).await.unwrap().gone, gone(1, 2, 2));
    assert_eq!(note(store, 2).await, Ok(gone(1, 2, 2)), "no news");
    assert_eq!(note(store, 3).await, Ok(gone(1, 3, 2)), "told together");
    let more = vec![said(3, 0, "three")];
    store.append_to_client(&s, &fence(), more).await.unwrap();
    let acked = store.acknowledge(&s, &fence(), Direction::ToClient, 3);
    acked.await.unwrap();
    assert_eq!(note(store, 4).await, Ok(gone(4, 4, 3)), "the rest was read");
    let engine = engine.crash();
    let store = engine.store();
    assert_eq!(store.get(&s).await.unwrap().gone, gone(4, 4, 3));
    let stale = Fence {
        epoch: Epoch::new(7),
        owner: owner(),
    };
    // What was posted is noted beside it, by positions.
    let words = vec![posted(None, "by itself")];
    store.append_to_instance(&s, &fence(), words).await.unwrap();
    let noted = store.note_gone(&s, &fence(), 6).await;
    assert_eq!(noted, Ok((gone(4, 5, 3), gone(1, 6, 3))));
    let last = 6;
    let over = store.note_gone(&s, &fence(), 7).await;
    assert_eq!(over, Err(Error::OverAck { last }));
    let engine = engine.crash();
    let store = engine.store();
    assert_eq!(store.get(&s).await.unwrap().gone_posts, gone(1, 6, 3));
    let refused = store.note_gone(&s, &stale, 6).await;
    let current = Epoch::FIRST;
    assert_eq!(refused, Err(Error::StaleEpoch { current }));
}

async fn what_is_gone_is_told_of_messages_of_that_kind_only(engine: impl Engine) {
    let s = make(engine.store(), "s").await;
    let store = engine.store();
    let settled = 2 * SETTLED_KEPT as u64;
    let ask = async |store: &dyn Store, messages: Vec<NewToInstance>| {
        let answers = store.append_to_instance(&s, &fence(), messages).await;
        let Some(Appended::New(last)) = answers.unwrap().pop() else {
            panic!("they are new");
        };
        let acked = store.acknowledge(&s, &fence(), Direction::ToInstance, last);
        acked.await.unwrap();
        store.get(&s).await.unwrap().to_instance.removed
    };
    // Posted to 1 and 3; what comes later is of the stream.
    let first = vec![
        posted(None, "one"),
        streamed(1, "m"),
        posted(Some("k"), "three"),
    ];
    assert_eq!(ask(store, first).await, 0);
    let some = (2..=settled - 1).map(|seq| streamed(seq, "m")).collect();
    let removed = ask(store, some).await;
    assert!(3 < removed, "{removed}");
    let early = store.note_gone(&s, &fence(), 2).await;
    assert_eq!(early, Err(Error::Conflict), "nobody knows that any more");
    make(store, "other").await;
    let engine = engine.crash();
    let store = engine.store();
    let noted = store.note_gone(&s, &fence(), removed).await;
    assert_eq!(noted, Ok((gone(1, removed - 2, 0), gone(1, 3, 0))));
    // It is read.
    let answer = vec![said(1, 0, "one")];
    store.append_to_client(&s, &fence(), answer).await.unwrap();
    let acked = store.acknowledge(&s, &fence(), Direction::ToClient, 1);
    acked.await.unwrap();
    let more = (settled..2 * settled).map(|seq| streamed(seq, "m"));
    let later = ask(store, more.collect()).await;
    assert!(removed < later, "{later}");
    let (streamed_gone, posts_gone) = store.note_gone(&s, &fence(), later).await.unwrap();
    assert_eq!(streamed_gone, gone(removed - 1, later - 2, 1));
    assert_eq!(posts_gone.untold(1), None, "no other post is among them");
    let posts = (0..=settled).map(|_| posted(None, "m")).collect();
    let last = ask(store, posts).await;
    let (streamed_gone, posts_gone) = store.note_gone(&s, &fence(), last).await.unwrap();
    assert_eq!(posts_gone, gone(4, last, 1));
    assert_eq!(streamed_gone, gone(removed - 1, 2 * settled - 1, 1));
}
