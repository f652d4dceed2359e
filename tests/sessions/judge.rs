//! The judge of a history: what must never happen to a session, whoever is killed, cut off or late.
//!
//! A session is a log with one writer for each direction, so no search is needed: each event is held against the
//! few numbers that those before it have left.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::history::{Answer, Answers, Event, Ready, seq_of};

/// What a session was promised beyond what every session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answering {
    /// Each message is answered once, whoever answers.
    Once,
    /// A mind that knows nothing may answer again what another one has answered: what the orchestrator knew of the
    /// answers was lost with it.
    OnceByEachMind,
}

/// Whether an instance may begin in the middle of a conversation that it should have whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// It may: what is left out was acknowledged by another one, as the session wants it.
    Anywhere,
    /// Only when the client is told what is left out.
    Told,
}

/// What is wrong with a history whose session has come to rest: everything was delivered, or told to be lost.
pub(crate) fn judge(history: &[Event], answering: Answering, beginning: Beginning) -> Vec<String> {
    let mut judge = Judge::default();
    for event in history {
        judge.hear(event);
    }
    judge.conclude(answering, beginning);
    judge.wrong
}

#[derive(Default)]
struct Judge {
    wrong: Vec<String>,
    client: Client,
    /// Each mind: how far it has applied, and its newest epoch.
    minds: BTreeMap<String, (u64, u64)>,
    /// What each mind was not given when it was opened last, and what it went on without.
    left_out: BTreeMap<String, RangeInclusive<u64>>,
    went_on_without: Vec<RangeInclusive<u64>>,
    epochs_opened: BTreeSet<u64>,
    /// What was applied, by its place in the log.
    log: BTreeMap<u64, String>,
}

#[derive(Default)]
struct Client {
    sent: BTreeMap<u64, String>,
    posting: BTreeSet<String>,
    /// Where each posted message stands.
    posted: BTreeMap<String, u64>,
    /// Everything for the client, over its stream or as the answer of a post.
    received: BTreeMap<u64, (Option<Answers>, String)>,
    /// Numbers that posts were given.
    taken: BTreeSet<u64>,
    /// Numbers that the stream left out.
    skipped: BTreeMap<u64, u64>,
    acked: u64,
    next: u64,
    epoch: u64,
    /// The newest epoch before the orchestrator began anew.
    epoch_before: u64,
    lost: Vec<(u64, u64)>,
    lost_posts: Vec<(u64, u64)>,
    closed: Option<String>,
    over: Option<String>,
    /// Epochs that were told before the orchestrator began anew, and after it.
    goes_on: Vec<u64>,
}

impl Judge {
    fn complain(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Ready(ready) => self.ready(*ready),
            Event::Sent { seq, text } => {
                let before = self.client.sent.insert(*seq, text.clone());
                if before.is_some_and(|before| before != *text) {
                    self.complain(format!("{seq} was sent with two bodies"));
                }
            }
            Event::Acked(seq) => {
                let acked = self.client.acked;
                if *seq < acked {
                    let what = "the acknowledgement went back";
                    self.complain(format!("{what} from {acked} to {seq}"));
                }
                self.safe_through(*seq);
            }
            Event::Received { seq, reply, text } => {
                let next = self.client.next.max(1);
                for left_out in next..*seq {
                    self.client.skipped.insert(left_out, *seq);
                }
                self.client.next = next.max(seq + 1);
                self.came(*seq, *reply, text);
            }
            Event::Posting(text) => {
                self.client.posting.insert(text.clone());
            }
            Event::Posted {
                text,
                position,
                reply,
            } => self.posted(text, *position, reply.as_ref()),
            Event::Moved { epoch } => self.epoch_is(*epoch),
            Event::Lost { first, last } => self.client.lost.push((*first, *last)),
            Event::LostPosts { first, last } => self.client.lost_posts.push((*first, *last)),
            Event::Closed(reason) => self.client.closed = Some(reason.clone()),
            Event::Over(reason) => self.client.over = Some(reason.clone()),
            Event::Opened(opened) => {
                let epoch = opened.epoch;
                if !self.epochs_opened.insert(epoch) {
                    self.complain(format!("epoch {epoch} was given out twice"));
                }
                let mind = self.minds.entry(opened.mind.clone()).or_default();
                let left_out = mind.0 + 1..=opened.next_seq.saturating_sub(1);
                // Opened once more, it may be given more than before, and still not what was left out then.
                if !left_out.is_empty() {
                    let left_out_of = self.left_out.entry(opened.mind.clone());
                    left_out_of.or_insert(left_out);
                }
                mind.0 = mind.0.max(opened.next_seq.saturating_sub(1));
                mind.1 = mind.1.max(epoch);
            }
            Event::Applied {
                mind,
                epoch,
                position,
                text,
            } => self.applied(mind, *epoch, *position, text),
            Event::Parted { .. } => {}
            Event::Restarted => self.client.epoch_before = self.client.epoch,
        }
    }

    fn epoch_is(&mut self, now: u64) {
        let epoch = self.client.epoch;
        if now < epoch {
            self.complain(format!("the epoch went back from {epoch} to {now}"));
        }
        let before = self.client.epoch_before;
        if now <= before {
            self.client.goes_on.push(now);
        }
        self.client.epoch = epoch.max(now);
    }

    fn ready(&mut self, ready: Ready) {
        self.epoch_is(ready.epoch);
        let (acked, last) = (self.client.acked, ready.last_received);
        if last < acked {
            let what = "acknowledged messages are gone";
            self.complain(format!("{what}: {acked} were, {last} are there"));
        }
        self.safe_through(last);
        let next = self.client.next.max(1);
        for left_out in next..ready.first {
            self.client.skipped.insert(left_out, ready.first);
        }
    }

    fn safe_through(&mut self, seq: u64) {
        let sent = self.client.sent.keys().last().copied().unwrap_or(0);
        if sent < seq {
            self.complain(format!("{seq} was acknowledged and never sent"));
        }
        self.client.acked = self.client.acked.max(seq);
    }

    fn came(&mut self, seq: u64, reply: Option<Answers>, text: &str) {
        let now = (reply, text.to_owned());
        let before = self.client.received.insert(seq, now.clone());
        // Which post a message answers may be forgotten; never what it says.
        if let Some((_, before)) = before
            && before != now.1
        {
            self.complain(format!("{seq} came with two bodies: {before}, {text}"));
        }
    }

    fn posted(&mut self, text: &str, position: u64, reply: Option<&(u64, String)>) {
        let before = self.client.posted.insert(text.to_owned(), position);
        if before.is_some_and(|before| before != position) {
            self.complain(format!("{text} was posted twice"));
        }
        if let Some((seq, answer)) = reply {
            self.client.taken.insert(*seq);
            self.came(*seq, Some(Answers::Posted(position)), answer);
        }
    }

    fn applied(&mut self, mind: &str, epoch: u64, position: u64, text: &str) {
        let Some((applied, newest)) = self.minds.get(mind).copied() else {
            return self.complain(format!("{mind} applied {position} and was never asked"));
        };
        if epoch < newest {
            let what = format!("{mind} took a frame of epoch {epoch}");
            self.complain(format!("{what} after {newest}"));
        }
        if position != applied + 1 {
            self.complain(format!("{mind} applied {position} after {applied}"));
        }
        self.went_on_without.extend(self.left_out.remove(mind));
        let after = (applied.max(position), newest.max(epoch));
        self.minds.insert(mind.to_owned(), after);
        let before = self.log.insert(position, text.to_owned());
        if before.is_some_and(|before| before != text) {
            self.complain(format!("{position} was delivered with two bodies"));
        }
    }

    fn conclude(&mut self, answering: Answering, beginning: Beginning) {
        // One that has ended is not taken over any more.
        if self.client.closed.is_none() && self.client.over.is_none() {
            for epoch in std::mem::take(&mut self.client.goes_on) {
                self.complain(format!("epoch {epoch} goes on over a restart"));
            }
        }
        if beginning == Beginning::Told {
            self.judge_beginnings();
        }
        self.judge_log();
        self.judge_answers(answering);
        for (seq, came) in std::mem::take(&mut self.client.skipped) {
            if !self.client.taken.contains(&seq) {
                self.complain(format!("{came} came where {seq} was next"));
            }
        }
        self.judge_losses();
    }

    /// What an instance went on without was told to be lost, if the client was told anything at the end.
    fn judge_beginnings(&mut self) {
        if self.client.closed.is_some() || self.client.over.is_some() {
            return;
        }
        let positions = self.went_on_without.iter().cloned().flatten();
        let mut untold = BTreeSet::new();
        for position in positions {
            let Some(text) = self.log.get(&position) else {
                continue;
            };
            let is_told = match seq_of(text) {
                Some(seq) => self.client.is_told_lost(seq),
                None => self.client.is_told_lost_post(position),
            };
            if !is_told {
                untold.insert((position, text.clone()));
            }
        }
        for (_, text) in untold {
            self.complain(format!(
                "an instance went on without {text}, and nobody was told"
            ));
        }
    }

    /// The log holds what the client sent, each message once, in the client's order.
    fn judge_log(&mut self) {
        let (mut places, mut last) = (BTreeMap::new(), 0);
        for (position, text) in std::mem::take(&mut self.log) {
            if let Some(other) = places.insert(text.clone(), position) {
                self.complain(format!(
                    "{text} stands twice in the log: {other}, {position}"
                ));
            }
            match seq_of(&text) {
                Some(seq) => {
                    if self.client.sent.get(&seq) != Some(&text) {
                        self.complain(format!("{text} was applied and never sent"));
                    }
                    if seq != last + 1 && last != 0 {
                        self.complain(format!("{seq} was delivered after {last}"));
                    }
                    last = seq;
                }
                None if !self.client.posting.contains(&text) => {
                    self.complain(format!("{text} was applied and never sent"));
                }
                None => {}
            }
        }
        let delivered: BTreeMap<u64, &String> =
            places.iter().map(|(text, at)| (*at, text)).collect();
        for (text, position) in &self.client.posted {
            let wrong = match (places.get(text), delivered.get(position)) {
                (Some(place), _) if place == position => continue,
                (Some(_), _) => "delivered elsewhere".to_owned(),
                (None, Some(other)) => format!("{other} stands there"),
                (None, None) if self.client.may_miss_post(*position) => continue,
                (None, None) => "never delivered".to_owned(),
            };
            let what = format!("{text} was posted to {position}");
            self.wrong.push(format!("{what} and {wrong}"));
        }
    }

    /// What came from instances is in order, answers what it says, and nobody speaks who was relieved.
    fn judge_answers(&mut self, answering: Answering) {
        let mut by: BTreeMap<(String, String), u64> = BTreeMap::new();
        let (mut epoch, mut answered) = (0, BTreeMap::<String, u64>::new());
        for (seq, (reply, text)) in std::mem::take(&mut self.client.received) {
            let Some(answer) = Answer::read(&text) else {
                self.complain(format!("{seq} is no answer: {text}"));
                continue;
            };
            if answer.epoch < epoch {
                let what = format!("{seq} was said in epoch {}", answer.epoch);
                self.complain(format!("{what} and stands after one of {epoch}"));
            }
            epoch = epoch.max(answer.epoch);
            let who = match answering {
                Answering::Once => String::new(),
                Answering::OnceByEachMind => answer.mind.clone(),
            };
            if let Some(other) = by.insert((who, answer.to.clone()), seq) {
                let what = format!("{} was applied twice", answer.to);
                self.complain(format!("{what}: {other} and {seq} answer it"));
            }
            match (reply, seq_of(&answer.to)) {
                (Some(Answers::Streamed(said)), Some(to)) if said == to => {
                    let before = answered.insert(answer.mind, to).unwrap_or(0);
                    if to < before {
                        self.complain(format!("{seq} answers {to} after {before}"));
                    }
                }
                (Some(Answers::Posted(said)), None)
                    if self
                        .client
                        .posted
                        .get(&answer.to)
                        .is_none_or(|at| *at == said) => {}
                // Nobody knows any more what it answers.
                (None, _) => {}
                (Some(_), _) => {
                    self.complain(format!("{seq} is no answer to what it says: {text}"))
                }
            }
            if seq_of(&answer.to).is_some() {
                self.client.over_with(&answer.to);
            }
        }
    }

    /// What was acknowledged was answered, or told to be lost.
    fn judge_losses(&mut self) {
        let client = &self.client;
        if client.has_ended_unheard() {
            return;
        }
        let missing: Vec<u64> = (1..=client.acked)
            .filter(|seq| client.sent.contains_key(seq) && !client.is_told_lost(*seq))
            .collect();
        for seq in missing {
            self.complain(format!("{seq} was acknowledged and never answered"));
        }
    }
}

impl Client {
    /// Whether the session has ended without saying, or being asked, what came of the messages before.
    fn has_ended_unheard(&self) -> bool {
        // Told by a refusal, the client knows no more than that the session has ended.
        let by_refusal = self.over.is_some() && self.closed.is_none();
        // Whoever ends a session knows what it has not waited for.
        by_refusal || self.closed.as_deref() == Some("by_client")
    }

    /// Whether the message that was posted to this position need not have been delivered.
    fn may_miss_post(&self, position: u64) -> bool {
        self.is_told_lost_post(position) || self.has_ended_unheard()
    }

    fn is_told_lost_post(&self, position: u64) -> bool {
        let mut lost = self.lost_posts.iter();
        lost.any(|(first, last)| (*first..=*last).contains(&position))
    }

    fn is_told_lost(&self, seq: u64) -> bool {
        let mut lost = self.lost.iter();
        lost.any(|(first, last)| (*first..=*last).contains(&seq))
    }

    /// A message was answered: nothing more is asked of it.
    fn over_with(&mut self, text: &str) {
        if let Some(seq) = seq_of(text)
            && self.sent.get(&seq).is_some_and(|sent| sent == text)
        {
            self.sent.remove(&seq);
        }
    }
}
