//! What an instance is sent, and what each kind of answer comes to.

use super::by_hand::json;
use super::*;

#[tokio::test]
async fn a_task_is_a_post_of_its_payload_with_all_that_travels() {
    let mut by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    let payload = r#"{"z":1,"a":[9007199254740992,0.1,null],"":"é"}"#;
    let call = call(payload);
    let sent = call.sent.clone();
    let answer = tokio::spawn(told(reached.instance.execute(call)));
    let asked = by_hand.asked().await;
    assert!(sent.get());
    assert!(
        asked.head.starts_with("POST /run HTTP/1.1\r\n"),
        "{}",
        asked.head
    );
    assert_eq!(asked.body, payload);
    let host = by_hand.address.to_string();
    for (name, value) in [
        ("host", host.as_str()),
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("authorization", "Bearer token-of-a"),
        ("x-request-id", "request-1"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("x-orchestrator-attempt", "2"),
        ("baggage", "k=v"),
        ("b3", "0"),
        ("tenant", "blue"),
    ] {
        assert_eq!(asked.header(name), [value], "{name}");
    }
    let seconds: f64 = asked.header("request-timeout")[0].parse().unwrap();
    assert!((1.0..=60.0).contains(&seconds), "{seconds}");
    let micros = asked.header("grpc-timeout")[0].strip_suffix('u').unwrap();
    let micros: f64 = micros.parse().unwrap();
    assert!((micros / 1e6 - seconds).abs() < 0.002, "{micros} {seconds}");
    asked.answer(&json(payload)).await;
    assert_eq!(answer.await.unwrap().unwrap(), payload);
}

#[tokio::test]
async fn a_payload_that_json_cannot_carry_is_refused_before_anything_is_sent() {
    let mut by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    let encoded = [&[0x11][..], &f64::NAN.to_le_bytes()].concat();
    let call = Call {
        task: task(Payload::check(encoded.into()).unwrap()),
        ..call("null")
    };
    let sent = call.sent.clone();
    let failure = told(reached.instance.execute(call)).await.unwrap_err();
    assert_eq!(failure.reason, Reason::PayloadInvalid);
    assert_eq!(failure.progress, Progress::NeverSent);
    assert_eq!(
        failure.detail,
        "payload has no JSON form: NaN is not a JSON number"
    );
    assert!(!sent.get() && !by_hand.has_more() && by_hand.connections() == 0);
}

/// What one answer comes to; the connection closes after it.
async fn check(answer: &str, expected: Result<&str, (Reason, Progress, &str)>) {
    let mut by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
    let mut asked = by_hand.asked().await;
    asked.say(answer).await;
    drop(asked);
    let found = outcome.await.unwrap();
    let found = found.map_err(|failure| (failure.reason, failure.progress, failure.detail));
    let shown: String = answer.chars().take(200).collect();
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{shown}"),
        (Err((reason, progress, detail)), Err(expected)) => {
            assert_eq!((reason, progress, &*detail), expected, "{shown}");
        }
        (found, expected) => panic!("{shown}: {found:?}, not {expected:?}"),
    }
    assert!(!by_hand.has_more(), "nothing is sent twice: {shown}");
    assert_eq!(reached.memory.held(), 0, "{shown}");
}

fn answered(head: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn what_is_a_payload_is_taken_in_every_framing() {
    check(&json(r#"{"b":1,"a":2}"#), Ok(r#"{"b":1,"a":2}"#)).await;
    check(&answered("201 Created", " [1] \n"), Ok("[1]")).await;
    check(
        &answered(
            "200 OK\r\ncontent-type: application/problem+json; charset=UTF-8",
            "1",
        ),
        Ok("1"),
    )
    .await;
    check(&answered("200 OK", "\u{feff}true"), Ok("true")).await;
    // Nothing is null.
    check(&answered("200 OK", ""), Ok("null")).await;
    check("HTTP/1.1 204 No Content\r\n\r\n", Ok("null")).await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check(
        &format!("{chunked}3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"),
        Ok("[1,2]"),
    )
    .await;
    check(
        &format!("{chunked}1\r\n7\r\n0\r\nx-trailer: 1\r\n\r\n"),
        Ok("7"),
    )
    .await;
    // What comes before an answer is none.
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    check(&format!("{early}{}", json("2")), Ok("2")).await;
    // The old way: the answer ends with its connection, and its form tells that it is whole.
    check("HTTP/1.0 200 OK\r\n\r\n{\"a\": 1}", Ok(r#"{"a":1}"#)).await;
    check("HTTP/1.1 200 OK\r\n\r\nfalse", Ok("false")).await;
}

#[tokio::test]
async fn what_is_no_payload_has_a_name() {
    use Progress::Answered;
    let malformed = |what: &'static str| Err((Reason::AnswerMalformed, Answered, what));
    let html = answered("200 OK\r\ncontent-type: text/html", "<html>");
    check(
        &html,
        malformed("the answer is not JSON: its content-type is text/html"),
    )
    .await;
    check(
        &json("{\"a\":\n nope}"),
        malformed("the answer is not JSON at line 2, column 3"),
    )
    .await;
    check(
        &json("NaN"),
        malformed("the answer is not JSON at line 1, column 1"),
    )
    .await;
    check(
        &json(r#"{"CANARY":1,"CANARY":2}"#),
        malformed("the answer has the same key twice in one object"),
    )
    .await;
    let inexact =
        "the answer has an integer beyond 2^53, which cannot travel exactly: send it as a string";
    check(&json(r#"{"CANARY":9007199254740993}"#), malformed(inexact)).await;
    check(
        &json(&"[".repeat(60)),
        malformed("the answer is nested too deep"),
    )
    .await;
    check(
        &answered("200 OK\r\ncontent-encoding: gzip", "1"),
        malformed("the answer is compressed, which was not asked for"),
    )
    .await;
    let latin = "application/json; charset=iso-8859-1";
    check(
        &answered(&format!("200 OK\r\ncontent-type: {latin}"), "1"),
        malformed("the answer is JSON, but not in UTF-8"),
    )
    .await;
    for status in [301, 302, 303, 307, 308] {
        let redirect = format!("{status} Moved\r\nlocation: http://127.0.0.1:1/elsewhere");
        let what = format!("the answer is a redirect (HTTP {status}), which is never followed");
        check(
            &answered(&redirect, ""),
            Err((Reason::AnswerMalformed, Answered, &what)),
        )
        .await;
    }
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    check(upgrade, malformed("the answer is HTTP 101, which is none")).await;
    // Of a number that ends with its connection nobody knows whether it was longer.
    let whole =
        "nobody knows whether the answer is whole: it has no Content-Length and is not chunked";
    check("HTTP/1.0 200 OK\r\n\r\n12", malformed(whole)).await;
    check("HTTP/1.1 200 OK\r\n\r\n", malformed(whole)).await;
    check(
        "HTTP/1.0 200 OK\r\n\r\n{\"a\": ",
        malformed("the answer is not JSON at line 1, column 5"),
    )
    .await;
}

#[tokio::test]
async fn what_is_not_http_is_said_to_be_none() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        "\0\0\0\x04\0\0\0\0\0\0\0\0\0",
    ] {
        let mut by_hand = ByHand::start().await;
        let reached = reach_by_hand(&by_hand);
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        by_hand.asked().await.say(answer).await;
        let failure = outcome.await.unwrap().unwrap_err();
        assert_eq!(failure.reason, Reason::AnswerMalformed, "{failure}");
        assert_eq!(failure.progress, Progress::Answered, "{failure}");
        assert!(
            failure.detail.starts_with("the answer is not HTTP/1.1"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_head_or_a_body_that_is_too_large_is_refused_as_soon_as_that_is_known() {
    use Progress::Answered;
    let too_large = |reason, detail: &str| (reason, Answered, detail.to_owned());
    let large = too_large(
        Reason::AnswerTooLarge,
        "the answer has more than 4129792 bytes",
    );
    let heads = [
        "HTTP/1.1 200 OK\r\ncontent-length: 4129793\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ];
    for head in heads {
        let mut by_hand = ByHand::start().await;
        let reached = reach_by_hand(&by_hand);
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        let mut asked = by_hand.asked().await;
        asked.say(head).await;
        // Whatever more there is, it has an end for the instance too.
        let piece = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
        asked.say_without_end(&piece).await;
        let failure = outcome.await.unwrap().unwrap_err();
        assert_eq!(
            (failure.reason, failure.progress, failure.detail.to_string()),
            large,
            "{head}"
        );
        assert_eq!(reached.memory.held(), 0);
    }
    let mut by_hand = ByHand::start().await;
    let reached = reach_by_hand(&by_hand);
    let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
    let mut asked = by_hand.asked().await;
    asked.say("HTTP/1.1 200 OK\r\n").await;
    asked
        .say_without_end(format!("x: {}\r\n", "y".repeat(1000)).as_bytes())
        .await;
    let failure = outcome.await.unwrap().unwrap_err();
    assert_eq!(failure.reason, Reason::AnswerMalformed, "{failure}");
}

#[tokio::test]
async fn a_status_of_the_instance_is_its_own_word_and_proves_nothing() {
    let failed = |status, detail: &'static str| {
        Err((
            Reason::InstanceFailed(status),
            Progress::MayHaveBegun,
            detail,
        ))
    };
    check(
        &answered("503 Busy", ""),
        failed(Status::Unavailable, "UNAVAILABLE: HTTP 503"),
    )
    .await;
    let own = r#"{"error":{"code":"not_found","message":"no such model"}}"#;
    check(
        &answered("400 Bad Request", own),
        failed(Status::NotFound, "NOT_FOUND: HTTP 400: no such model"),
    )
    .await;
    // The words may break off; the status has come.
    let cut = "HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nout of ";
    check(cut, failed(Status::Internal, "INTERNAL: HTTP 500: out of")).await;
    check(
        &answered("504 Late", ""),
        failed(Status::DeadlineExceeded, "DEADLINE_EXCEEDED: HTTP 504"),
    )
    .await;
}

#[tokio::test]
async fn an_instance_says_when_to_come_again() {
    use orchestrator::domain::retry::Pushback;
    let date = "date: Wed, 21 Oct 2015 07:28:00 GMT\r\nretry-after: Wed, 21 Oct 2015 07:28:09 GMT";
    for (header, expected) in [
        (
            "retry-after: 7",
            Some(Pushback::Wait(Duration::from_secs(7))),
        ),
        (date, Some(Pushback::Wait(Duration::from_secs(9)))),
        (
            "grpc-retry-pushback-ms: -1\r\nretry-after: 7",
            Some(Pushback::Stop),
        ),
        ("x: y", None),
    ] {
        let mut by_hand = ByHand::start().await;
        let reached = reach_by_hand(&by_hand);
        let outcome = tokio::spawn(told(reached.instance.execute(call("1"))));
        let asked = by_hand.asked().await;
        asked
            .answer(&answered(&format!("429 Slow down\r\n{header}"), ""))
            .await;
        let failure = outcome.await.unwrap().unwrap_err();
        assert_eq!(
            failure.reason,
            Reason::InstanceFailed(Status::ResourceExhausted)
        );
        assert_eq!(failure.pushback, expected, "{header}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_lost() {
    let lost = |progress, detail: &'static str| Err((Reason::InstanceLost, progress, detail));
    let before = "the instance closed the connection before it answered";
    check("", lost(Progress::MayHaveBegun, before)).await;
    check(
        "HTTP/1.1 200 OK\r\ncontent-le",
        lost(Progress::MayHaveBegun, before),
    )
    .await;
    let within = "the connection to the instance broke within its answer";
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1,",
        lost(Progress::Answered, within),
    )
    .await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1]\r\n";
    check(chunked, lost(Progress::Answered, within)).await;
}
