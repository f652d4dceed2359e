//! The journal, called in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use orchestrator::domain::id::InstanceId;
use orchestrator::domain::selection::Policy;
use orchestrator::domain::session::{Durability, Epoch, LossPolicy, SessionId};
use orchestrator::store::Store as _;
use orchestrator::store::record::{
    Direction, Fence, Hash, NewSession, NewToInstance, Origin, Owner, Terms,
};
use orchestrator::store::sqlite::{Settings, SqliteStore};
use orchestrator::tasks::Tasks;

use crate::{PAYLOAD_BYTES, Round, WRITERS, load};

/// How many messages the instance acknowledges at once; part of the load, and not of the times.
const ACK_EVERY: u64 = 16;

pub(crate) async fn round(disk: &Path) -> Round {
    let directory = tempfile::tempdir_in(disk).unwrap();
    let store = SqliteStore::open(directory.path(), Settings::default(), &Tasks::new()).unwrap();
    let owner = Owner::new("bench");
    let mut writers = Vec::new();
    for at in 0..WRITERS {
        let id = SessionId::parse(&format!("s{at}")).unwrap();
        store.create(session(&id, &owner)).await.unwrap();
        let fence = Fence {
            epoch: Epoch::FIRST,
            owner: owner.clone(),
        };
        let (store, payload) = (store.clone(), Bytes::from(vec![b'x'; PAYLOAD_BYTES]));
        let mut seq = 0;
        writers.push(move || {
            seq += 1;
            let message = NewToInstance {
                origin: Origin::Stream { seq },
                in_reply_to: 0,
                payload: payload.clone(),
            };
            let append = store.append_to_instance(&id, &fence, vec![message]);
            let before = seq - 1;
            let ack = (before.is_multiple_of(ACK_EVERY))
                .then(|| store.acknowledge(&id, &fence, Direction::ToInstance, before));
            async move {
                match ack {
                    Some(ack) => {
                        let (ack, append) = tokio::join!(ack, append);
                        ack.unwrap();
                        append.unwrap();
                    }
                    None => drop(append.await.unwrap()),
                }
            }
        });
    }
    let round = load(writers).await;
    store.stop().await;
    round
}

fn session(id: &SessionId, owner: &Owner) -> NewSession {
    NewSession {
        terms: Terms {
            id: id.clone(),
            caller: "bench".to_owned(),
            spawn: None,
            targets: Vec::new(),
            selection: Policy::Balanced,
            loss_policy: LossPolicy::Reassign,
            durability: Durability::Durable,
            labels: BTreeMap::new(),
            idle_ttl: Duration::from_secs(300),
            lifetime: None,
            created_ms: 0,
        },
        token: Hash([0; 32]),
        instance: InstanceId::parse("A").unwrap(),
        owner: owner.clone(),
    }
}
