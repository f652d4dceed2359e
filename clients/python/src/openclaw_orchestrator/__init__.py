"""Client of the orchestrator, a gRPC control plane that delegates tasks to named instances.

`Orchestrator` is the synchronous client, `aio.Orchestrator` the one for asyncio. `Instance` is a base class for
instances.
"""

from . import aio
from ._conversation import DetachedError, MessagesLostError, SessionClosedError
from ._errors import (
    AbortedError,
    AlreadyExistsError,
    AuthenticationError,
    CancelledError,
    CompletionUnmetError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OrchestratorError,
    OutOfRangeError,
    PermissionDeniedError,
    PreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from ._json import Json, PayloadError
from ._models import (
    Answer,
    Attempt,
    Event,
    Failure,
    Health,
    HealthChange,
    InstanceInfo,
    Message,
    Partial,
    Policy,
    Reply,
    SessionInfo,
    Spawned,
    Started,
    Summary,
)
from ._taking import Conversation
from .client import Orchestrator
from .instance import Call, Instance, Refused
from .session import Session

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "Answer",
    "Attempt",
    "AuthenticationError",
    "Call",
    "CancelledError",
    "CompletionUnmetError",
    "Conversation",
    "DeadlineExceededError",
    "DetachedError",
    "Event",
    "Failure",
    "Health",
    "HealthChange",
    "Instance",
    "InstanceInfo",
    "InvalidRequestError",
    "Json",
    "Message",
    "MessagesLostError",
    "NotFoundError",
    "Orchestrator",
    "OrchestratorError",
    "OutOfRangeError",
    "Partial",
    "PayloadError",
    "PermissionDeniedError",
    "Policy",
    "PreconditionError",
    "Refused",
    "Reply",
    "ResourceExhaustedError",
    "Session",
    "SessionClosedError",
    "SessionInfo",
    "Spawned",
    "Started",
    "Summary",
    "UnavailableError",
    "aio",
]
