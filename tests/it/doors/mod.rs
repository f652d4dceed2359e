//! The same call has the same end by every door: gRPC, REST, and the program on the command line. One table of calls
//! that are good, bad, slow, down or cancelled.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use orchestrator::ingress::access::Scope;
use orchestrator::ingress::caller::{self, Key};
use orchestrator::ingress::methods::Timeouts;
use orchestrator::proto::orchestrator::completion;
use orchestrator::proto::orchestrator::orchestrator_service_client::OrchestratorServiceClient;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::Code;

use crate::stage::instance::{Act, Instance};
use crate::stage::program;
use crate::stage::{App, Config, KEY, channel, config, planned, start};

mod command;
mod grpc;
mod rest;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Route,
    Fanout,
    Aggregate,
}

/// A call, and how it must end.
#[derive(Debug, Clone)]
struct Case {
    verb: Verb,
    targets: Vec<String>,
    payload: &'static str,
    /// It ends when the server says so: a clock of the caller's own would be one more thing to race with.
    is_slow: bool,
    per_try_ms: u64,
    attempts_max: u32,
    idempotent: bool,
    hash_key: &'static str,
    rule: Option<completion::Rule>,
    failures_max: Option<u32>,
    key: Option<&'static str>,
    /// The command line sees by itself that it cannot be meant.
    is_refused_here: bool,
    code: &'static str,
    http: u16,
    exit: i32,
    /// Instance and kind of each try of a Route, instance and outcome of each target of a Fanout.
    told: String,
}

/// What the server gives a call that is slow: long enough for those beside it that are not.
const SLOW: Duration = Duration::from_secs(2);

fn call(verb: Verb, targets: &str) -> Case {
    Case {
        verb,
        targets: targets.split_whitespace().map(str::to_owned).collect(),
        payload: r#"{"data":"task"}"#,
        is_slow: false,
        per_try_ms: 0,
        attempts_max: 0,
        idempotent: false,
        hash_key: "",
        rule: None,
        failures_max: None,
        key: Some(KEY),
        is_refused_here: false,
        code: "",
        http: 200,
        exit: 0,
        told: String::new(),
    }
}

fn route(targets: &str) -> Case {
    call(Verb::Route, targets)
}

fn fanout(targets: &str) -> Case {
    call(Verb::Fanout, targets)
}

fn aggregate(targets: &str) -> Case {
    call(Verb::Aggregate, targets)
}

impl Case {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn slow(self) -> Self {
        self.with(|it| it.is_slow = true)
    }

    fn idempotent(self, attempts_max: u32) -> Self {
        self.with(|it| (it.idempotent, it.attempts_max) = (true, attempts_max))
    }

    fn rule(self, rule: completion::Rule) -> Self {
        self.with(|it| it.rule = Some(rule))
    }

    fn refused_here(self) -> Self {
        self.with(|it| it.is_refused_here = true)
    }

    fn ends(self, code: &'static str, http: u16, exit: i32, told: &str) -> Self {
        self.with(|it| (it.code, it.http, it.exit, it.told) = (code, http, exit, told.to_owned()))
    }
}

/// What an instance said, how it is told over HTTP, and the exit code.
const SAID: [(u16, i32); 16] = [
    (503, 4),
    (502, 1),
    (400, 1),
    (504, 6),
    (404, 1),
    (409, 1),
    (403, 1),
    (429, 1),
    (400, 1),
    (409, 1),
    (400, 1),
    (501, 1),
    (502, 1),
    (503, 4),
    (502, 1),
    (502, 1),
];

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use completion::Rule::{First, Majority, Quorum};
    let said = SAID.into_iter().zip(1..).map(|((http, exit), code)| {
        let id = format!("i-{code}");
        route(&id).ends("instance_failed", http, exit, &format!("{id} first"))
    });
    let mut cases: Vec<_> = said.collect();
    cases.extend([
        // Good.
        route("good").ends("", 200, 0, "good first"),
        route("good late").ends("", 200, 0, "good first"),
        route("g*").ends("target_invalid", 400, 2, ""),
        route("late").ends("", 200, 0, "late first"),
        route("good").with(|it| it.payload = "null").ends("", 200, 0, "good first"),
        route("good late").with(|it| it.hash_key = "k").ends("", 200, 0, "?"),
        fanout("good late").ends("", 200, 0, "good answered, late answered"),
        aggregate("good late good").ends("", 200, 0, "good answered, late answered"),
        aggregate("good late").rule(First(2)).ends("", 200, 0, "good answered, late answered"),
        // Bad.
        route("i-14 good").idempotent(2).ends("", 200, 0, "i-14 first, good retry"),
        route("i-14 good").ends("instance_failed", 503, 4, "i-14 first"),
        route("i-14 i-8 i-13").idempotent(3).ends("instance_failed", 502, 1, "i-14 first, i-8 retry, i-13 retry"),
        route("i-14").idempotent(2).ends("instance_failed", 503, 4, "i-14 first, i-14 retry"),
        route("i-3 good").idempotent(2).ends("instance_failed", 400, 1, "i-3 first"),
        route("nobody").ends("target_unknown", 404, 1, ""),
        route("i-1-").ends("target_invalid", 400, 2, ""),
        route("").refused_here().ends("target_invalid", 400, 2, ""),
        route("good").idempotent(9).refused_here().ends("argument_invalid", 400, 2, ""),
        route("good").with(|it| it.key = Some("wrong")).ends("key_invalid", 401, 3, ""),
        route("good").with(|it| it.key = None).ends("key_missing", 401, 3, ""),
        route("good").with(|it| it.key = Some("narrow")).ends("scope_missing", 403, 3, ""),
        fanout("good").with(|it| it.key = Some("narrow")).ends("scope_missing", 403, 3, ""),
        fanout("good nobody").ends("target_unknown", 404, 1, ""),
        fanout("good i-5").ends("", 200, 5, "good answered, i-5 failed"),
        aggregate("good i-5").ends("", 200, 5, "good answered, i-5 failed"),
        aggregate("good i-5").rule(First(2)).ends("completion_unmet", 503, 5, "good answered, i-5 failed"),
        aggregate("good i-5").rule(Quorum(3)).ends("argument_invalid", 400, 2, ""),
        // Slow.
        route("silent").slow().ends("deadline_exceeded", 504, 6, "silent first"),
        route("silent good").slow().ends("deadline_exceeded", 504, 6, "silent first"),
        route("silent good").idempotent(2).with(|it| it.per_try_ms = 1000).ends("", 200, 0, "silent first, good retry"),
        fanout("good silent").slow().ends("", 200, 5, "good answered, silent timed_out"),
        aggregate("good i-5 silent gone").slow()
            .ends("", 200, 5, "gone failed, good answered, i-5 failed, silent timed_out"),
        aggregate("good silent").slow().rule(First(2))
            .ends("completion_unmet", 504, 5, "good answered, silent timed_out"),
        // Down.
        route("gone").ends("instance_down", 503, 4, ""),
        route("gone good").ends("", 200, 0, "good first"),
        route("gone lost").ends("no_instance", 503, 4, ""),
        fanout("gone").ends("", 200, 5, "gone failed"),
        aggregate("gone good").rule(Majority(true)).ends("completion_unmet", 503, 5, "gone failed, good skipped"),
        // Cancelled, by a rule that has been met or cannot be.
        aggregate("good silent").rule(First(1)).ends("", 200, 0, "good answered, silent cancelled"),
        fanout("good silent").rule(First(1)).ends("", 200, 0, "good answered, silent cancelled"),
        aggregate("gone silent").rule(Quorum(2)).ends("completion_unmet", 503, 5, "gone failed, silent skipped"),
        aggregate("gone silent").with(|it| it.failures_max = Some(0))
            .ends("completion_unmet", 503, 5, "gone failed, silent skipped"),
    ]);
    cases
}

/// How a call has ended. What a door does not tell is `None`.
#[derive(Debug, PartialEq, Eq)]
struct End {
    code: String,
    told: String,
    retryable: Option<bool>,
    instance: Option<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// In order of name: partial results come as they come.
fn outcomes(mut told: Vec<String>) -> String {
    told.sort_unstable();
    told.join(", ")
}

fn tries(attempts: &Value) -> String {
    let each = attempts.as_array().into_iter().flatten();
    let each = each.map(|it| format!("{} {}", text(&it["instance"]), text(&it["kind"])));
    each.collect::<Vec<_>>().join(", ")
}

/// A Route as JSON, by REST or on standard output.
fn routed(told: &Value) -> End {
    let error = &told["error"];
    if error.is_null() {
        let told_tries = tries(&told["attempts"]);
        let last = told_tries.rsplit(", ").next().unwrap();
        let instance = text(&told["instance"]);
        assert!(last.starts_with(&format!("{instance} ")), "{told}");
        return End {
            code: String::new(),
            told: told_tries,
            retryable: None,
            instance: Some(instance),
        };
    }
    End {
        code: text(&error["code"]),
        told: tries(&error["attempts"]),
        retryable: error["retryable"].as_bool(),
        instance: error["instance"].as_str().map(str::to_owned),
    }
}

/// Everybody who is in the table, and two who hand work to them: one for what is slow.
struct House {
    app: App,
    slow: App,
    _running: Vec<Instance>,
}

async fn house() -> House {
    let acts = (1..=16).map(|code| (format!("i-{code}"), Act::Fail(Code::from_i32(code))));
    let acts = acts.chain([
        ("good".to_owned(), Act::Echo),
        ("late".to_owned(), Act::EchoAfter(Duration::from_millis(50))),
        ("silent".to_owned(), Act::Silent),
        ("gone".to_owned(), Act::Echo),
        ("lost".to_owned(), Act::Echo),
    ]);
    let (mut running, mut instances) = (Vec::new(), Vec::new());
    for (id, act) in acts {
        let mut instance = Instance::start(act).await;
        instances.push(planned(&id, instance.address));
        if id == "gone" || id == "lost" {
            instance.kill();
        }
        running.push(instance);
    }
    let with = |timeouts: Timeouts| {
        let mut config = Config {
            instances: instances.clone(),
            timeouts,
            ..config()
        };
        // Those that fail are asked by every door.
        config.health.ejection.failures_in_a_row = 1000;
        config.health.ejection.success_percent_min = 0;
        config.keys.keys.push(Key {
            hash: caller::hash(b"narrow"),
            scopes: vec![Scope::Health],
            ..Key::with_all_rights("narrow", "narrow")
        });
        config
    };
    let slow = Timeouts {
        route: SLOW,
        fanout: SLOW,
        ..Timeouts::default()
    };
    House {
        app: start(with(Timeouts::default())).await,
        slow: start(with(slow)).await,
        _running: running,
    }
}

/// The same call by every door, all at once; what is wrong with how it ends.
async fn judge(case: Case, address: SocketAddr) -> Vec<String> {
    let doors = tokio::join!(
        grpc::end(&case, address),
        rest::end(&case, address),
        command::end(&case, address)
    );
    let ((by_grpc, grpc_http), (by_rest, rest_http), (by_command, exit)) = doors;
    let mut complaints = Vec::new();
    let mut check = |is_good: bool, what: String| {
        if !is_good {
            let words = command::words(&case).join(" ");
            complaints.push(format!("{words}\n    {what}"));
        }
    };
    let is_expected = by_grpc.code == case.code && (case.told == "?" || by_grpc.told == case.told);
    check(
        is_expected,
        format!("expected {} {}, gRPC: {by_grpc:?}", case.code, case.told),
    );
    // Over REST a stream has begun with 200 whatever comes at its end.
    let http = if case.verb == Verb::Fanout && !by_rest.told.is_empty() {
        200
    } else {
        case.http
    };
    check(rest_http == http, format!("REST: {rest_http}, {by_rest:?}"));
    check(
        grpc_http == case.http,
        format!("gRPC: {grpc_http}, {by_grpc:?}"),
    );
    let is_same = by_rest.code == by_grpc.code
        && by_rest.told == by_grpc.told
        && by_rest.retryable == by_grpc.retryable
        && by_rest.instance == by_grpc.instance;
    check(is_same, format!("gRPC: {by_grpc:?}\n    REST: {by_rest:?}"));
    check(
        exit == case.exit,
        format!("the command line ends with {exit}: {by_command:?}"),
    );
    if let Some(by_command) = by_command {
        let is_route = case.verb == Verb::Route;
        let is_same = by_command.code == by_grpc.code
            && by_command.told == by_grpc.told
            && (!is_route || by_command == by_grpc);
        check(
            is_same,
            format!("gRPC: {by_grpc:?}\n    the command line: {by_command:?}"),
        );
    }
    complaints
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_has_the_same_end_by_every_door() {
    let house = house().await;
    let cases = cases();
    assert!(40 <= cases.len());
    let mut complaints = Vec::new();
    let (slow, quick): (Vec<_>, Vec<_>) = cases.into_iter().partition(|it| it.is_slow);
    for case in quick {
        complaints.extend(judge(case, house.app.address()).await);
    }
    // These only wait.
    let slow = slow
        .into_iter()
        .map(|case| judge(case, house.slow.address()));
    let slow = futures_util::future::join_all(slow).await;
    complaints.extend(slow.into_iter().flatten());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_ends_the_call_by_every_door() {
    for case in [route("A"), fanout("A"), aggregate("A")] {
        let instance = Instance::start(Act::Silent).await;
        let app = start(Config {
            instances: vec![planned("A", instance.address)],
            ..config()
        })
        .await;
        let address = app.address();

        let mut client = OrchestratorServiceClient::new(channel(address).await);
        let of = case.clone();
        let calling = tokio::task::spawn(async move {
            if of.verb == Verb::Route {
                drop(client.route(grpc::request(&of, grpc::route(&of))).await);
            } else {
                let mut events = client
                    .fanout(grpc::request(&of, grpc::fanout(&of)))
                    .await
                    .unwrap();
                while let Ok(Some(_)) = events.get_mut().message().await {}
            }
        });
        instance.until(|counts| counts.begun == 1).await;
        calling.abort();
        instance.until(|counts| counts.reset == 1).await;

        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&rest::ask(&case).text()).await.unwrap();
        instance.until(|counts| counts.begun == 2).await;
        drop(stream);
        instance.until(|counts| counts.reset == 2).await;

        let mut program = command::program(&case, address);
        let program = program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = program.spawn().unwrap();
        instance.until(|counts| counts.begun == 3).await;
        program::signal(&child, "INT");
        let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
        let output = output.await.unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        let counts = instance.until(|counts| counts.reset == 3).await;
        assert_eq!(counts.answered, 0, "{case:?}");
    }
}
