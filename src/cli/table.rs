//! Answers as tables for people. Nothing that came from elsewhere can steer the terminal.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use super::json_output::{NULL, attempt_kind, health_state, origin, outcome, stop_reason};
use super::output::{Look, Paint};
use super::plain;
use super::words::{admin_state, exclusion, fallback, observed_state, probed_state, selection};
use crate::payload_json;
use crate::proto::orchestrator as proto;

/// Characters of one answer or message in a table; `--output json` has all of it.
const TEXT_CHARS_MAX: usize = 200;

/// Who answered what.
pub(super) fn route(response: &proto::RouteResponse, look: Look) -> String {
    let mut text = format!("{} answered", plain::text(&response.instance));
    let answered = response.attempts.iter().find(|one| one.failure.is_none());
    if let Some(answered) = answered {
        let sum = |a: Option<prost_types::Duration>| {
            a.and_then(|a| Duration::try_from(a).ok())
                .unwrap_or_default()
        };
        text += &format!(
            " in {}",
            plain::duration(sum(answered.offset) + sum(answered.elapsed))
        );
    }
    if response.deduplicated {
        text += ", to an earlier request with this key";
    }
    text.push('\n');
    if response.attempts.len() > 1 {
        let mut table = table(&["instance", "try", "took", "failure"], look);
        for attempt in &response.attempts {
            table.add_row([
                plain::text(&attempt.instance),
                attempt_kind(attempt).replace('_', " "),
                plain::duration_wire(attempt.elapsed),
                attempt.failure.as_ref().map(failure).unwrap_or_default(),
            ]);
        }
        text += &rendered(table);
    }
    if response.panic_mode {
        text += "panic mode: few candidates are well, and one that failed its calls may have answered\n";
    }
    let payload = response.payload.as_deref().unwrap_or(NULL);
    let payload = payload_json::to_json_pretty(payload).unwrap_or_else(|bad| bad.to_string());
    let lines = payload.lines().map(|line| plain::text(line) + "\n");
    text.extend(lines);
    text
}

/// One row for each target, in roster order, and what became of all. Of two partials the later one counts.
pub(super) fn fanout(
    roster: &[String],
    partials: &[&proto::Partial],
    summary: Option<&proto::Summary>,
    look: Look,
) -> String {
    let by_instance: HashMap<&str, &proto::Partial> = partials
        .iter()
        .map(|partial| (partial.instance.as_str(), *partial))
        .collect();
    let mut table = table(&["instance", "outcome", "took", "answer"], look);
    for instance in roster {
        let partial = by_instance.get(instance.as_str());
        table.add_row([
            Cell::new(plain::text(instance)),
            partial.map_or_else(|| Cell::new("unknown"), |partial| outcome_cell(partial)),
            Cell::new(partial.map(|partial| took(partial)).unwrap_or_default()),
            Cell::new(partial.map(|partial| answer(partial)).unwrap_or_default()),
        ]);
    }
    let mut text = rendered(table);
    if let Some(summary) = summary {
        text += &totals(summary);
    }
    text
}

/// Who is well, and why not.
pub(super) fn health(fleet: &[proto::InstanceHealth], look: Look, now: SystemTime) -> String {
    let header = [
        "instance",
        "state",
        "since",
        "probe",
        "outstanding",
        "reason",
    ];
    let mut table = table(&header, look);
    for health in fleet {
        table.add_row([
            Cell::new(plain::text(&health.instance)),
            state_cell(health),
            Cell::new(plain::age(health.since, now)),
            Cell::new(plain::duration_wire(health.last_probe_latency)),
            Cell::new(health.calls_outstanding),
            Cell::new(message(&health.reason)),
        ]);
    }
    rendered(table)
}

/// The three axes behind the word, for those who want to know.
pub(super) fn health_axes(fleet: &[proto::InstanceHealth], look: Look, now: SystemTime) -> String {
    let header = [
        "instance",
        "state",
        "since",
        "admin",
        "probed",
        "calls",
        "outstanding",
        "reason",
    ];
    let mut table = table(&header, look);
    for health in fleet {
        table.add_row([
            Cell::new(plain::text(&health.instance)),
            state_cell(health),
            Cell::new(plain::age(health.since, now)),
            Cell::new(admin_state(health)),
            Cell::new(probed_state(health)),
            Cell::new(observed_state(health)),
            Cell::new(outstanding(health)),
            Cell::new(message(&health.reason)),
        ]);
    }
    rendered(table)
}

/// What a call would do.
pub(super) fn explain(explained: &proto::ExplainResponse, look: Look) -> String {
    let header = [
        "instance",
        "asked",
        "state",
        "outstanding",
        "weight",
        "latency",
        "share",
        "why",
    ];
    let mut table = table(&header, look);
    for instance in &explained.instances {
        let health = instance.health.as_ref();
        table.add_row([
            Cell::new(plain::text(&instance.instance)),
            asked_cell(instance),
            health.map_or_else(|| Cell::new(""), state_cell),
            Cell::new(health.map(outstanding).unwrap_or_default()),
            Cell::new(health.map_or_else(String::new, |_| instance.weight.to_string())),
            Cell::new(plain::duration_wire(instance.latency)),
            Cell::new(
                health.map_or_else(String::new, |_| format!("{:.0}%", instance.warmth * 100.0)),
            ),
            Cell::new(message(&instance.reason)),
        ]);
    }
    let mut text = rendered(table);
    if explained.panic_mode {
        text += "panic mode: so few are well that those that failed their calls get work too\n";
    }
    if let Some(policy) = &explained.policy {
        text += &format!(
            "{} for the call, {} of them for instances; {} tries{}{}{}{}\n",
            plain::duration_wire(policy.timeout),
            plain::duration_wire(policy.work_time),
            policy.attempts_max,
            named("selection", selection(policy)),
            named("fallback", fallback(policy)),
            named("each within", plain::duration_wire(policy.per_try_timeout)),
            if policy.idempotent {
                "; idempotent"
            } else {
                ""
            },
        );
    }
    text
}

fn named(name: &str, value: String) -> String {
    if value.is_empty() {
        return value;
    }
    format!("; {name} {}", value.replace('_', " "))
}

fn asked_cell(instance: &proto::ExplainedInstance) -> Cell {
    let exclusion = exclusion(instance);
    match (exclusion.as_str(), instance.fallback) {
        ("none", true) => Cell::new("fallback").fg(Color::DarkYellow),
        ("none", false) => Cell::new("yes").fg(Color::DarkGreen),
        (excluded, _) => Cell::new(excluded.replace('_', " ")).fg(Color::DarkRed),
    }
}

fn outstanding(health: &proto::InstanceHealth) -> String {
    if health.drained {
        return "drained".to_owned();
    }
    match health.sessions_open {
        0 => health.calls_outstanding.to_string(),
        sessions => format!("{} and {sessions} sessions", health.calls_outstanding),
    }
}

/// One line of `health --watch`.
pub(super) fn health_change(health: &proto::InstanceHealth, now: SystemTime) -> String {
    let mut line = format!(
        "{}  {}  {}",
        humantime::format_rfc3339_seconds(now),
        plain::text(&health.instance),
        health_state(health)
    );
    if !health.reason.is_empty() {
        line += &format!("  {}", message(&health.reason));
    }
    line + "\n"
}

/// One line of `health --watch` for an instance that has left.
pub(super) fn health_removed(instance: &str, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now);
    format!("{time}  {}  removed\n", plain::text(instance))
}

/// The fleet.
pub(super) fn instances(fleet: &[proto::ListedInstance], look: Look, now: SystemTime) -> String {
    let header = [
        "id", "state", "address", "weight", "origin", "expires", "labels",
    ];
    let mut table = table(&header, look);
    for listed in fleet {
        let Some(instance) = &listed.instance else {
            continue;
        };
        let mut labels: Vec<String> = instance
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        labels.sort_unstable();
        table.add_row([
            Cell::new(plain::text(&instance.id)),
            listed
                .health
                .as_ref()
                .map_or_else(|| Cell::new(""), state_cell),
            Cell::new(message(&instance.address)),
            Cell::new(instance.weight.max(1)),
            Cell::new(origin(listed)),
            Cell::new(plain::until(listed.expire_time, now)),
            Cell::new(message(&labels.join(" "))),
        ]);
    }
    rendered(table)
}

fn table(header: &[&str], look: Look) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(look.width)
        .force_no_tty()
        .set_header(header.iter().map(|word| word.to_uppercase()));
    match look.paint {
        Paint::Colours => table.enforce_styling(),
        Paint::Plain => &mut table,
    };
    table
}

fn rendered(mut table: Table) -> String {
    // The next column is two spaces away, and nothing stands before the first.
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

fn state_cell(health: &proto::InstanceHealth) -> Cell {
    let cell = Cell::new(health_state(health));
    match proto::HealthState::try_from(health.state) {
        Ok(proto::HealthState::Healthy) => cell.fg(Color::DarkGreen),
        Ok(proto::HealthState::Down) => cell.fg(Color::DarkRed),
        Ok(
            proto::HealthState::Unknown
            | proto::HealthState::Starting
            | proto::HealthState::Busy
            | proto::HealthState::Draining
            | proto::HealthState::Unspecified,
        )
        | Err(_) => cell.fg(Color::DarkYellow),
    }
}

fn outcome_cell(partial: &proto::Partial) -> Cell {
    let cell = Cell::new(outcome(partial).replace('_', " "));
    match proto::Outcome::try_from(partial.outcome) {
        Ok(proto::Outcome::Answered) => cell.fg(Color::DarkGreen),
        Ok(proto::Outcome::Failed | proto::Outcome::TimedOut) => cell.fg(Color::DarkRed),
        Ok(proto::Outcome::Cancelled | proto::Outcome::Skipped | proto::Outcome::Unspecified)
        | Err(_) => cell.fg(Color::DarkYellow),
    }
}

fn took(partial: &proto::Partial) -> String {
    let last = partial.attempts.last();
    plain::duration_wire(last.and_then(|attempt| attempt.elapsed))
}

fn answer(partial: &proto::Partial) -> String {
    match (&partial.failure, &partial.payload) {
        (Some(because), _) => failure(because),
        (None, Some(payload)) => {
            message(&payload_json::to_json(payload).unwrap_or_else(|bad| bad.to_string()))
        }
        (None, None) => String::new(),
    }
}

fn failure(failure: &proto::Failure) -> String {
    message(&format!("{}: {}", failure.reason, failure.message))
}

fn message(text: &str) -> String {
    plain::text(&plain::shortened(text, TEXT_CHARS_MAX))
}

fn totals(summary: &proto::Summary) -> String {
    let counts = summary.counts.unwrap_or_default();
    let words = [
        (counts.answered, "answered"),
        (counts.failed, "failed"),
        (counts.timed_out, "timed out"),
        (counts.cancelled, "cancelled"),
        (counts.skipped, "skipped"),
    ];
    let words: Vec<String> = words
        .iter()
        .filter(|(count, word)| *count > 0 || *word == "answered")
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    format!(
        "{} ({})\n",
        words.join(", "),
        stop_reason(summary).replace('_', " ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    const LOOK: Look = Look {
        width: 100,
        paint: Paint::Plain,
    };

    fn check(found: &str, expected: &[&str]) {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let found: Vec<String> = found.lines().map(words).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_route_shows_its_tries_and_the_whole_answer() {
        check(
            &route(&samples::route(), LOOK),
            &[
                "B answered in 13ms",
                "INSTANCE TRY TOOK FAILURE",
                "A first 1ms INSTANCE_DOWN: connection refused",
                "B transparent retry 12ms",
                "{",
                "\"data\": \"task\",",
                "\"n\": 1",
                "}",
            ],
        );
    }

    #[test]
    fn the_time_is_that_of_the_answer_and_a_repeated_request_is_told() {
        let mut response = samples::route();
        response.attempts.reverse();
        response.deduplicated = true;
        let text = route(&response, LOOK);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "B answered in 13ms, to an earlier request with this key"
        );
    }

    #[test]
    fn a_fanout_has_one_row_for_each_target() {
        let roster = ["B", "A", "C"].map(str::to_owned);
        check(
            &fanout(
                &roster,
                &samples::partials().iter().collect::<Vec<_>>(),
                Some(&samples::summary()),
                LOOK,
            ),
            &[
                "INSTANCE OUTCOME TOOK ANSWER",
                "B timed out DEADLINE_EXCEEDED: no answer in 0.1 s",
                "A answered {\"data\":\"task\",\"n\":1}",
                "C unknown",
                "1 answered, 1 timed out (deadline)",
            ],
        );
    }

    #[test]
    fn health_tells_state_reason_and_age() {
        check(
            &health(&samples::health(), LOOK, samples::now()),
            &[
                "INSTANCE STATE SINCE PROBE OUTSTANDING REASON",
                "B down 3m 20s 0 connection refused",
                "A healthy 2ms 3",
            ],
        );
        check(
            &health_change(&samples::health()[0], samples::now()),
            &["1970-01-01T00:16:40Z B down connection refused"],
        );
    }

    #[test]
    fn the_fleet_is_listed() {
        check(
            &instances(&[samples::listed()], LOOK, samples::now()),
            &[
                "ID STATE ADDRESS WEIGHT ORIGIN EXPIRES LABELS",
                "A healthy grpc://10.0.0.1:7000 2 registered in 20s gpu=a zone=x",
            ],
        );
    }

    #[test]
    fn colour_is_only_used_where_it_is_wanted() {
        let colours = Look {
            paint: Paint::Colours,
            ..LOOK
        };
        let now = samples::now();
        assert!(health(&samples::health(), colours, now).contains('\u{1b}'));
        assert!(!health(&samples::health(), LOOK, now).contains('\u{1b}'));
    }

    #[test]
    fn a_long_answer_is_cut_and_stays_within_the_table() {
        let long = proto::InstanceHealth {
            reason: "x".repeat(10_000) + "\u{1b}[2J",
            ..samples::health().remove(0)
        };
        let text = health(&[long], LOOK, samples::now());
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(text.lines().count() < 8, "{text}");
    }
}
