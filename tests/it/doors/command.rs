//! A call by the program on the command line, and how it ends.

use std::net::SocketAddr;
use std::process::Output;

use orchestrator::proto::orchestrator::completion;
use serde_json::Value;

use super::{Case, End, Verb, outcomes, routed, text};
use crate::stage::program;

pub(super) fn words(case: &Case) -> Vec<String> {
    let (name, flag) = match case.verb {
        Verb::Route => ("route", "--instances"),
        Verb::Fanout | Verb::Aggregate => ("fanout", "--targets"),
    };
    let mut words = vec![name.to_owned(), "--output=json".to_owned()];
    words.push(format!("--payload={}", case.payload));
    if !case.targets.is_empty() {
        words.push(flag.to_owned());
        words.extend(case.targets.clone());
    }
    let mut more = |word: String| words.push(word);
    if case.per_try_ms != 0 {
        more(format!("--per-try-timeout={}ms", case.per_try_ms));
    }
    if case.attempts_max != 0 {
        more(format!("--retry={}", case.attempts_max - 1));
    }
    if case.idempotent {
        more("--idempotent".to_owned());
    }
    match (case.verb, case.hash_key) {
        (Verb::Route, "") => more("--selection=ordered".to_owned()),
        (Verb::Route, key) => {
            more("--selection=hash".to_owned());
            more(format!("--hash-key={key}"));
        }
        (Verb::Aggregate, _) => more("--aggregate=true".to_owned()),
        (Verb::Fanout, _) => {}
    }
    match case.rule {
        None => {}
        Some(completion::Rule::First(count)) => more(format!("--first={count}")),
        Some(completion::Rule::Quorum(count)) => more(format!("--quorum={count}")),
        Some(completion::Rule::Majority(_)) => more("--majority".to_owned()),
    }
    if let Some(count) = case.failures_max {
        more(format!("--failures-max={count}"));
    }
    words
}

pub(super) fn program(case: &Case, address: SocketAddr) -> std::process::Command {
    let words = words(case);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut command = program::orchestrator(&words);
    command.env("ORCHESTRATOR_SERVER", address.to_string());
    match case.key {
        Some(key) => command.env("ORCHESTRATOR_API_KEY", key),
        None => command.env_remove("ORCHESTRATOR_API_KEY"),
    };
    command
}

pub(super) async fn end(case: &Case, address: SocketAddr) -> (Option<End>, i32) {
    let mut program = program(case, address);
    let output = tokio::task::spawn_blocking(move || program.output().unwrap());
    let output = output.await.unwrap();
    let exit = output.status.code().unwrap();
    if case.is_refused_here {
        assert!(output.stdout.is_empty(), "{output:?}");
        return (None, exit);
    }
    (Some(told(case, &output)), exit)
}

fn told(case: &Case, output: &Output) -> End {
    // Nothing where the call was refused, and it was for many or nobody was there to refuse it.
    let whole = if output.stdout.is_empty() {
        Value::Null
    } else {
        program::json_of(output)
    };
    if case.verb == Verb::Route && whole.is_object() {
        return routed(&whole);
    }
    let results = if whole.is_array() {
        &whole
    } else {
        &whole["partials"]
    };
    let each = results.as_array().into_iter().flatten();
    let each = each.map(|it| format!("{} {}", text(&it["instance"]), text(&it["outcome"])));
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = errors.lines().find_map(|line| line.strip_prefix("error: "));
    let code = code.map(|what| what.split([':', ' ']).next().unwrap().to_lowercase());
    End {
        code: code.unwrap_or_default(),
        told: outcomes(each.collect()),
        retryable: None,
        instance: None,
    }
}
