//! What a caller gets, as the history keeps it: what is decided, without words for people.

use std::future::Future;
use std::time::Duration;

use orchestrator::proto::orchestrator as proto;
use proto::fanout_response::Event;
use tokio::time::sleep;
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::history::{End, Part, Stream, Sum, Tried, Verdict};
use crate::lie::Lie;
use crate::payload;

pub(crate) fn route(
    answered: Result<Response<proto::RouteResponse>, Status>,
    lie: Option<Lie>,
) -> End {
    match answered {
        Ok(response) => {
            let response = response.into_inner();
            let mut text = payload::read(response.payload.as_deref());
            if lie == Some(Lie::MixesUpAnswers) {
                text.insert(0, '1');
            }
            End::Answered {
                by: response.instance,
                payload: text,
                attempts: told(response.attempts, lie),
                deduplicated: response.deduplicated && lie != Some(Lie::HidesEarlierCalls),
                panic: response.panic_mode,
            }
        }
        Err(status) => match reason(&status) {
            None => End::Broken,
            Some(reason) => End::Failed {
                code: code(&status),
                reason,
                attempts: told(failed_attempts(&status), lie),
                pushback: pushback(&status, lie),
                too_late: status.message().contains("would come too late"),
            },
        },
    }
}

/// Reads a stream to its end; whatever has come stands in `stream` even when this is dropped.
pub(crate) async fn fan_out(
    calling: impl Future<Output = Result<Response<Streaming<proto::FanoutResponse>>, Status>>,
    stream: &mut Stream,
    reads_for: Duration,
    lie: Option<Lie>,
) -> Verdict {
    let mut events = match calling.await {
        Ok(response) => response.into_inner(),
        Err(status) => return verdict(&status, lie),
    };
    loop {
        match events.message().await {
            Ok(None) => return Verdict::Ok,
            Ok(Some(message)) => take(stream, message.event.expect("an event"), lie),
            Err(status) => return verdict(&status, lie),
        }
        if !reads_for.is_zero() {
            sleep(reads_for).await;
        }
    }
}

fn take(stream: &mut Stream, event: Event, lie: Option<Lie>) {
    match event {
        Event::Started(started) => {
            if stream.roster.is_some() || !stream.partials.is_empty() {
                stream.misplaced.push("a second beginning".to_owned());
            }
            stream.roster = Some(started.roster);
        }
        Event::Partial(partial) => {
            if stream.roster.is_none() || stream.summary.is_some() {
                stream.misplaced.push("an outcome".to_owned());
            }
            let part = part(partial, lie);
            if lie == Some(Lie::HearsTwice) {
                stream.partials.push(part.clone());
            }
            stream.partials.push(part);
        }
        Event::Summary(summary) => {
            if stream.roster.is_none() || stream.summary.is_some() {
                stream.misplaced.push("a summary".to_owned());
            }
            let stop = summary.stop_reason().as_str_name().to_owned();
            let counts = summary.counts.unwrap_or_default();
            stream.summary = Some(Sum {
                counts: [
                    counts.answered,
                    counts.failed,
                    counts.timed_out,
                    counts.cancelled,
                    counts.skipped,
                ],
                missing: summary.missing,
                aggregate: summary
                    .aggregate
                    .into_iter()
                    .map(|partial| part(partial, lie))
                    .collect(),
                stop,
            });
        }
    }
}

fn part(partial: proto::Partial, lie: Option<Lie>) -> Part {
    Part {
        outcome: partial.outcome().as_str_name().to_owned(),
        instance: partial.instance,
        payload: partial.payload.map(|encoded| payload::read(Some(&encoded))),
        failure: partial.failure.map(|failure| failure.reason),
        attempts: told(partial.attempts, lie),
    }
}

fn told(attempts: Vec<proto::Attempt>, lie: Option<Lie>) -> Vec<Tried> {
    let hidden = usize::from(lie == Some(Lie::HidesTries));
    let tried = |attempt: proto::Attempt| Tried {
        kind: attempt.kind().as_str_name().to_owned(),
        offset: duration(attempt.offset),
        elapsed: duration(attempt.elapsed),
        instance: attempt.instance,
        failure: attempt.failure.map(|failure| failure.reason),
    };
    let mut told: Vec<Tried> = attempts.into_iter().skip(hidden).map(tried).collect();
    if let (Some(Lie::NamesOneInstance), [first, others @ ..]) = (lie, &mut told[..]) {
        for other in others {
            other.instance.clone_from(&first.instance);
        }
    }
    told
}

fn duration(told: Option<prost_types::Duration>) -> Duration {
    told.and_then(|told| told.try_into().ok())
        .unwrap_or_default()
}

fn pushback(status: &Status, lie: Option<Lie>) -> Option<i64> {
    let value = status.metadata().get("grpc-retry-pushback-ms")?;
    let heard = lie != Some(Lie::HidesPushback);
    value.to_str().ok()?.parse().ok().filter(|_| heard)
}

fn verdict(status: &Status, lie: Option<Lie>) -> Verdict {
    match reason(status) {
        None => Verdict::Broken,
        Some(reason) => Verdict::Failed {
            code: code(status),
            reason,
            pushback: pushback(status, lie),
        },
    }
}

fn code(status: &Status) -> String {
    format!("{:?}", status.code())
}

/// The orchestrator's own word; without it a status comes from the caller's side of a broken connection.
pub(crate) fn reason(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone());
    // A status that came over the wire without a reason would be a bug of the orchestrator.
    let unnamed = reason.is_none()
        && status.code() != Code::Unknown
        && std::error::Error::source(status).is_none();
    if unnamed {
        return Some(format!("no reason: {status:?}"));
    }
    reason
}

fn failed_attempts(status: &Status) -> Vec<proto::Attempt> {
    use prost::Message as _;
    let whole = tonic_types::pb::Status::decode(status.details()).unwrap_or_default();
    let detail = whole
        .details
        .into_iter()
        .find(|detail| detail.type_url.ends_with("FailedAttempts"));
    detail.map_or_else(Vec::new, |detail| {
        let decoded = proto::FailedAttempts::decode(&detail.value[..]);
        decoded.expect("FailedAttempts").attempts
    })
}
