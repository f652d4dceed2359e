//! The judge is shown histories that it must pass, and each kind that it must refuse.

use crate::sessions::history::{Answer, Answers, Event, Opened, Ready, streamed};
use crate::sessions::judge::{Answering, Beginning, judge};

fn sent(seq: u64) -> Event {
    let text = streamed(seq, 0);
    Event::Sent { seq, text }
}

fn says(to: &str, mind: &str, epoch: u64) -> String {
    let (to, mind) = (to.to_owned(), mind.to_owned());
    Answer { to, mind, epoch }.to_string()
}

/// The answer to a message of the stream.
fn got(seq: u64, answered: u64) -> Event {
    got_from("A.0", 1, seq, answered)
}

fn got_from(mind: &str, epoch: u64, seq: u64, answered: u64) -> Event {
    Event::Received {
        seq,
        reply: Some(Answers::Streamed(answered)),
        text: says(&streamed(answered, 0), mind, epoch),
    }
}

fn ready(epoch: u64, last_received: u64, first: u64) -> Event {
    Event::Ready(Ready {
        epoch,
        last_received,
        first,
    })
}

fn opened(mind: &str, epoch: u64, next_seq: u64) -> Event {
    let mind = mind.to_owned();
    Event::Opened(Opened {
        mind,
        epoch,
        next_seq,
    })
}

fn applied(mind: &str, epoch: u64, position: u64, text: &str) -> Event {
    Event::Applied {
        mind: mind.to_owned(),
        epoch,
        position,
        text: text.to_owned(),
    }
}

fn lost(first: u64, last: u64) -> Event {
    Event::Lost { first, last }
}

fn lost_posts(first: u64, last: u64) -> Event {
    Event::LostPosts { first, last }
}

fn posted(text: &str, position: u64, reply: Option<(u64, String)>) -> Event {
    let text = text.to_owned();
    Event::Posted {
        text,
        position,
        reply,
    }
}

fn closed(reason: &str) -> Event {
    Event::Closed(reason.to_owned())
}

#[test]
fn good_histories_pass() {
    let check = |history: &[Event]| {
        assert_eq!(
            judge(history, Answering::Once, Beginning::Anywhere),
            [""; 0],
            "{history:?}"
        );
    };
    check(&[]);
    let told = [
        ready(1, 0, 1),
        opened("A.0", 1, 1),
        sent(1),
        Event::Acked(1),
    ];
    let and = |more: &[Event]| [&told, more].concat();
    check(&and(&[applied("A.0", 1, 1, "m1"), got(1, 1)]));
    // Cut, sent again, received again.
    check(&and(&[got(1, 1), ready(2, 1, 1), sent(1), got(1, 1)]));
    // Never acknowledged: it may be gone.
    check(&[ready(1, 0, 1), sent(1), ready(2, 0, 1)]);
    check(&and(&[lost(1, 1), closed("instance_lost")]));
    check(&and(&[closed("by_client")]));
    check(&and(&[Event::Over("SESSION_CLOSED".into())]));
    // A mind that begins with what was not acknowledged.
    let second = [opened("B.0", 2, 2), sent(2), applied("B.0", 2, 2, "m2")];
    check(&and(&[
        &[got(1, 1)][..],
        &second,
        &[got_from("B.0", 2, 2, 2)],
    ]
    .concat()));
    // A post whose reply the stream leaves out.
    let post = [
        Event::Posting("p1".into()),
        applied("A.0", 1, 1, "p1"),
        posted("p1", 1, Some((1, says("p1", "A.0", 1)))),
        applied("A.0", 1, 2, "m1"),
        got(2, 1),
    ];
    check(&and(&post));
    // A post that nobody waits for: delivered, told to be lost, or in a session whose end says no more.
    let unanswered = [Event::Posting("p1".into()), posted("p1", 1, None)];
    let and_then = |more: &[Event]| [&unanswered, more].concat();
    let begun = opened("A.0", 1, 1);
    check(&and_then(&[begun, applied("A.0", 1, 1, "p1")]));
    check(&and_then(&[lost_posts(1, 2), closed("instance_lost")]));
    check(&and_then(&[closed("by_client")]));
    check(&and_then(&[Event::Over("SESSION_CLOSED".into())]));
    // What is no longer known to be the answer of a post.
    let unknown = Event::Received {
        seq: 1,
        reply: None,
        text: says("p1", "A.0", 1),
    };
    check(&[Event::Posting("p1".into()), unknown]);
}

#[test]
fn a_second_answer_is_excused_only_where_the_first_was_forgotten() {
    let twice = [sent(1), got(1, 1), got_from("B.0", 2, 2, 1)];
    assert_ne!(judge(&twice, Answering::Once, Beginning::Told), [""; 0]);
    assert_eq!(
        judge(&twice, Answering::OnceByEachMind, Beginning::Told),
        [""; 0]
    );
    let same_mind = [sent(1), got(1, 1), got_from("A.0", 2, 2, 1)];
    assert_ne!(
        judge(&same_mind, Answering::OnceByEachMind, Beginning::Told),
        [""; 0]
    );
}

#[test]
fn bad_histories_are_refused() {
    let check = |expected: &str, history: &[Event]| {
        let wrong = judge(history, Answering::OnceByEachMind, Beginning::Told);
        let told = wrong.iter().any(|wrong| wrong.contains(expected));
        assert!(told, "{expected}: {wrong:?}");
    };
    let begun = [
        ready(1, 0, 1),
        opened("A.0", 1, 1),
        sent(1),
        Event::Acked(1),
    ];
    let then = |more: &[Event]| [&begun, more].concat();
    check("never answered", &begun);
    check("never answered", &then(&[closed("expired")]));
    check("never answered", &then(&[lost(2, 3), closed("expired")]));
    check("acknowledged messages are gone", &then(&[ready(2, 0, 1)]));
    check("applied twice", &then(&[got(1, 1), got(2, 1)]));
    check("came where 1 was next", &then(&[got(2, 1)]));
    check("came where 1 was next", &then(&[ready(2, 1, 2), got(2, 1)]));
    check("epoch went back", &then(&[ready(3, 1, 1), ready(2, 1, 1)]));
    check("epoch went back", &then(&[Event::Moved { epoch: 0 }]));
    check("over a restart", &then(&[Event::Restarted, ready(1, 1, 1)]));
    check("given out twice", &then(&[opened("B.0", 1, 1)]));
    check("went back from 1 to 0", &then(&[Event::Acked(0)]));
    check("acknowledged and never sent", &[Event::Acked(1)]);
    check("acknowledged and never sent", &[ready(1, 1, 1)]);
    let other = |seq| Event::Sent {
        seq,
        text: "other".into(),
    };
    check("sent with two bodies", &then(&[other(1)]));
    let crossed = [sent(1), sent(2), got(1, 2), got(2, 1)];
    check("answers 1 after 2", &crossed);
    let mixed = Event::Received {
        seq: 1,
        reply: Some(Answers::Streamed(1)),
        text: says("m2", "A.0", 1),
    };
    check(
        "no answer to what it says",
        &then(std::slice::from_ref(&mixed)),
    );
    check("came with two bodies", &then(&[got(1, 1), mixed]));
    let noise = Event::Received {
        seq: 1,
        reply: None,
        text: "noise".into(),
    };
    check("is no answer", &then(&[noise]));
    let relieved = [sent(2), got_from("B.0", 2, 1, 1), got_from("A.0", 1, 2, 2)];
    check("stands after one of 2", &then(&relieved));
}

#[test]
fn bad_histories_of_instances_are_refused() {
    let check = |expected: &str, more: &[Event]| {
        let begun = [opened("A.0", 1, 1), sent(1), sent(2), sent(3)];
        let wrong = judge(
            &[&begun, more].concat(),
            Answering::OnceByEachMind,
            Beginning::Told,
        );
        let told = wrong.iter().any(|wrong| wrong.contains(expected));
        assert!(told, "{expected}: {wrong:?}");
    };
    let one = || applied("A.0", 1, 1, "m1");
    check("applied 1 after 1", &[one(), one()]);
    check("applied 2 after 0", &[applied("A.0", 1, 2, "m2")]);
    let stale = [opened("A.0", 2, 1), one()];
    check("took a frame of epoch 1", &stale);
    check("was never asked", &[applied("B.0", 1, 1, "m1")]);
    let elsewhere = [one(), opened("B.0", 2, 1), applied("B.0", 2, 1, "m2")];
    check("delivered with two bodies", &elsewhere);
    check("stands twice", &[one(), applied("A.0", 1, 2, "m1")]);
    check("never sent", &[applied("A.0", 1, 1, "m4")]);
    check("never sent", &[applied("A.0", 1, 1, "p1")]);
    check("delivered after 1", &[one(), applied("A.0", 1, 2, "m3")]);
    check(
        "delivered after 2",
        &[applied("A.0", 1, 1, "m2"), applied("A.0", 1, 2, "m1")],
    );
    let post = || Event::Posting("p1".into());
    let twice = [post(), posted("p1", 1, None), posted("p1", 2, None)];
    check("posted twice", &twice);
    let moved = [post(), applied("A.0", 1, 1, "p1"), posted("p1", 2, None)];
    check("delivered elsewhere", &moved);
    let accepted = || [post(), posted("p1", 1, None)];
    check("posted to 1 and never delivered", &accepted());
    let and = |more: &[Event]| [&accepted()[..], more].concat();
    check("never delivered", &and(&[closed("expired")]));
    check(
        "never delivered",
        &and(&[lost_posts(2, 2), closed("instance_lost")]),
    );
    check(
        "never delivered",
        &and(&[lost(1, 1), closed("instance_lost")]),
    );
    check("posted to 1 and m1 stands there", &and(&[one()]));
    let displaced = [one(), closed("by_client")];
    check("m1 stands there", &and(&displaced));
}

#[test]
fn an_instance_that_goes_on_without_the_beginning_is_excused_only_where_that_was_told() {
    let begun = [
        ready(1, 0, 1),
        opened("A.0", 1, 1),
        sent(1),
        sent(2),
        applied("A.0", 1, 1, "m1"),
        applied("A.0", 1, 2, "m2"),
        got(1, 1),
        got(2, 2),
        sent(3),
        opened("B.0", 2, 3),
    ];
    let untold = |more: &[Event], beginning| {
        let wrong = judge(&[&begun, more].concat(), Answering::Once, beginning);
        let untold = wrong
            .iter()
            .filter(|wrong| wrong.contains("went on without"));
        untold.count()
    };
    let (told, anywhere) = (Beginning::Told, Beginning::Anywhere);
    let goes_on = || applied("B.0", 2, 3, "m3");
    assert_eq!(untold(&[goes_on()], told), 2);
    assert_eq!(untold(&[goes_on()], anywhere), 0);
    assert_eq!(untold(&[lost(1, 1), goes_on()], told), 1);
    assert_eq!(untold(&[goes_on(), lost(1, 2)], told), 0);
    assert_eq!(untold(&[], told), 0, "it was given nothing");
    let again = [opened("B.0", 3, 3), applied("B.0", 3, 3, "m3")];
    assert_eq!(untold(&again, told), 2, "opened once more");
    assert_eq!(untold(&[goes_on(), closed("by_client")], told), 0);
    let with_post = |more: &[Event]| {
        let post = [
            Event::Posting("p1".into()),
            opened("A.0", 1, 1),
            applied("A.0", 1, 1, "p1"),
            posted("p1", 1, None),
            sent(1),
            opened("B.0", 2, 2),
            applied("B.0", 2, 2, "m1"),
        ];
        let wrong = judge(&[&post, more].concat(), Answering::Once, told);
        wrong
            .iter()
            .any(|wrong| wrong.contains("went on without p1"))
    };
    assert!(with_post(&[]));
    assert!(with_post(&[lost(1, 1)]), "that is a message of the stream");
    assert!(!with_post(&[lost_posts(1, 1)]));
}
