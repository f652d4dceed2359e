//! What every engine must do: one list of tests, carried out on each.

use std::sync::Arc;

use super::memory::{MemoryStore, Settings};
use super::sqlite::{self, SqliteStore};
use super::{Store, record::*};
use crate::domain::id::InstanceId;
use crate::domain::selection::Policy;
use crate::domain::session::{Durability, Epoch, LossPolicy, SessionId};
use crate::tasks::Tasks;

mod bounds;
mod crash;
mod gone;
mod histories;
mod messages;
mod sessions;

/// An engine, and what a crash leaves of it.
pub(in crate::store) trait Engine: Sized {
    /// With nothing in it.
    fn empty(bytes_max: usize) -> Self;

    fn store(&self) -> &dyn Store;

    /// The process is killed, and a new one opens what is left.
    fn crash(self) -> Self;
}

pub(in crate::store) struct Memory(pub(in crate::store) MemoryStore);

impl Engine for Memory {
    fn empty(bytes_max: usize) -> Self {
        Self(MemoryStore::new(Settings {
            bytes_max,
            ..Settings::default()
        }))
    }

    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn crash(self) -> Self {
        Self(self.0.crash())
    }
}

pub(in crate::store) struct Sqlite {
    pub(in crate::store) store: SqliteStore,
    pub(in crate::store) directory: tempfile::TempDir,
    bytes_max: usize,
}

impl Sqlite {
    pub(in crate::store) fn open(directory: tempfile::TempDir, bytes_max: usize) -> Self {
        let settings = sqlite::Settings {
            bytes_max,
            ..sqlite::Settings::default()
        };
        Self {
            store: SqliteStore::open(directory.path(), settings, &Tasks::new()).unwrap(),
            directory,
            bytes_max,
        }
    }
}

impl Engine for Sqlite {
    fn empty(bytes_max: usize) -> Self {
        Self::open(tempfile::tempdir().unwrap(), bytes_max)
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    /// What a killed process leaves is what its files are at that moment.
    fn crash(self) -> Self {
        let left = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.directory.path()).unwrap() {
            let file = file.unwrap();
            // The index of the log is not read after a crash.
            if !file.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
            }
        }
        Self::open(left, self.bytes_max)
    }
}

/// Makes a test of each case for each engine.
macro_rules! on_every_engine {
    ($($case:ident)*) => {
        mod memory {
            use crate::store::conformance::{Engine as _, Memory};
            $(#[tokio::test]
            async fn $case() {
                super::$case(Memory::empty(usize::MAX)).await;
            })*
        }
        mod sqlite {
            use crate::store::conformance::{Engine as _, Sqlite};
            $(#[tokio::test]
            async fn $case() {
                super::$case(Sqlite::empty(usize::MAX)).await;
            })*
        }
    };
}
use on_every_engine;

pub(in crate::store) fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

pub(in crate::store) fn instance(text: &str) -> InstanceId {
    InstanceId::parse(text).unwrap()
}

pub(in crate::store) fn owner() -> Owner {
    Owner::new("run-1")
}

/// What the one who has made a session holds.
pub(in crate::store) fn fence() -> Fence {
    Fence {
        epoch: Epoch::FIRST,
        owner: owner(),
    }
}

pub(in crate::store) fn hash(byte: u8) -> Hash {
    Hash([byte; 32])
}

pub(in crate::store) fn new_session(name: &str) -> NewSession {
    NewSession {
        terms: Terms {
            id: id(name),
            caller: "desk".to_owned(),
            spawn: None,
            targets: vec!["A-H".to_owned()],
            selection: Policy::Hash("customer 7".to_owned()),
            loss_policy: LossPolicy::Reassign,
            durability: Durability::Durable,
            labels: [("team".to_owned(), "blue".to_owned())].into(),
            idle_ttl: std::time::Duration::from_secs(300),
            lifetime: Some(std::time::Duration::from_secs(3600)),
            created_ms: 1_000,
        },
        token: hash(1),
        instance: instance("A"),
        owner: owner(),
    }
}

pub(in crate::store) async fn make(store: &dyn Store, name: &str) -> SessionId {
    store.create(new_session(name)).await.unwrap();
    id(name)
}

pub(in crate::store) fn bytes(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

pub(in crate::store) fn streamed(seq: u64, text: &str) -> NewToInstance {
    NewToInstance {
        origin: Origin::Stream { seq },
        in_reply_to: 0,
        payload: bytes(text),
    }
}

pub(in crate::store) fn posted(key: Option<&str>, text: &str) -> NewToInstance {
    let body = hash(text.len() as u8);
    NewToInstance {
        origin: Origin::Post {
            key: key.map(|key| PostKey {
                key: key.to_owned(),
                body,
            }),
            at_ms: 5_000,
        },
        in_reply_to: 0,
        payload: bytes(text),
    }
}

pub(in crate::store) fn said(instance_seq: u64, in_reply_to: u64, text: &str) -> NewToClient {
    NewToClient {
        instance_seq,
        in_reply_to,
        payload: bytes(text),
    }
}

/// The positions and the words of all messages to the instance after one.
pub(in crate::store) async fn to_instance(
    store: &dyn Store,
    id: &SessionId,
    after: u64,
) -> Vec<String> {
    let slice = store.read_to_instance(id, after, usize::MAX).await.unwrap();
    let messages = slice.messages.into_iter();
    messages
        .map(|m| format!("{} {}", m.position, String::from_utf8_lossy(&m.payload)))
        .collect()
}

/// The numbers and the words of all messages to the client after one.
pub(in crate::store) async fn to_client(
    store: &dyn Store,
    id: &SessionId,
    after: u64,
) -> Vec<String> {
    let slice = store.read_to_client(id, after, usize::MAX).await.unwrap();
    let messages = slice.messages.into_iter();
    messages
        .map(|m| format!("{} {}", m.seq, String::from_utf8_lossy(&m.payload)))
        .collect()
}

/// Engines are used behind a pointer.
#[test]
fn a_store_is_used_without_knowing_which_it_is() {
    let _: Arc<dyn Store> = Arc::new(Memory::empty(0).0);
}
