//! How many sessions there may be, whatever becomes of them.

use super::*;
use crate::store::{Bound, Error};

async fn the_number_of_sessions_is_bounded(store: &dyn Store) {
    let with_key = |name: &str| {
        let mut new = new_session(name);
        new.terms.spawn = Some(SpawnKey {
            key: "k".to_owned(),
            request: hash(1),
        });
        new
    };
    store.create(with_key("a")).await.unwrap();
    make(store, "b").await;
    let full = Err(Error::Full(Bound::Sessions));
    assert_eq!(store.create(new_session("c")).await, full);
    let again = store.create(with_key("made-up")).await;
    assert!(matches!(again, Ok(Created::Repeated(_))), "{again:?}");
    store
        .close(&id("a"), &fence(), "by_client", 1)
        .await
        .unwrap();
    let refused = store.create(new_session("c")).await;
    assert_eq!(refused, full, "one that has ended is still remembered");
    store.forget(&id("a")).await.unwrap();
    make(store, "c").await;
    assert_eq!(store.create(new_session("d")).await, full);
}

#[tokio::test]
async fn the_number_of_sessions_is_bounded_on_every_engine() {
    let sessions_max = 2;
    the_number_of_sessions_is_bounded(&MemoryStore::new(Settings {
        sessions_max,
        ..Settings::default()
    }))
    .await;
    let directory = tempfile::tempdir().unwrap();
    let settings = sqlite::Settings {
        sessions_max,
        ..sqlite::Settings::default()
    };
    let sqlite = SqliteStore::open(directory.path(), settings, &Tasks::new()).unwrap();
    the_number_of_sessions_is_bounded(&sqlite).await;
}
