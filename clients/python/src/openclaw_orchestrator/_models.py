"""What calls take and give, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Union

from ._json import Json

Selection = Literal["balanced", "ordered", "hash"]
Fallback = Literal["listed_only", "any_healthy"]
LossPolicy = Literal["fail", "reassign", "replay"]
Durability = Literal["durable", "none"]


@dataclass(frozen=True)
class Failure:
    """Why something did not succeed."""

    reason: str
    """Such as INSTANCE_DOWN; the orchestrator's docs/failures.md lists them."""
    message: str
    instance: str | None
    """The instance concerned."""
    retryable: bool
    """True when repeating the same task cannot execute it twice."""


@dataclass(frozen=True)
class Attempt:
    """One try of a task at one instance."""

    instance: str
    kind: str
    """`first`, `transparent_retry`, `retry`, `fallback` or `hedge`."""
    failure: Failure | None
    """Why it did not bring the answer; `None` when it did."""
    offset: timedelta
    """When it began, counted from the arrival of the call."""
    elapsed: timedelta


@dataclass(frozen=True)
class Policy:
    """How a call is made. What is left out is up to the orchestrator."""

    per_try_timeout: float | None = None
    """Seconds for one try."""
    attempts_max: int = 0
    """Tries, the first included: 1 to 5; 0 is the orchestrator's default."""
    selection: Selection | None = None
    hash_key: str = ""
    """The key of selection `hash`."""
    fallback: Fallback | None = None
    idempotent: bool = False
    """The task may be executed more than once."""
    hedge: bool | float = False
    """Send the task to a second instance while the first takes long: after so many seconds, or, when true, after
    what 95 % of the answers have taken. Needs `idempotent`."""
    wait_for_ready: bool = False
    """While no instance may be used, wait for one."""


@dataclass(frozen=True)
class Answer:
    """The answer of one instance."""

    instance: str
    payload: Json
    attempts: tuple[Attempt, ...]
    deduplicated: bool
    """An earlier request with the same idempotency key brought it."""
    panic_mode: bool
    """So few candidates were well that ejected ones got work too."""


@dataclass(frozen=True)
class Started:
    """A fan-out has begun."""

    roster: tuple[str, ...]
    panic_mode: bool


@dataclass(frozen=True)
class Partial:
    """The one outcome of one target."""

    instance: str
    outcome: str
    """`answered`, `failed`, `timed_out`, `cancelled` or `skipped`."""
    payload: Json
    failure: Failure | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Summary:
    """How a fan-out ended."""

    counts: Mapping[str, int]
    """How many targets ended in which way, by outcome."""
    stop_reason: str
    missing: tuple[str, ...]
    """The targets that did not answer."""
    aggregate: tuple[Partial, ...]
    """With `aggregate`, every target in roster order."""


Event = Union[Started, Partial, Summary]
"""One event of a fan-out: `Started`, a `Partial` for each target, `Summary`."""


@dataclass(frozen=True)
class Health:
    """The health of one instance."""

    instance: str
    state: str
    """`healthy`, `busy`, `starting`, `draining`, `down` or `unknown`."""
    reason: str
    since: datetime
    calls_outstanding: int
    admin: str
    probed: str
    observed: str
    drained: bool


@dataclass(frozen=True)
class HealthChange:
    """What has changed since the change before; the first one tells everything."""

    instances: tuple[Health, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class InstanceInfo:
    """An instance of the fleet."""

    id: str
    address: str
    labels: Mapping[str, str]
    weight: int
    origin: str
    """`config`, `builtin` or `registered`."""
    expire_time: datetime | None
    """When its lease ends."""
    health: Health


@dataclass(frozen=True)
class SessionInfo:
    """A session."""

    id: str
    instance: str
    epoch: int
    state: str
    """`open` or `closed`."""
    close_reason: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime | None = None
    expire_time: datetime | None = None
    attached: bool = False


@dataclass(frozen=True)
class Spawned:
    """A session has begun."""

    session: SessionInfo
    token: str = field(repr=False)
    """Good for this session and nothing else. It is not shown again."""
    deduplicated: bool = False


@dataclass(frozen=True)
class Reply:
    """What became of one posted message."""

    position: int
    """The number by which the instance knows it."""
    payload: Json
    replied: bool
    """False when it was not waited for."""
    deduplicated: bool


@dataclass(frozen=True)
class Message:
    """A message of a session's instance."""

    seq: int
    payload: Json
    in_reply_to: int | None
    """The number that `send` returned for the message that it replies to."""
    redelivered: bool
    """It may have been sent before."""
