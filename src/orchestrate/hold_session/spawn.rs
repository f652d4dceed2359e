//! How a session begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::answer::Shown;
use super::entry::Entry;
use super::place::Named;
use super::{House, Sessions, draining, key_used_otherwise, storing};
use crate::domain::failure::{Failure, Reason};
use crate::domain::id::InstanceId;
use crate::domain::selection::Policy;
use crate::domain::session::{Durability, LossPolicy, SessionId, token};
use crate::store::Error;
use crate::store::record::{Created, Hash, NewSession, Session, SpawnKey, State, Terms};

/// What a new session is to be.
#[derive(Debug, Clone)]
pub struct Spawn {
    /// Its name; made when there is none.
    pub id: Option<SessionId>,
    /// The name of the key that asks.
    pub caller: String,
    /// Which instances may hold it; the whole fleet when empty.
    pub targets: Vec<String>,
    /// How one of them is chosen.
    pub selection: Policy,
    /// How long it may be silent.
    pub idle_ttl: Duration,
    /// How long it may last at all.
    pub lifetime: Option<Duration>,
    /// What becomes of it when its instance is lost.
    pub loss_policy: LossPolicy,
    /// What its messages survive.
    pub durability: Durability,
    /// Free words about it.
    pub labels: BTreeMap<String, String>,
    /// The caller's own key for this request, and what the request was.
    pub idempotency: Option<(String, [u8; 32])>,
}

/// A session that has begun.
#[derive(Debug, Clone)]
pub struct Spawned {
    /// The session.
    pub session: Shown,
    /// What it is used with. Kept nowhere.
    pub token: String,
    /// Whether it had been begun before.
    pub deduplicated: Deduplicated,
}

/// Whether something had been done before under the same idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deduplicated {
    /// It had.
    Yes,
    /// It had not.
    No,
}

impl Sessions {
    /// Begins a session at the instance that should have it. Whoever asks may leave meanwhile, and find it by its id or
    /// under its key; one that has neither is ended again.
    pub async fn spawn(&self, asked: Spawn) -> Result<Spawned, Failure> {
        let house = &self.0;
        if house.is_draining() {
            return Err(draining());
        }
        house.check_room()?;
        let fleet = (house.fleet_now)();
        let named = Named::All(&asked.targets);
        let instance = match house.place(&fleet, named, &asked.selection, None) {
            Ok(member) => member.id().clone(),
            // Whoever asks again has a session already, however the fleet is now.
            Err(nobody) => house.begun_before(&asked).await.ok_or(nobody)?,
        };
        let can_be_found = asked.id.is_some() || asked.idempotency.is_some();
        let id = match asked.id {
            Some(id) => id,
            None => made_id(house.chance.draw())?,
        };
        let token = token::of(house.chance.draw());
        let new = NewSession {
            terms: Terms {
                id: id.clone(),
                caller: asked.caller,
                spawn: asked.idempotency.map(|(key, request)| SpawnKey {
                    key,
                    request: Hash(request),
                }),
                targets: asked.targets,
                selection: asked.selection,
                loss_policy: asked.loss_policy,
                durability: asked.durability,
                labels: asked.labels,
                idle_ttl: asked.idle_ttl,
                lifetime: asked.lifetime,
                created_ms: house.now_ms(),
            },
            token: Hash(token::hash(token.as_bytes())),
            instance,
            owner: house.owner.clone(),
        };
        // Whoever asked may leave at any time: what is written down is noted here all the same, or nobody would ever
        // find it, close it or forget it.
        let (told, begun) = oneshot::channel();
        let begins = Arc::clone(house).begin(new);
        let sessions = self.clone();
        house.tasks.spawn(async move {
            let begun = begins.await;
            let (claim, claimed) = oneshot::channel();
            let may_be_lost = begun.is_ok() && !can_be_found;
            // Whoever leaves, now or before this is looked at, claims nothing.
            drop(told.send(begun.map(|begun| (begun, claim))));
            if claimed.await.is_err() && may_be_lost {
                // It would be of no use to anybody. When that fails, its time ends it.
                drop(sessions.close(&id).await);
            }
        });
        let begun = begun.await.unwrap_or_else(|_| Err(draining()));
        let ((session, entry, deduplicated), claim) = begun?;
        // That it is listened to is not asked.
        let _ = claim.send(());
        tracing::info!(session = %session.id(), instance = %session.instance, "session spawned");
        Ok(Spawned {
            session: Shown::of(session, &entry, (house.wall_clock)()),
            token,
            deduplicated,
        })
    }
}

impl House {
    /// The instance of the session that was spawned under the same key before.
    async fn begun_before(&self, asked: &Spawn) -> Option<InstanceId> {
        let (key, _) = asked.idempotency.as_ref()?;
        let id = self.find_by_spawn(&asked.caller, key)?;
        let session = self.store.get(&id).await.ok()?;
        Some(session.instance)
    }

    async fn begin(
        self: Arc<Self>,
        new: NewSession,
    ) -> Result<(Session, Arc<Entry>, Deduplicated), Failure> {
        let (id, hash) = (new.terms.id.clone(), new.token.0);
        let created = self.store.create(new).await;
        match created.map_err(|error| refused(&error, &id))? {
            Created::New(session) => {
                let entry = self.enter(&session);
                entry.epoch_is_fresh.store(true, Ordering::Relaxed);
                self.count(&entry, Some(&session.instance));
                Ok((session, entry, Deduplicated::No))
            }
            Created::Repeated(session) => {
                if let State::Closed { reason, .. } = &session.state {
                    return Err(super::closed(super::ended(reason)));
                }
                let entry = self.enter(&session);
                let mut registry = self.change_registry();
                registry.replace_token(session.id(), hash);
                drop(registry);
                Ok((session, entry, Deduplicated::Yes))
            }
        }
    }
}

fn refused(error: &Error, id: &SessionId) -> Failure {
    if *error == Error::AlreadyExists {
        let detail = format!("session `{id}` is there already");
        Failure::new(Reason::SessionExists, detail)
    } else if *error == Error::Conflict {
        key_used_otherwise()
    } else {
        storing::failure(error)
    }
}

fn made_id(number: u128) -> Result<SessionId, Failure> {
    let id = format!("s-{number:032x}");
    SessionId::parse(&id).map_err(|bad| Failure::new(Reason::Internal, bad.to_string()))
}
