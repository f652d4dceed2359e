//! How a session begins.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::answer::Shown;
use super::{Sessions, draining, key_used_otherwise, storing};
use crate::domain::failure::{Failure, Reason};
use crate::domain::selection::Policy;
use crate::domain::session::{Durability, LossPolicy, SessionId, token};
use crate::store::Error;
use crate::store::record::{Created, Hash, NewSession, SpawnKey, State, Terms};

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
    /// Begins a session at the instance that should have it.
    pub async fn spawn(&self, asked: Spawn) -> Result<Spawned, Failure> {
        let house = &self.0;
        if house.is_draining() {
            return Err(draining());
        }
        house.check_room()?;
        let fleet = (house.fleet_now)();
        let instance = house.place(&fleet, &asked.targets, &asked.selection, None)?;
        let instance = instance.id().clone();
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
        let hash = new.token.0;
        let created = house.store.create(new).await;
        let created = created.map_err(|error| refused(&error, &id))?;
        let (session, deduplicated) = match created {
            Created::New(session) => {
                let entry = house.enter(&session);
                entry.epoch_is_fresh.store(true, Ordering::Relaxed);
                house.count(&entry, Some(&session.instance));
                (session, Deduplicated::No)
            }
            Created::Repeated(session) => {
                if let State::Closed { reason, .. } = &session.state {
                    return Err(super::closed(super::ended(reason)));
                }
                let mut registry = house.change_registry();
                registry.replace_token(session.id(), hash);
                (session, Deduplicated::Yes)
            }
        };
        let entry = house.find(session.id())?;
        tracing::info!(session = %session.id(), instance = %session.instance, "session spawned");
        Ok(Spawned {
            session: Shown::of(session, &entry, (house.wall_clock)()),
            token,
            deduplicated,
        })
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
