"""How an instance takes part in sessions: what it remembers of each, and one call for each epoch of one.

A message is applied in a task of its own, which no call owns: a call that is cut leaves it running, and the next one
waits for it. Replies are kept with the session and written from there, so that every call goes on where it must.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import struct_pb2

from ._instance_side import Opening, OverAck, Receipt, Resumed, Rules
from ._stubs.openclaw.instance.v1 import instance_pb2 as pb

SESSIONS_MAX = 10_000
"""Sessions that an instance remembers. The one that has rested longest is forgotten for a new one."""

KEPT_MAX = 1000
"""Replies that wait for their acknowledgement: whoever keeps to it, and to the bytes, is always heard."""

KEPT_BYTES_MAX = 1024 * 1024
"""Bytes of these; one reply always fits."""

REPLY_BYTES_MAX = 4 * 1024 * 1024 - 64 * 1024
"""Bytes of one reply: the orchestrator passes no larger one on, and would take the session away."""

PENDING_MAX = 1000
"""Messages that wait until those before them are applied; then the orchestrator has to wait."""

PENDING_BYTES_MAX = 1024 * 1024
"""Bytes of these; one message always fits."""


class Ended(Exception):
    """A call of a session ends with a status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Full(Exception):
    """As many sessions as may be remembered are in use."""


@dataclass(frozen=True)
class Reply:
    """What a handler has said."""

    payload: struct_pb2.Value
    bytes: int


Replies = AsyncIterator[Reply]


class Conversation:
    """One session at this instance, over all its epochs."""

    def __init__(self, id: str, labels: Mapping[str, str]) -> None:
        self.id = id
        self.labels = labels
        self.state: Any = None
        """For the instance's own use."""
        self.missed = 0
        """How many messages other instances have applied meanwhile, which this one never gets to see."""
        self._rules: Rules[Reply] = Rules()
        self._calls = 0
        self._running: asyncio.Task[None] | None = None
        self._waits_for_room = False
        self._failed: Ended | None = None
        self._answered_elsewhere = 0
        self._is_forgotten = False
        self._changed = asyncio.Event()

    def _opened(self, opening: Opening) -> Resumed:
        before = self._rules.memory.epoch
        resumed = self._rules.open(opening)
        if before < opening.received_epoch:
            # Another instance has spoken since, perhaps to what is still being applied here.
            self._answered_elsewhere = opening.answered_through
        self.missed += resumed.missed
        self._failed = None
        self._notify()
        return resumed

    def _is_resting(self) -> bool:
        return self._calls == 0 and self._running is None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()

    def _begin(self, seq: int, receipt: Receipt, applying: Callable[[], Replies]) -> None:
        """Applies a message, to its end, whatever becomes of the call that it came with."""
        self._running = asyncio.get_running_loop().create_task(self._run(seq, receipt, applying))

    async def _run(self, seq: int, receipt: Receipt, applying: Callable[[], Replies]) -> None:
        try:
            async for reply in applying():
                if receipt is Receipt.APPLY_QUIETLY:
                    # Answered before, by this instance or another one: applied for its effects only.
                    continue
                await self._room()
                if self._is_forgotten or seq <= self._answered_elsewhere:
                    continue
                self._rules.say(seq, reply)
                self._notify()
        except Ended as ended:
            self._failed = ended
        finally:
            self._rules.handled(seq)
            self._running = None
            self._notify()

    async def _room(self) -> None:
        """Waits until one more reply can be kept."""
        if self._has_room():
            return
        self._waits_for_room = True
        self._notify()
        try:
            while not self._is_forgotten and not self._has_room():
                await self._next_change()
        finally:
            self._waits_for_room = False

    def _has_room(self) -> bool:
        kept = self._rules.memory.unacknowledged
        return len(kept) < KEPT_MAX and sum(said.message.bytes for said in kept) < KEPT_BYTES_MAX


class Sessions:
    """What is remembered of every session, up to a bound."""

    def __init__(self, most: int = SESSIONS_MAX) -> None:
        self._most = most
        self._known: OrderedDict[str, Conversation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def all(self) -> list[Conversation]:
        return list(self._known.values())

    def open(self, open_: pb.SessionOpen) -> tuple[Conversation, Resumed]:
        """Begins an epoch of a session. Raises `Stale` and `Full`."""
        opening = Opening(
            spawned_ms=open_.spawn_time.ToMilliseconds(),
            epoch=open_.epoch,
            next_seq=open_.next_seq,
            answered_through=open_.answered_through,
            received_through=open_.received_through,
            received_epoch=open_.received_epoch,
        )
        known = self._known.get(open_.session)
        if known is None or known._rules.memory.spawned_ms < opening.spawned_ms:
            # Another session, perhaps under the id of one before: a handler of that one runs on beside it.
            if known is not None:
                self.forget(known)
            self._make_room()
            known = Conversation(open_.session, dict(open_.labels))
        resumed = known._opened(opening)
        self._known[known.id] = known
        self._known.move_to_end(known.id)
        return known, resumed

    def rest(self, session: Conversation) -> None:
        """A call is over: from now on it was used least long ago."""
        if self._known.get(session.id) is session:
            self._known.move_to_end(session.id)

    def forget(self, session: Conversation) -> None:
        """The session is over, unless another one took its place."""
        session._is_forgotten = True
        session._notify()
        if self._known.get(session.id) is session:
            del self._known[session.id]

    async def stop(self, grace: float) -> None:
        """Waits so many seconds until everything is applied that has begun, and cancels the rest."""
        running = [known._running for known in self._known.values() if known._running is not None]
        if running:
            await asyncio.wait(running, timeout=grace)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _make_room(self) -> None:
        if len(self._known) < self._most:
            return
        resting = next((known for known in self._known.values() if known._is_resting()), None)
        if resting is None:
            raise Full("as many sessions as this instance remembers are in use")
        self.forget(resting)


class Taking:
    """One call that takes part in a session."""

    def __init__(
        self,
        session: Conversation,
        resumed: Resumed,
        context: Any,
        apply: Callable[[Conversation, int, struct_pb2.Value], Replies],
        suspending: asyncio.Event,
    ) -> None:
        self._session = session
        self._resumed = resumed
        self._context = context
        self._apply_one = apply
        self._suspending = suspending
        self._epoch = session._rules.memory.epoch
        self._pending: deque[pb.SessionData] = deque()
        self._pending_bytes = 0
        self._is_finishing = False
        self.is_over = False
        """Whether the session is, and not only this call."""

    async def run(self, requests: AsyncIterator[pb.SessionRequest]) -> None:
        """Takes part until the call is over. Raises `Ended`."""
        self._session._calls += 1
        tasks = [asyncio.ensure_future(one) for one in (self._read(requests), self._apply(), self._write())]
        try:
            while True:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.result():
                        return
                    tasks.remove(task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._session._calls -= 1

    async def _read(self, requests: AsyncIterator[pb.SessionRequest]) -> bool:
        """Hears what the orchestrator says; whether the call is over."""
        async for request in requests:
            self._check()
            match request.WhichOneof("frame"):
                case "data":
                    self._pending.append(request.data)
                    self._pending_bytes += request.data.ByteSize()
                case "ack":
                    try:
                        self._session._rules.taken(request.ack.through)
                    except OverAck as error:
                        raise Ended(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
                case "open":
                    raise Ended(grpc.StatusCode.INVALID_ARGUMENT, "a session is opened once")
                case "close":
                    return self._closed(request.close.reason)
            self._session._notify()
            while self._is_full() and not self._session._waits_for_room:
                # A handler that waits for room needs the acknowledgements that come behind.
                await self._session._next_change()
        return True

    def _closed(self, reason: int) -> bool:
        if reason == pb.SESSION_CLOSE_REASON_SUSPENDED:
            return True
        self.is_over = True
        if reason != pb.SESSION_CLOSE_REASON_MOVED:
            return True
        # What is still to be said is taken for a few seconds more.
        self._is_finishing = True
        self._session._notify()
        return False

    async def _apply(self) -> bool:
        """Has messages applied, one after another."""
        session = self._session
        while True:
            while not self._pending or session._running is not None or self._finishes():
                await session._next_change()
                self._check()
            data = self._pending.popleft()
            self._pending_bytes -= data.ByteSize()
            match session._rules.receive(self._epoch, data.seq):
                case Receipt.APPLY | Receipt.APPLY_QUIETLY as receipt:
                    seq, payload = data.seq, data.payload
                    session._begin(seq, receipt, lambda: self._apply_one(session, seq, payload))
                case Receipt.GAP:
                    expected = session._rules.expected
                    raise Ended(grpc.StatusCode.DATA_LOSS, f"message {expected} is missing before {data.seq}")
                case Receipt.STALE_EPOCH:
                    self._check()
                case Receipt.DUPLICATE:
                    pass
            session._notify()

    async def _write(self) -> bool:
        """Says what there is to say; whether the call is over."""
        session, rules = self._session, self._session._rules
        opened = pb.SessionOpened(received_through=self._resumed.received_through)
        await self._context.write(pb.SessionResponse(opened=opened))
        written = 0
        while True:
            self._check()
            kept = rules.memory.unacknowledged
            if kept and written < kept[-1].seq:
                said = kept[max(0, written + 1 - kept[0].seq)]
                written = said.seq
                data = pb.SessionData(seq=said.seq, in_reply_to=said.in_reply_to or 0, payload=said.message.payload)
                await self._context.write(pb.SessionResponse(data=data))
                continue
            through = rules.due()
            if through is not None:
                await self._context.write(pb.SessionResponse(ack=pb.SessionAck(through=through)))
                continue
            if session._failed is not None:
                failed, session._failed = session._failed, None
                raise failed
            if self._finishes() and session._running is None and (self.is_over or not kept):
                if not self.is_over:
                    close = pb.SessionClose(reason=pb.SESSION_CLOSE_REASON_SUSPENDED, detail="the instance stops")
                    await self._context.write(pb.SessionResponse(close=close))
                return True
            await session._next_change()

    def _finishes(self) -> bool:
        return self._is_finishing or self._suspending.is_set()

    def _is_full(self) -> bool:
        return PENDING_MAX <= len(self._pending) or PENDING_BYTES_MAX <= self._pending_bytes

    def _check(self) -> None:
        if self._epoch != self._session._rules.memory.epoch or self._session._is_forgotten:
            raise Ended(grpc.StatusCode.ABORTED, "a call of a newer epoch takes part in the session")
