"""Failures as exceptions, with code, reason, instance and every try."""

from __future__ import annotations

from typing import Protocol, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from . import _read
from ._models import Attempt, Failure
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb

DOMAIN = "orchestrator.openclaw"
PUSHBACK = "grpc-retry-pushback-ms"
DETAILS = "grpc-status-details-bin"


class OrchestratorError(Exception):
    """A call has failed.

    `retryable` says whether repeating the call cannot execute its task twice; `retry_after` is the number of
    seconds after which to do it, when the orchestrator asked for some.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        instance: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.instance = instance
        self.retryable = retryable
        self.retry_after = retry_after
        self.attempts = attempts


class AuthenticationError(OrchestratorError):
    """The key is missing, unknown or no longer valid. Repeating the call with the same key does not help."""


class PermissionDeniedError(OrchestratorError):
    """The key may not make this call."""


class InvalidRequestError(OrchestratorError):
    """The request cannot be meant; the message names the field."""


class NotFoundError(OrchestratorError):
    """What was named is not there."""


class AlreadyExistsError(OrchestratorError):
    """What was to be made is there already."""


class DeadlineExceededError(OrchestratorError):
    """Time ran out."""


class CancelledError(OrchestratorError):
    """The call was cancelled."""


class UnavailableError(OrchestratorError):
    """The orchestrator or the instance cannot be reached, or does not take work now."""


class ResourceExhaustedError(OrchestratorError):
    """A limit was reached."""


class AbortedError(OrchestratorError):
    """Somebody else has taken over."""


class PreconditionError(OrchestratorError):
    """Not in this state."""


class OutOfRangeError(OrchestratorError):
    """What was asked for is gone."""


class CompletionUnmetError(OrchestratorError):
    """The completion rule of a fan-out was not met. The summary came before."""


KINDS: dict[grpc.StatusCode, type[OrchestratorError]] = {
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
}


class _Failed(Protocol):
    """What synchronous and asynchronous errors of grpcio have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> object: ...


def from_rpc(error: BaseException) -> OrchestratorError:
    """An error of grpcio as one of ours."""
    failed = cast(_Failed, error)
    metadata = _metadata(failed.trailing_metadata())
    status = status_pb2.Status()
    status.ParseFromString(metadata.get(DETAILS, b""))
    info = error_details_pb2.ErrorInfo()
    attempts: tuple[Attempt, ...] = ()
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Is(pb.FailedAttempts.DESCRIPTOR):
            failed_attempts = pb.FailedAttempts()
            detail.Unpack(failed_attempts)
            attempts = tuple(_read.attempt(attempt) for attempt in failed_attempts.attempts)
    ours = info.domain == DOMAIN
    kind = KINDS.get(failed.code(), OrchestratorError)
    if ours and info.reason == "COMPLETION_UNMET":
        kind = CompletionUnmetError
    return kind(
        code=failed.code(),
        message=failed.details() or "",
        reason=info.reason if ours else "",
        instance=(info.metadata.get("instance") or None) if ours else None,
        retryable=ours and info.metadata.get("retryable") == "true",
        retry_after=retry_after,
        attempts=attempts,
    )


def from_failure(failure: Failure) -> OrchestratorError:
    """A failure that came inside an answer, for whoever wants to raise it."""
    return OrchestratorError(
        code=grpc.StatusCode.UNKNOWN,
        message=failure.message,
        reason=failure.reason,
        instance=failure.instance,
        retryable=failure.retryable,
    )


def _metadata(entries: object) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, value in cast("list[tuple[str, str | bytes]]", entries or []):
        found[name] = value if isinstance(value, bytes) else value.encode()
    return found
