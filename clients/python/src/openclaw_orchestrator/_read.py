"""Messages of the contract → plain values."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from google.protobuf import timestamp_pb2

from . import _models as models
from ._json import from_value
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb

OUTCOMES = ("answered", "failed", "timed_out", "cancelled", "skipped")


def word(enum: object, prefix: str, number: int) -> str:
    """The short, lower-case name of an enum's value; its number when this package does not know it."""
    try:
        name: str = enum.Name(number)  # type: ignore[attr-defined]
    except ValueError:
        return str(number)
    return name.removeprefix(prefix).lower()


def time(stamp: timestamp_pb2.Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=timezone.utc)


def failure(message: pb.Failure) -> models.Failure:
    return models.Failure(message.reason, message.message, message.instance or None, message.retryable)


def attempt(message: pb.Attempt) -> models.Attempt:
    return models.Attempt(
        instance=message.instance,
        kind=word(pb.AttemptKind, "ATTEMPT_KIND_", message.kind),
        failure=failure(message.failure) if message.HasField("failure") else None,
        offset=timedelta(microseconds=message.offset.ToMicroseconds()),
        elapsed=timedelta(microseconds=message.elapsed.ToMicroseconds()),
    )


def answer(message: pb.RouteResponse) -> models.Answer:
    return models.Answer(
        instance=message.instance,
        payload=from_value(message.payload),
        attempts=tuple(attempt(one) for one in message.attempts),
        deduplicated=message.deduplicated,
        panic_mode=message.panic_mode,
    )


def partial(message: pb.Partial) -> models.Partial:
    return models.Partial(
        instance=message.instance,
        outcome=word(pb.Outcome, "OUTCOME_", message.outcome),
        payload=from_value(message.payload),
        failure=failure(message.failure) if message.HasField("failure") else None,
        attempts=tuple(attempt(one) for one in message.attempts),
    )


def event(message: pb.FanoutResponse) -> models.Event | None:
    """Nothing for an event that this package does not know."""
    match message.WhichOneof("event"):
        case "started":
            return models.Started(tuple(message.started.roster), message.started.panic_mode)
        case "partial":
            return partial(message.partial)
        case "summary":
            summary = message.summary
            return models.Summary(
                counts={outcome: getattr(summary.counts, outcome) for outcome in OUTCOMES},
                stop_reason=word(pb.StopReason, "STOP_REASON_", summary.stop_reason),
                missing=tuple(summary.missing),
                aggregate=tuple(partial(one) for one in summary.aggregate),
            )
    return None


def health(message: pb.InstanceHealth) -> models.Health:
    return models.Health(
        instance=message.instance,
        state=word(pb.HealthState, "HEALTH_STATE_", message.state),
        reason=message.reason,
        since=time(message.since),
        calls_outstanding=message.calls_outstanding,
        admin=word(pb.AdminState, "ADMIN_STATE_", message.admin),
        probed=word(pb.ProbedState, "PROBED_STATE_", message.probed),
        observed=word(pb.ObservedState, "OBSERVED_STATE_", message.observed),
        drained=message.drained,
    )


def health_change(message: pb.HealthWatchResponse) -> models.HealthChange:
    return models.HealthChange(tuple(health(one) for one in message.instances), tuple(message.removed))


def listed(message: pb.ListedInstance) -> models.InstanceInfo:
    return models.InstanceInfo(
        id=message.instance.id,
        address=message.instance.address,
        labels=dict(message.instance.labels),
        weight=message.instance.weight,
        origin=word(pb.InstanceOrigin, "INSTANCE_ORIGIN_", message.origin),
        expire_time=time(message.expire_time) if message.HasField("expire_time") else None,
        health=health(message.health),
    )


def session(message: pb.Session) -> models.SessionInfo:
    closed = message.close_reason != pb.CLOSE_REASON_UNSPECIFIED
    return models.SessionInfo(
        id=message.id,
        instance=message.instance,
        epoch=message.epoch,
        state=word(pb.SessionState, "SESSION_STATE_", message.state),
        close_reason=word(pb.CloseReason, "CLOSE_REASON_", message.close_reason) if closed else None,
        labels=dict(message.labels),
        create_time=time(message.create_time) if message.HasField("create_time") else None,
        expire_time=time(message.expire_time) if message.HasField("expire_time") else None,
        attached=message.attached,
    )


def spawned(message: pb.SessionSpawnResponse) -> models.Spawned:
    return models.Spawned(session(message.session), message.token, message.deduplicated)


def reply(message: pb.SessionPostResponse) -> models.Reply:
    return models.Reply(
        position=message.position,
        payload=from_value(message.payload),
        replied=message.reply_seq != 0,
        deduplicated=message.deduplicated,
    )


def message(data: pb.SessionServerData) -> models.Message:
    return models.Message(
        seq=data.seq,
        payload=from_value(data.payload),
        in_reply_to=data.in_reply_to or None,
        redelivered=data.redelivered,
    )
