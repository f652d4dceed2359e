"""What an instance keeps of one session, so that it applies each message once and none of its own is lost.

The rules of `src/domain/conversation` of the orchestrator, one to one; `tests/conversation_vectors.json` holds both to
them. It decides and does nothing: frames come in as numbers, and nothing here waits or sends.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

M = TypeVar("M")


@dataclass(frozen=True)
class Opening:
    """What an instance is told when a session is opened: the numbers of `SessionOpen`."""

    spawned_ms: int
    """When the session was spawned, in milliseconds since 1970."""
    epoch: int
    """Higher than in every earlier opening of the session."""
    next_seq: int
    """The first message that comes to an instance which knows nothing."""
    answered_through: int
    """Messages up to this one have been answered."""
    received_through: int
    """The last message of an instance that was taken."""
    received_epoch: int
    """The epoch in which it came."""


@dataclass(frozen=True)
class Resumed:
    """How a session goes on. What is unacknowledged is to be sent again."""

    received_through: int
    """For `SessionOpened`."""
    missed: int
    """How many messages another instance has taken that this one never saw, and never will."""


@dataclass
class Said(Generic[M]):
    """A message of the instance."""

    seq: int
    in_reply_to: int | None
    message: M


@dataclass
class Memory(Generic[M]):
    """What would have to survive a restart, in one piece with the effects of the messages."""

    spawned_ms: int = 0
    epoch: int = 0
    """The last epoch that was seen; 0 before the first."""
    applied_through: int = 0
    handled_through: int = 0
    """Messages up to this one are handled: what there was to say to them is said."""
    said_through: int = 0
    unacknowledged: deque[Said[M]] = field(default_factory=deque)


class Receipt(Enum):
    """What is to be done with a message."""

    APPLY = "apply"
    """It is the next one: apply it now, whatever becomes of the stream, and answer it."""
    APPLY_QUIETLY = "apply_quietly"
    """It is the next one and was answered before: apply it, and do not answer."""
    DUPLICATE = "duplicate"
    """It was applied before: do nothing."""
    STALE_EPOCH = "stale_epoch"
    """It comes from an epoch that is over: end the stream with ABORTED."""
    GAP = "gap"
    """Messages are missing before it: end the stream with DATA_LOSS, it will be opened again."""


class Stale(Exception):
    """The opening of an epoch that is over. Refuse it with FAILED_PRECONDITION."""

    def __init__(self, seen: int) -> None:
        super().__init__(f"the epoch is stale: the last one seen is {seen}")
        self.seen = seen


class OverAck(Exception):
    """An acknowledgement of what was never said."""

    def __init__(self, through: int, said_through: int) -> None:
        super().__init__(f"acknowledged through {through}, and {said_through} is the last that was said")


class Rules(Generic[M]):
    """The instance's side of one session."""

    def __init__(self) -> None:
        self.memory: Memory[M] = Memory()
        self._skipped_through = 0
        """Messages up to this one do not come any more, whether they were applied here or not."""
        self._answered_through = 0
        self._acknowledged = 0

    def open(self, opening: Opening) -> Resumed:
        """Begins an epoch; the one before it is over. Raises `Stale`."""
        memory = self.memory
        if (opening.spawned_ms, opening.epoch) <= (memory.spawned_ms, memory.epoch):
            raise Stale(memory.epoch)
        if memory.spawned_ms < opening.spawned_ms:
            # Another session under the same id.
            memory = self.memory = Memory(spawned_ms=opening.spawned_ms)
            self._skipped_through = 0
        received_through = memory.applied_through
        is_new = memory.epoch == 0
        before = max(0, opening.next_seq - 1)
        known = max(memory.applied_through, self._skipped_through)
        missed = max(0, before - known)
        if memory.epoch < opening.received_epoch:
            # Another instance has spoken since.
            memory.unacknowledged.clear()
        while memory.unacknowledged and memory.unacknowledged[0].seq <= opening.received_through:
            memory.unacknowledged.popleft()
        memory.said_through = opening.received_through
        for said in memory.unacknowledged:
            memory.said_through += 1
            said.seq = memory.said_through
        memory.epoch = opening.epoch
        # What it was never given does not count as applied, also not when the session is opened once more.
        self._skipped_through = before
        self._answered_through = opening.answered_through
        self._acknowledged = 0
        return Resumed(received_through, 0 if is_new else missed)

    @property
    def expected(self) -> int:
        """The message that comes next."""
        return max(self.memory.applied_through, self._skipped_through) + 1

    def receive(self, epoch: int, seq: int) -> Receipt:
        """Judges a message that came under an epoch. What is to be applied counts as applied from here on."""
        if epoch != self.memory.epoch:
            return Receipt.STALE_EPOCH
        if seq < self.expected:
            return Receipt.DUPLICATE
        if self.expected < seq:
            return Receipt.GAP
        self.memory.applied_through = seq
        return Receipt.APPLY_QUIETLY if seq <= self._answered_through else Receipt.APPLY

    def say(self, in_reply_to: int | None, message: M) -> Said[M]:
        """Gives a message its number and keeps it until it is acknowledged."""
        self.memory.said_through += 1
        said = Said(self.memory.said_through, in_reply_to, message)
        self.memory.unacknowledged.append(said)
        return said

    def handled(self, through: int) -> None:
        """Everything up to this message is handled: what there was to say to it is said."""
        applied = min(through, self.memory.applied_through)
        self.memory.handled_through = max(self.memory.handled_through, applied)

    def taken(self, through: int) -> None:
        """The orchestrator has taken messages. Raises `OverAck`."""
        if self.memory.said_through < through:
            raise OverAck(through, self.memory.said_through)
        kept = self.memory.unacknowledged
        while kept and kept[0].seq <= through:
            kept.popleft()

    def due(self) -> int | None:
        """What to acknowledge now, when there is something new: what was handled, up to the first message whose
        answer has not arrived. Never goes back."""
        unanswered = (said.in_reply_to for said in self.memory.unacknowledged if said.in_reply_to is not None)
        first = min(unanswered, default=None)
        through = self.memory.handled_through
        if first is not None:
            through = min(through, max(0, first - 1))
        if through <= self._acknowledged:
            return None
        self._acknowledged = through
        return through
