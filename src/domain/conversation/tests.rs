//! What an instance that remembers is promised, and what one is that forgets.

use proptest::prelude::*;

use super::*;

/// The orchestrator as far as an instance can tell, with what is on its way.
#[derive(Default)]
struct Orchestrator {
    epoch: u64,
    /// Messages that were journaled, and how many of them are acknowledged.
    journaled: u64,
    acknowledged: u64,
    delivered: u64,
    /// The answers that were taken: which message each one answers, and the epoch of the last.
    answers: Vec<u64>,
    answers_epoch: u64,
    on_its_way: VecDeque<Said<u64>>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Journal,
    Deliver,
    DeliverAgain,
    DeliverOld,
    TakeAnswer { ack_arrives: bool },
    Acknowledge,
    Cut,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Journal),
        4 => Just(Event::Deliver),
        1 => Just(Event::DeliverAgain),
        1 => Just(Event::DeliverOld),
        3 => any::<bool>().prop_map(|ack_arrives| Event::TakeAnswer { ack_arrives }),
        2 => Just(Event::Acknowledge),
        1 => Just(Event::Cut),
        1 => Just(Event::Restart),
    ]
}

impl Orchestrator {
    fn open(&mut self, instance: &mut Conversation<u64>) {
        self.epoch += 1;
        let opening = Opening {
            spawned_ms: 7,
            epoch: self.epoch,
            next_seq: self.acknowledged + 1,
            answered_through: self.answers.len() as u64,
            received_through: self.answers.len() as u64,
            received_epoch: self.answers_epoch,
        };
        let resumed = instance.open(&opening).unwrap();
        assert_eq!(instance.open(&opening), Err(Stale { seen: self.epoch }));
        assert_eq!(resumed.missed, 0, "there is no other instance");
        self.delivered = resumed.received_through.max(self.acknowledged);
        self.on_its_way = instance.unacknowledged().cloned().collect();
    }

    fn deliver(
        &mut self,
        instance: &mut Conversation<u64>,
        epoch: u64,
        seq: u64,
        applied: &mut Vec<u64>,
    ) {
        match instance.receive(epoch, seq) {
            Receipt::Apply => {
                applied.push(seq);
                let said = instance.say(Some(seq), seq).clone();
                self.on_its_way.push_back(said);
                instance.handled(seq);
            }
            Receipt::ApplyQuietly => {
                applied.push(seq);
                instance.handled(seq);
            }
            Receipt::Duplicate | Receipt::StaleEpoch => {}
            Receipt::Gap { expected } => panic!("{expected} is missing before {seq}"),
        }
    }

    /// What comes is numbered without holes, or it is an instance that cannot count.
    fn take(&mut self, instance: &mut Conversation<u64>, ack_arrives: bool) {
        let Some(said) = self.on_its_way.pop_front() else {
            return;
        };
        assert_eq!(said.seq, self.answers.len() as u64 + 1);
        self.answers.push(said.message);
        self.answers_epoch = self.epoch;
        if ack_arrives {
            instance.taken(said.seq).unwrap();
        }
    }

    fn happens(&mut self, event: Event, instance: &mut Conversation<u64>, applied: &mut Vec<u64>) {
        match event {
            Event::Journal => self.journaled += 1,
            Event::Deliver if self.delivered < self.journaled => {
                self.delivered += 1;
                self.deliver(instance, self.epoch, self.delivered, applied);
            }
            Event::Deliver => {}
            Event::DeliverAgain if 0 < self.delivered => {
                self.deliver(instance, self.epoch, self.delivered, applied);
            }
            Event::DeliverAgain => {}
            Event::DeliverOld => {
                self.deliver(instance, self.epoch - 1, self.delivered + 1, applied);
            }
            Event::TakeAnswer { ack_arrives } => self.take(instance, ack_arrives),
            Event::Acknowledge => {
                if let Some(through) = instance.due() {
                    assert!(
                        through <= self.answers.len() as u64,
                        "its answer may be lost"
                    );
                    self.acknowledged = self.acknowledged.max(through);
                }
            }
            Event::Cut => self.open(instance),
            Event::Restart => {
                *instance = Conversation::remembered(instance.memory().clone());
                self.open(instance);
            }
        }
    }
}

proptest! {
    #[test]
    fn each_message_is_applied_and_answered_once_in_order(events in proptest::collection::vec(event(), 0..200)) {
        let (mut orchestrator, mut instance) = (Orchestrator::default(), Conversation::default());
        let mut applied = Vec::new();
        orchestrator.open(&mut instance);
        for event in events {
            orchestrator.happens(event, &mut instance, &mut applied);
        }
        // Once nothing is in the way any more, everything arrives.
        orchestrator.open(&mut instance);
        while orchestrator.delivered < orchestrator.journaled {
            orchestrator.happens(Event::Deliver, &mut instance, &mut applied);
        }
        while !orchestrator.on_its_way.is_empty() {
            orchestrator.take(&mut instance, true);
        }
        let all: Vec<u64> = (1..=orchestrator.journaled).collect();
        prop_assert_eq!(&applied, &all);
        prop_assert_eq!(&orchestrator.answers, &all);
        orchestrator.happens(Event::Acknowledge, &mut instance, &mut applied);
        prop_assert_eq!(orchestrator.acknowledged, orchestrator.journaled);
    }

    #[test]
    fn an_instance_that_forgets_everything_still_misses_and_repeats_no_answer(
        events in proptest::collection::vec(event(), 0..100),
    ) {
        let (mut orchestrator, mut instance) = (Orchestrator::default(), Conversation::default());
        let mut applied = Vec::new();
        orchestrator.open(&mut instance);
        for event in events {
            if matches!(event, Event::Restart) {
                instance = Conversation::default();
                orchestrator.open(&mut instance);
            } else {
                orchestrator.happens(event, &mut instance, &mut applied);
            }
        }
        instance = Conversation::default();
        orchestrator.open(&mut instance);
        while orchestrator.delivered < orchestrator.journaled {
            orchestrator.happens(Event::Deliver, &mut instance, &mut applied);
        }
        while !orchestrator.on_its_way.is_empty() {
            orchestrator.take(&mut instance, true);
        }
        let all: Vec<u64> = (1..=orchestrator.journaled).collect();
        prop_assert_eq!(&orchestrator.answers, &all);
        applied.sort_unstable();
        applied.dedup();
        prop_assert_eq!(&applied, &all);
    }
}

fn opening(epoch: u64) -> Opening {
    Opening {
        spawned_ms: 7,
        epoch,
        next_seq: 1,
        answered_through: 0,
        received_through: 0,
        received_epoch: 0,
    }
}

#[test]
fn an_epoch_that_is_not_newer_is_refused() {
    let mut instance: Conversation<()> = Conversation::default();
    instance.open(&opening(5)).unwrap();
    for epoch in [0, 4, 5] {
        assert_eq!(instance.open(&opening(epoch)), Err(Stale { seen: 5 }));
    }
    assert_eq!(instance.receive(4, 1), Receipt::StaleEpoch);
    assert_eq!(instance.receive(5, 1), Receipt::Apply);
    assert_eq!(instance.receive(5, 3), Receipt::Gap { expected: 2 });
    instance.open(&opening(6)).unwrap();
    assert_eq!(instance.receive(5, 2), Receipt::StaleEpoch);
}

#[test]
fn a_session_spawned_anew_owes_nothing_to_the_one_before() {
    let mut instance = Conversation::default();
    instance.open(&opening(5)).unwrap();
    assert_eq!(instance.receive(5, 1), Receipt::Apply);
    instance.say(Some(1), ());
    let anew = Opening {
        spawned_ms: 8,
        ..opening(1)
    };
    let resumed = instance.open(&anew).unwrap();
    assert_eq!((resumed.received_through, resumed.missed), (0, 0));
    assert_eq!(instance.unacknowledged().count(), 0);
    assert_eq!(instance.receive(1, 1), Receipt::Apply);
    assert_eq!(instance.open(&opening(9)), Err(Stale { seen: 1 }));
}

#[test]
fn what_another_instance_has_said_is_not_said_again() {
    let mut instance = Conversation::default();
    instance.open(&opening(1)).unwrap();
    for seq in 1..=3 {
        assert_eq!(instance.receive(1, seq), Receipt::Apply);
        instance.say(Some(seq), seq);
    }
    let back = Opening {
        next_seq: 6,
        received_through: 2,
        received_epoch: 2,
        ..opening(3)
    };
    let resumed = instance.open(&back).unwrap();
    assert_eq!((resumed.received_through, resumed.missed), (3, 2));
    assert_eq!(instance.unacknowledged().count(), 0);
    assert_eq!(instance.say(None, 9).seq, 3);
    assert_eq!(instance.receive(3, 6), Receipt::Apply);
}

#[test]
fn what_an_instance_was_never_given_it_does_not_say_that_it_has() {
    let mut instance: Conversation<()> = Conversation::default();
    let late = |epoch| Opening {
        next_seq: 6,
        ..opening(epoch)
    };
    for epoch in [1, 2] {
        let resumed = instance.open(&late(epoch)).unwrap();
        assert_eq!(resumed.received_through, 0, "also when it was asked before");
        assert_eq!(instance.due(), None);
    }
    assert_eq!(instance.receive(2, 5), Receipt::Duplicate);
    assert_eq!(instance.receive(2, 7), Receipt::Gap { expected: 6 });
    assert_eq!(instance.receive(2, 6), Receipt::Apply);
    instance.handled(6);
    assert_eq!(instance.due(), Some(6));
    assert_eq!(instance.open(&late(3)).unwrap().received_through, 6);
}

#[test]
fn what_was_never_said_cannot_be_acknowledged() {
    let mut instance = Conversation::default();
    instance.open(&opening(1)).unwrap();
    instance.say(None, ());
    let over = OverAck {
        through: 2,
        said_through: 1,
    };
    assert_eq!(instance.taken(2), Err(over));
    assert_eq!(instance.taken(1), Ok(()));
}
