//! The task that holds one session: it waits for whatever happens next, and lets the lines of the domain decide
//! what follows. It is the only one that writes to the session's log, hands it to instances, and speaks to its
//! client, so that none of that needs a lock.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::client_side::{Client, FromClient};
use super::closing::Life;
use super::entry::{Command, Entry, Signal};
use super::instance_side::{FromLink, Link};
use super::posts::{KnownPost, Waiting};
use super::storing::{Stored, Storing};
use super::weight::Weight;
use super::{House, frame};
use crate::domain::limit::SESSION_SILENCE_MAX;
use crate::domain::session::lifetime::{Lifetime, Presence};
use crate::domain::session::loss::{Absence, Fruitless};
use crate::domain::session::to_client::ToClient;
use crate::domain::session::to_instance::ToInstance;
use crate::store::record::{Fence, Session};

/// What the task of one session knows.
pub(super) struct Owner {
    pub(super) house: Arc<House>,
    pub(super) entry: Arc<Entry>,
    /// As it was last read or taken over: the instance, the epoch, the terms. Its counters are not looked at.
    pub(super) session: Session,
    pub(super) to_instance: ToInstance,
    pub(super) to_client: ToClient,
    pub(super) life: Life,
    pub(super) link: Link,
    /// Since when no instance holds the session, if one should.
    pub(super) absence: Option<Absence>,
    /// How often the instance has just lost the session before anything came of it.
    pub(super) fruitless: Fruitless,
    /// The name of the failure by which it was lost last.
    pub(super) lost_by: Option<&'static str>,
    /// When an instance is looked for again.
    pub(super) look_at: Option<Instant>,
    pub(super) client: Option<Client>,
    pub(super) storing: Storing,
    pub(super) waiting: Vec<Waiting>,
    pub(super) known_posts: VecDeque<KnownPost>,
    /// Through which position an instance, and through which seq a client, may have been sent messages before.
    pub(super) sent_before: Before,
    /// Positions above the acknowledged ones whose replies are stored.
    pub(super) replied: std::collections::BTreeSet<u64>,
    /// The messages of the instance that are not stored yet and answer something: seq and position.
    pub(super) answers: VecDeque<(u64, u64)>,
    /// The last message to the client of earlier epochs: an instance's numbers are stored from 1 in each.
    pub(super) base: u64,
    /// The last message to the instance that is not in the log any more.
    pub(super) journal_removed: u64,
    /// Through here it is written down what is gone, for every instance that begins anew.
    pub(super) gone_noted: u64,
    pub(super) ends: Option<Leave>,
    /// The client wants the session to end, by then at the latest.
    pub(super) closing: Option<Instant>,
    /// Until when the session may stand still.
    pub(super) stalled_until: Option<Instant>,
    /// The session is to leave its instance for another one.
    pub(super) moves: bool,
    /// The messages that are held in memory.
    pub(super) weight: Weight,
    lifetime: Lifetime,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How far messages may have been sent before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    pub(super) to_instance: u64,
    pub(super) to_client: u64,
}

/// Why the task leaves the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Nothing is to be done; it comes back with the next command.
    Rest,
    /// What it knows may not be what is stored: it reads that again.
    Reload,
    /// It is not ours any more.
    Lost,
    /// The orchestrator is about to stop.
    Stop,
}

/// What happens next.
enum Event {
    Command(Command),
    Signal(Signal),
    Stored(Stored),
    Link(FromLink),
    Client(FromClient),
    Tick,
}

impl Owner {
    pub(super) fn new(
        house: Arc<House>,
        entry: Arc<Entry>,
        session: Session,
        to_instance: ToInstance,
        to_client: ToClient,
        life: Life,
    ) -> Self {
        let lifetime = entry.lifetime;
        let missed_since = house.places.missed_since(&session.instance);
        let missed_since = missed_since.map(Instant::into_std);
        let absence = entry
            .take_absence()
            .and_then(|absence| absence.after_rest(Instant::now().into_std(), missed_since));
        Self {
            sent_before: Before {
                to_instance: to_instance.stored(),
                to_client: to_client.stored(),
            },
            storing: Storing::new(&to_instance, &to_client),
            answers: VecDeque::new(),
            base: to_client.stored(),
            journal_removed: session.to_instance.removed,
            replied: std::collections::BTreeSet::new(),
            entry,
            session,
            to_instance,
            to_client,
            life,
            link: Link::Resting,
            absence,
            fruitless: Fruitless::default(),
            lost_by: None,
            look_at: None,
            client: None,
            waiting: Vec::new(),
            known_posts: VecDeque::new(),
            gone_noted: 0,
            ends: None,
            closing: None,
            stalled_until: None,
            moves: false,
            weight: Weight::new(&house.memory),
            lifetime,
            timer: None,
            house,
        }
    }

    /// Holds the session until there is a reason to leave it.
    pub(super) async fn hold(&mut self) -> Leave {
        loop {
            self.go_on();
            if let Some(leave) = self.ends.take() {
                return leave;
            }
            if self.has_nothing_to_do() {
                return Leave::Rest;
            }
            let event = poll_fn(|context| self.poll(context)).await;
            self.handle(event);
        }
    }

    /// Whatever can be done without waiting.
    fn go_on(&mut self) {
        self.take_from_instance();
        self.take_from_client();
        self.store_what_came();
        self.move_away();
        self.seek_instance();
        self.speak_to_client();
        self.end_for_client();
        self.go_on_closing();
        self.break_stall();
        self.weigh();
    }

    fn has_nothing_to_do(&self) -> bool {
        let nobody = self.client.is_none() && self.waiting.is_empty() && self.storing.is_idle();
        let nothing = match self.life {
            Life::Open => self.to_instance.unacknowledged() == 0,
            Life::Ending { .. } => false,
            Life::Over { .. } => true,
        };
        let is_parked = self.storing.parked_until().is_some();
        let nothing = nothing && self.closing.is_none() && !self.moves && !is_parked;
        nobody && nothing && self.link.is_resting() && !self.entry.is_called()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        self.entry.register(context.waker());
        if let Some(signal) = self.entry.take_signal() {
            return Poll::Ready(Event::Signal(signal));
        }
        if let Some(command) = self.entry.take() {
            return Poll::Ready(Event::Command(command));
        }
        if let Poll::Ready(stored) = self.storing.poll(context) {
            return Poll::Ready(Event::Stored(stored));
        }
        if let Poll::Ready(from_link) = self.poll_link(context) {
            return Poll::Ready(Event::Link(from_link));
        }
        if let Poll::Ready(from_client) = self.poll_client(context) {
            return Poll::Ready(Event::Client(from_client));
        }
        match self.next_tick() {
            None => Poll::Pending,
            Some(at) => {
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
                if timer.deadline() != at {
                    timer.as_mut().reset(at);
                }
                timer.as_mut().poll(context).map(|()| Event::Tick)
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Command(command) => self.obey(command),
            Event::Signal(Signal::Look) => self.look_again(),
            Event::Signal(Signal::Expire) => self.expire(),
            Event::Signal(Signal::Drain) => self.go_away(),
            Event::Signal(Signal::Move) => self.moves = true,
            Event::Stored(stored) => self.on_stored(stored),
            Event::Link(from_link) => self.on_link(from_link),
            Event::Client(from_client) => self.on_client(from_client),
            Event::Tick => self.repeat_acks(),
        }
    }

    fn obey(&mut self, command: Command) {
        if command.is_given_up() {
            return;
        }
        match command {
            Command::Attach {
                last_received_seq,
                incoming,
                reply,
            } => {
                let attached = self.attach(last_received_seq, incoming);
                // Whoever asked may have left.
                if let Err(Ok(_gone)) = reply.send(attached) {
                    self.detach();
                }
            }
            Command::Post {
                key,
                in_reply_to,
                payload,
                stored,
                replied,
            } => self.post(key, in_reply_to, payload, stored, replied),
            Command::Acknowledge { seq, done } => self.acknowledge(seq, done),
            Command::Await { position, replied } => self.await_reply(position, replied),
            Command::Close { closed } => self.close_for(closed),
        }
        self.touch();
    }

    /// Something was said.
    pub(super) fn touch(&self) {
        // Also once it is over: it is forgotten when nobody is attached any more.
        self.entry
            .attached
            .store(self.client.is_some(), Ordering::Relaxed);
        if let Life::Over { .. } = self.life {
            return;
        }
        let presence = if self.client.is_some() {
            Presence::Attached
        } else {
            Presence::Away
        };
        let now = Instant::now().into_std();
        let expires = self.lifetime.expires(now, presence);
        self.entry.set_expires(expires.map(Instant::from_std));
    }

    fn expire(&mut self) {
        let is_over = self
            .entry
            .expires()
            .is_some_and(|expires| expires <= Instant::now());
        if is_over {
            self.end(crate::domain::session::CloseReason::Expired);
        }
    }

    /// When something has to be done although nothing happens.
    fn next_tick(&self) -> Option<Instant> {
        let client = self.client.as_ref().map(|client| client.said_at);
        let said = [client, self.link.said_at()];
        let silence = said
            .into_iter()
            .flatten()
            .map(|at| at + SESSION_SILENCE_MAX);
        let waits = [
            self.look_at,
            self.life.waits_until(),
            self.link.waits_until(),
            self.closing,
            self.stalled_until,
            self.weight.look_at(),
            self.storing.parked_until(),
        ];
        silence.chain(waits.into_iter().flatten()).min()
    }

    pub(super) fn fence(&self) -> Fence {
        Fence {
            epoch: self.session.epoch,
            // Ours; one that is closed stays that of whoever has closed it, and is served by whoever reads it.
            owner: self.session.owner.clone(),
        }
    }

    /// What the session was spawned with says that it ends then.
    pub(super) fn lifetime_ends(&self) -> Option<std::time::SystemTime> {
        let terms = &self.entry.terms;
        let spawned = std::time::UNIX_EPOCH + Duration::from_millis(terms.created_ms);
        terms.lifetime.map(|lifetime| spawned + lifetime)
    }

    /// A frame for the client, if one is attached.
    pub(super) fn tell(&mut self, told: frame::ServerFrame) {
        if let Some(client) = &mut self.client {
            client.outbox.push(told);
            client.said_at = Instant::now();
        }
    }
}
