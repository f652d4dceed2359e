//! Starts the task of a session: reads what the store has, and holds the session until it may rest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::House;
use super::closing::Life;
use super::entry::{Entry, Signal};
use super::owner::{Leave, Owner};
use crate::domain::limit::{MEMORY_PUSHBACK, UNACKNOWLEDGED_BYTES_MAX};
use crate::domain::payload::Payload;
use crate::domain::session::to_client::{self, Reply, ToClient};
use crate::domain::session::to_instance::{self, Source, ToInstance};
use crate::memory::Purpose;
use crate::store::Error;
use crate::store::record::{self, ReplyTo, Session, State, Taken};

/// How long a session waits before it reads its log again.
const RELOAD_DELAY: Duration = Duration::from_secs(1);

impl House {
    /// Starts the task of a session, unless it runs.
    pub(super) fn wake(self: &Arc<Self>, entry: &Arc<Entry>) {
        if entry.wake_up() {
            self.start(entry);
        }
    }

    /// Calls the task of a session, which is started for that where there is none.
    pub(super) fn call(self: &Arc<Self>, entry: &Arc<Entry>, signal: Signal) {
        if entry.call(signal) {
            self.start(entry);
        }
    }

    /// Starts the task of a session that has just become live.
    pub(super) fn start(self: &Arc<Self>, entry: &Arc<Entry>) {
        let held = hold(Arc::clone(self), Arc::clone(entry));
        self.tasks.spawn(self.held.track_future(held));
    }
}

pub(super) async fn hold(house: Arc<House>, entry: Arc<Entry>) {
    loop {
        while !house.memory.has_room(Purpose::Answer) && !house.is_draining() {
            tokio::time::sleep(MEMORY_PUSHBACK).await;
        }
        // Boxed: it is done with before the session is held.
        let owner = Box::pin(load(&house, &entry)).await;
        let leave = match owner {
            // Boxed: what a session knows is large, and not every one that is loaded is held.
            Ok(mut owner) => {
                let leave = Box::pin(owner.hold()).await;
                entry.keep_absence(owner.absence);
                owner.waits_no_more();
                leave
            }
            Err(Error::NotFound | Error::StaleEpoch { .. }) => Leave::Lost,
            Err(Error::Stopped) => Leave::Stop,
            Err(error) => {
                tracing::warn!(session = %entry.terms.id, %error, "session cannot be read");
                Leave::Reload
            }
        };
        match leave {
            Leave::Rest => {
                if entry.rest() {
                    return;
                }
            }
            Leave::Reload => {
                if house.is_draining() {
                    return entry.end();
                }
                tokio::time::sleep(RELOAD_DELAY).await;
            }
            Leave::Lost => {
                entry.end();
                house.forget(&entry);
                return;
            }
            Leave::Stop => return entry.end(),
        }
    }
}

/// What the store has of a session.
async fn load(house: &Arc<House>, entry: &Arc<Entry>) -> Result<Box<Owner>, Error> {
    let (id, store) = (&entry.terms.id, &house.store);
    let session = store.get(id).await?;
    // Another orchestrator has taken it over since. One that is closed belongs to whoever reads it.
    if session.state == State::Open && session.owner != house.owner {
        let current = session.epoch;
        return Err(Error::StaleEpoch { current });
    }
    let (outward, replied_to) = read_to_client(house, &session).await?;
    let inward = read_to_instance(house, &session).await?;
    let life = match &session.state {
        State::Open => Life::Open,
        State::Closed { reason, .. } => Life::Over {
            end: super::ended(reason),
            until: None,
        },
    };
    let (house, entry) = (Arc::clone(house), Arc::clone(entry));
    let mut owner = Owner::new(house, entry, session, inward, outward, life);
    owner.replied = replied_to;
    Ok(Box::new(owner))
}

async fn read_to_instance(house: &House, session: &Session) -> Result<ToInstance, Error> {
    let counters = session.to_instance;
    let mut kept = Vec::new();
    let mut after = counters.acked.max(counters.removed);
    while after < counters.last && session.state == State::Open {
        let reading = house
            .store
            .read_to_instance(session.id(), after, UNACKNOWLEDGED_BYTES_MAX);
        let slice = reading.await?;
        let Some(last) = slice.messages.last() else {
            break;
        };
        after = last.position;
        kept.extend(slice.messages.into_iter().map(message_to_instance));
    }
    let counters = to_instance::Counters {
        acked: counters.acked,
        last: counters.last,
        last_seq: counters.sender_seq,
    };
    Ok(ToInstance::recovered(house.settings.bounds, counters, kept))
}

fn message_to_instance(stored: record::ToInstance) -> to_instance::Message {
    let source = match stored.client_seq {
        0 => Source::Posted,
        seq => Source::Streamed { seq },
    };
    to_instance::Message {
        position: stored.position,
        source,
        in_reply_to: stored.in_reply_to,
        payload: Payload::looked_over_before(stored.payload),
    }
}

/// The messages for the client, and the positions that they reply to.
async fn read_to_client(
    house: &House,
    session: &Session,
) -> Result<(ToClient, BTreeSet<u64>), Error> {
    let counters = session.to_client;
    let (mut kept, mut replied_to) = (Vec::new(), BTreeSet::new());
    let asked = session.to_instance;
    let is_to_be_asked = session.state == State::Open && asked.acked < asked.last;
    // What the client has read already may answer what an instance gets once more.
    let mut after = if is_to_be_asked {
        counters.removed
    } else {
        counters.settled
    };
    while after < counters.last {
        let reading = house
            .store
            .read_to_client(session.id(), after, UNACKNOWLEDGED_BYTES_MAX);
        let slice = reading.await?;
        let Some(last) = slice.messages.last() else {
            break;
        };
        after = last.seq;
        for stored in slice.messages {
            let (reply, position) = match stored.reply_to {
                ReplyTo::Nothing => (None, None),
                ReplyTo::Stream { position, seq } => (Some(Reply::Streamed(seq)), Some(position)),
                ReplyTo::Post { position } => (Some(Reply::Posted(position)), Some(position)),
                ReplyTo::Unknown { position } => (None, Some(position)),
            };
            replied_to.extend(position);
            if stored.seq <= counters.settled {
                continue;
            }
            kept.push(to_client::Message {
                seq: stored.seq,
                reply,
                taken: stored.taken == Taken::Yes,
                payload: Payload::looked_over_before(stored.payload),
            });
        }
    }
    let counters = to_client::Counters {
        acked: counters.acked,
        last: counters.last,
    };
    let line = ToClient::recovered(house.settings.bounds, counters, kept);
    Ok((line, replied_to))
}
