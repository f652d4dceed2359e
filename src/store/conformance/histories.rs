//! Random histories: two engines give the same answers, and both keep the promises that can be checked from outside
//! with nothing but a list of what was taken.

use proptest::prelude::*;

use super::*;
use crate::store::Error;

#[derive(Debug, Clone)]
enum Step {
    On(usize, Act),
    ForgetOld { before_ms: u64 },
    Recover,
    Crash,
}

/// What is done with one session.
#[derive(Debug, Clone)]
enum Act {
    Ask(Burst),
    Post { key: u8, body: u8 },
    Say(Burst, u64),
    Ack { direction: Direction, through: u64 },
    Take { seq: u64 },
    NoteGone { position: u64 },
    TakeOver,
    Stale,
    Close,
}

/// Messages that begin so many before the number that should come.
#[derive(Debug, Clone)]
struct Burst {
    back: u64,
    words: Vec<u8>,
}

impl Burst {
    fn after(&self, newest: u64) -> impl Iterator<Item = (u64, String)> {
        let first = (newest + 1).saturating_sub(self.back);
        (first..).zip(self.words.iter().map(u8::to_string))
    }
}

const SESSIONS: [&str; 3] = ["a", "b", "none"];

fn act() -> impl Strategy<Value = Act> {
    let words = prop::collection::vec(0_u8..3, 0..4);
    let burst = (0_u64..3, words).prop_map(|(back, words)| Burst { back, words });
    let direction = prop_oneof![Just(Direction::ToInstance), Just(Direction::ToClient)];
    prop_oneof![
        8 => burst.clone().prop_map(Act::Ask),
        4 => (0_u8..4, 0_u8..2).prop_map(|(key, body)| Act::Post { key, body }),
        8 => (burst, 0_u64..9).prop_map(|(burst, reply_to)| Act::Say(burst, reply_to)),
        6 => (direction, 0_u64..60)
            .prop_map(|(direction, through)| Act::Ack { direction, through }),
        3 => (0_u64..60).prop_map(|seq| Act::Take { seq }),
        2 => (0_u64..60).prop_map(|position| Act::NoteGone { position }),
        1 => Just(Act::TakeOver),
        1 => Just(Act::Stale),
        1 => Just(Act::Close),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (0..SESSIONS.len(), act()).prop_map(|(session, act)| Step::On(session, act)),
        1 => (4_990_u64..5_010).prop_map(|before_ms| Step::ForgetOld { before_ms }),
        1 => Just(Step::Recover),
        1 => Just(Step::Crash),
    ]
}

/// What came of a step, in words.
async fn carry_out(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::On(session, act) => carry_out_on(store, &id(SESSIONS[*session]), act).await,
        Step::ForgetOld { before_ms } => {
            let old = Old {
                closed_before_ms: 0,
                posted_before_ms: *before_ms,
            };
            format!("{:?}", store.forget_old(old).await)
        }
        Step::Recover => format!("{:?}", store.recover(&Owner::new("again")).await),
        Step::Crash => String::new(),
    }
}

async fn carry_out_on(store: &dyn Store, s: &SessionId, act: &Act) -> String {
    let now = store.get(s).await.unwrap();
    let fence = Fence {
        epoch: now.epoch,
        owner: now.owner.clone(),
    };
    match act {
        Act::Ask(burst) => {
            let words = burst.after(now.to_instance.sender_seq);
            let words = words.map(|(seq, word)| streamed(seq, &word)).collect();
            format!("{:?}", store.append_to_instance(s, &fence, words).await)
        }
        Act::Post { key, body } => {
            let key = (*key != 0).then(|| key.to_string());
            let words = vec![posted(key.as_deref(), &"p".repeat(usize::from(*body)))];
            format!("{:?}", store.append_to_instance(s, &fence, words).await)
        }
        Act::Say(burst, reply_to) => {
            let words = burst.after(now.to_client.sender_seq);
            let words = words.map(|(seq, word)| said(seq, *reply_to, &word));
            let append = store.append_to_client(s, &fence, words.collect());
            format!("{:?}", append.await)
        }
        Act::Ack { direction, through } => {
            let ack = store.acknowledge(s, &fence, *direction, *through);
            format!("{:?}", ack.await)
        }
        Act::Take { seq } => format!("{:?}", store.take(s, &fence, *seq).await),
        Act::NoteGone { position } => {
            format!("{:?}", store.note_gone(s, &fence, *position).await)
        }
        Act::TakeOver => {
            let taken = store.take_over(s, now.epoch, &now.owner, &instance("B"));
            format!("{:?}", taken.await)
        }
        Act::Stale => {
            let epoch = Epoch::new(now.epoch.number() - 1);
            let stale = Fence { epoch, ..fence };
            let words = vec![streamed(1, "x")];
            let answer = store.append_to_instance(s, &stale, words).await;
            let current = now.epoch;
            assert_eq!(answer, Err(Error::StaleEpoch { current }));
            format!("{answer:?}")
        }
        Act::Close => format!("{:?}", store.close(s, &fence, "by_client", 9).await),
    }
}

/// Everything that can be seen of a store, in words.
async fn look(store: &dyn Store) -> Vec<String> {
    let mut seen = Vec::new();
    for name in SESSIONS {
        let s = id(name);
        seen.push(format!("{:?}", store.get(&s).await));
        seen.push(format!(
            "{:?}",
            store.read_to_instance(&s, 0, usize::MAX).await
        ));
        seen.push(format!(
            "{:?}",
            store.read_to_client(&s, 3, usize::MAX).await
        ));
        for key in 1..4_u8 {
            seen.push(format!("{:?}", store.find_post(&s, &key.to_string()).await));
        }
    }
    seen
}

/// What was taken of one log, by number, and how far acknowledgements had come.
#[derive(Default, Clone)]
struct Witness {
    messages: Vec<bytes::Bytes>,
    before: Counters,
    /// The client's own number of each message, 0 for a post.
    seqs: Vec<u64>,
    /// What was noted to be gone: the last message of the stream, and the last post.
    gone: (u64, u64),
}

impl Witness {
    /// Compares with what is in the store: no hole, no changed word, nothing that goes back.
    fn check(&mut self, counters: Counters, there: Vec<(u64, bytes::Bytes)>) {
        let is_forward = self.before.last <= counters.last
            && self.before.acked <= counters.acked
            && self.before.settled <= counters.settled
            && self.before.removed <= counters.removed;
        assert!(is_forward, "{:?} to {counters:?}", self.before);
        assert!(counters.removed <= counters.settled && counters.settled <= counters.last);
        assert!(counters.acked <= counters.last);
        let numbers: Vec<_> = there.iter().map(|(number, _)| *number).collect();
        let expected: Vec<_> = (counters.removed + 1..=counters.last).collect();
        assert_eq!(numbers, expected);
        for (number, payload) in there {
            let at = usize::try_from(number - 1).unwrap();
            match self.messages.get(at) {
                Some(known) => assert_eq!(*known, payload, "message {number} has changed"),
                None => self.messages.push(payload),
            }
        }
        assert_eq!(self.messages.len() as u64, counters.last);
        self.before = counters;
    }
}

impl Witness {
    /// It was noted that messages through this position are gone.
    fn note_gone(&mut self, position: u64) {
        for (seq, at) in self.seqs.iter().zip(1..=position) {
            if *seq == 0 {
                self.gone.1 = self.gone.1.max(at);
            } else {
                self.gone.0 = self.gone.0.max(*seq);
            }
        }
    }
}

async fn check_promises(store: &dyn Store, witnesses: &mut [(Witness, Witness)]) {
    for (name, (asked, told)) in SESSIONS.iter().zip(witnesses) {
        let s = id(name);
        let session = store.get(&s).await.unwrap();
        if session.terms.durability == Durability::None || session.state != State::Open {
            continue;
        }
        let read = store.read_to_instance(&s, 0, usize::MAX).await.unwrap();
        let known = asked.seqs.len() as u64;
        let new = read.messages.iter().filter(|m| known < m.position);
        asked.seqs.extend(new.map(|m| m.client_seq));
        assert_eq!((session.gone.last, session.gone_posts.last), asked.gone);
        let there = read.messages.into_iter().map(|m| (m.position, m.payload));
        asked.check(session.to_instance, there.collect());
        let read = store.read_to_client(&s, 0, usize::MAX).await.unwrap();
        let there = read.messages.into_iter().map(|m| (m.seq, m.payload));
        told.check(session.to_client, there.collect());
    }
}

async fn compare(steps: &[Step]) {
    let mut memory = Memory::empty(usize::MAX);
    let mut sqlite = Sqlite::empty(usize::MAX);
    for store in [memory.store(), sqlite.store()] {
        for name in SESSIONS {
            let mut new = new_session(name);
            if name == "none" {
                new.terms.durability = Durability::None;
            }
            if name == "b" {
                new.terms.loss_policy = LossPolicy::Replay;
            }
            store.create(new).await.unwrap();
        }
    }
    let mut witnesses = vec![(Witness::default(), Witness::default()); SESSIONS.len()];
    for step in steps {
        if matches!(step, Step::Crash) {
            // The engines may differ in what is relaxed; a durable call makes it the same.
            for store in [memory.store(), sqlite.store()] {
                let _ = store.set_token(&id("b"), hash(1)).await;
                store.recover(&owner()).await.unwrap();
            }
            (memory, sqlite) = (memory.crash(), sqlite.crash());
        } else {
            let one = carry_out(memory.store(), step).await;
            let other = carry_out(sqlite.store(), step).await;
            assert_eq!(one, other, "{step:?}");
            if let Step::On(at, Act::NoteGone { position }) = step
                && one.starts_with("Ok")
            {
                witnesses[*at].0.note_gone(*position);
            }
        }
        assert_eq!(
            look(memory.store()).await,
            look(sqlite.store()).await,
            "{step:?}"
        );
        check_promises(sqlite.store(), &mut witnesses).await;
    }
}

#[tokio::test]
async fn what_is_gone_of_a_session_that_survives_nothing_is_gone_with_it() {
    let (back, words) = (0, vec![0]);
    compare(&[
        Step::On(2, Act::Ask(Burst { back, words })),
        Step::On(2, Act::NoteGone { position: 1 }),
        Step::Crash,
    ])
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn two_engines_give_the_same_answers_to_every_history(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare(&steps));
    }
}
