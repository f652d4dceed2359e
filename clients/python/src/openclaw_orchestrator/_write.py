"""Plain values → messages of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf import duration_pb2

from ._json import Json, to_value
from ._models import Durability, LossPolicy, Policy, Selection
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb

Targets = str | Sequence[str]
"""Target expressions: `"A"`, `"A-H"`, `["A", "C-E"]`, `"*"`."""


def expressions(targets: Targets) -> list[str]:
    return [targets] if isinstance(targets, str) else list(targets)


def duration(seconds: float | None) -> duration_pb2.Duration | None:
    if seconds is None:
        return None
    message = duration_pb2.Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def enum(prefix: str, word: str | None) -> str:
    """The full name of an enum's value; the constructors of messages refuse what is none."""
    return f"{prefix}_{(word or 'unspecified').upper()}"


def policy(policy: Policy | None) -> pb.CallPolicy | None:
    if policy is None:
        return None
    hedge = None
    if policy.hedge is not False:
        hedge = pb.Hedge(delay=None if policy.hedge is True else duration(policy.hedge))
    return pb.CallPolicy(
        per_try_timeout=duration(policy.per_try_timeout),
        attempts_max=policy.attempts_max,
        selection=enum("SELECTION", policy.selection),
        hash_key=policy.hash_key,
        fallback=enum("FALLBACK", policy.fallback),
        idempotent=policy.idempotent,
        hedge=hedge,
        wait_for_ready=policy.wait_for_ready,
    )


def route(
    instances: Targets,
    payload: Json,
    timeout: float | None,
    policy_: Policy | None,
    idempotency_key: str,
    metadata: Mapping[str, str] | None,
) -> pb.RouteRequest:
    return pb.RouteRequest(
        instances=expressions(instances),
        payload=to_value(payload),
        timeout=duration(timeout),
        policy=policy(policy_),
        idempotency_key=idempotency_key,
        metadata=metadata,
    )


def completion(
    first: int | None, quorum: int | None, majority: bool, failures_max: int | None
) -> pb.Completion | None:
    if sum((first is not None, quorum is not None, majority)) > 1:
        raise ValueError("first, quorum and majority are three rules: name one")
    if first is None and quorum is None and not majority and failures_max is None:
        return None
    message = pb.Completion(failures_max=failures_max)
    if first is not None:
        message.first = first
    elif quorum is not None:
        message.quorum = quorum
    elif majority:
        message.majority = True
    return message


def fanout(
    targets: Targets,
    payload: Json,
    timeout: float | None,
    aggregate: bool,
    completion_: pb.Completion | None,
    policy_: Policy | None,
    metadata: Mapping[str, str] | None,
) -> pb.FanoutRequest:
    return pb.FanoutRequest(
        targets=expressions(targets),
        payload=to_value(payload),
        timeout=duration(timeout),
        aggregate=aggregate,
        completion=completion_,
        policy=policy(policy_),
        metadata=metadata,
    )


def session_spawn(
    session_id: str,
    instances: Targets,
    selection: Selection | None,
    hash_key: str,
    idle_ttl: float | None,
    lifetime: float | None,
    loss_policy: LossPolicy | None,
    durability: Durability | None,
    labels: Mapping[str, str] | None,
    idempotency_key: str,
) -> pb.SessionSpawnRequest:
    return pb.SessionSpawnRequest(
        session_id=session_id,
        instances=expressions(instances),
        selection=enum("SELECTION", selection),
        hash_key=hash_key,
        idle_ttl=duration(idle_ttl),
        lifetime=duration(lifetime),
        loss_policy=enum("LOSS_POLICY", loss_policy),
        durability=enum("DURABILITY", durability),
        labels=labels,
        idempotency_key=idempotency_key,
    )
