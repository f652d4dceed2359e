"""A base class for instances: what an orchestrator hands tasks and sessions to.

    class Upper(Instance):
        async def execute(self, payload, call):
            return payload.upper()

    asyncio.run(Upper("upper").run(orchestrator="127.0.0.1:7070"))
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from . import _service
from ._errors import OrchestratorError
from ._health import SERVICE as HEALTH_SERVICE
from ._health import Health
from ._json import Json, PayloadError, from_value, to_value
from ._stubs.openclaw.instance.v1 import instance_pb2 as pb
from .aio import Orchestrator

LEASE = 30.0
"""Seconds that a registration lasts; it is renewed three times as often."""
RETRY = 1.0
"""Seconds until a registration that failed is tried again."""


class Refused(Exception):
    """Raised by an instance to answer with a status of its own."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Call:
    """What is known of one try of a task."""

    metadata: Mapping[str, str]
    """The caller's own words, and `x-request-id`, `traceparent` and `x-orchestrator-attempt`."""
    seconds_left: float | None
    """Until nobody waits for the answer any more."""

    @property
    def attempt(self) -> int:
        """The number of this try, from 1."""
        return int(self.metadata.get("x-orchestrator-attempt", "1"))


@dataclass
class Conversation:
    """One session at this instance, over all its epochs."""

    id: str
    labels: Mapping[str, str]
    state: Any = None
    """For the instance's own use."""
    spawned: int = 0
    epoch: int = 0
    received: int = 0
    """The last message that was applied."""
    skipped: int = 0
    """Messages up to this one do not come any more, whether they were applied here or not."""
    sent: int = 0
    unacknowledged: list[pb.SessionData] = field(default_factory=list)
    """Replies that the orchestrator has not taken yet."""
    replies_of: dict[int, int] = field(default_factory=dict)
    """The last reply to each applied message whose replies are not all taken."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Instance:
    """An instance. Override `execute`, and `message` where it takes part in sessions.

    Messages of a session are applied once each and in order as long as this process lives, whatever becomes of
    connections: what comes again is acknowledged and not applied again.

    Args:
        id: Its name in the fleet.
        labels: Free words about it.
        weight: Its share of balanced work.
        key: The API key to register with; `$ORCHESTRATOR_API_KEY` when left out.
    """

    def __init__(
        self, id: str, *, labels: Mapping[str, str] | None = None, weight: int = 1, key: str | None = None
    ) -> None:
        self.id = id
        self.labels = dict(labels or {})
        self.weight = weight
        self._key = key
        self._health = Health()
        self._sessions: dict[str, Conversation] = {}
        self._server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0
        """Where it listens, once it was started."""

    async def execute(self, payload: Json, call: Call) -> Json:
        """Does one task. Raise `Refused` to answer with a status. It is cancelled when nobody waits any more."""
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "this instance executes no tasks")

    async def message(self, session: Conversation, payload: Json, seq: int) -> AsyncIterator[Json]:
        """Applies one message of a session, and yields the replies to it."""
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "this instance holds no sessions")
        yield  # It is a generator.

    async def start(self, listen: str = "127.0.0.1:0") -> int:
        """Serves; returns the port. `listen` is `host:port`."""
        server = grpc.aio.server()
        handlers: dict[str, Any] = {
            "Execute": grpc.unary_unary_rpc_method_handler(
                self._execute, pb.ExecuteRequest.FromString, _service.encoded
            ),
            "Session": grpc.stream_stream_rpc_method_handler(
                self._session, pb.SessionRequest.FromString, _service.encoded
            ),
        }
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("openclaw.instance.v1.InstanceService", handlers),
                grpc.method_handlers_generic_handler(HEALTH_SERVICE, self._health.handlers()),
            )
        )
        self.port = server.add_insecure_port(listen)
        await server.start()
        self._server = server
        self._loop = asyncio.get_running_loop()
        return self.port

    def say_not_serving(self) -> None:
        """Tells orchestrators that it takes no more work; what it has goes on. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._health.stop_serving)

    async def stop(self, grace: float = 10.0, notice: float = 0.0) -> None:
        """Says that it does not serve, waits `notice` seconds until that is known, then stops. Give it a little more than
        the orchestrator's probe interval, and no call fails."""
        self._health.stop_serving()
        await asyncio.sleep(notice)
        if self._server is not None:
            await self._server.stop(grace)

    async def run(self, *, orchestrator: str, listen: str = "127.0.0.1:0", host: str = "127.0.0.1") -> None:
        """Serves, registers with an orchestrator, and keeps the lease, until SIGTERM or SIGINT. `host` is where the
        orchestrator finds this instance."""
        port = await self.start(listen)
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        incarnation = time.time_ns() // 1_000_000
        async with Orchestrator(orchestrator, key=self._key) as client:
            while not stopping.is_set():
                try:
                    await client.register(
                        self.id,
                        f"{host}:{port}",
                        incarnation=incarnation,
                        labels=self.labels,
                        weight=self.weight,
                        lease=LEASE,
                        timeout=5,
                    )
                    pause = LEASE / 3
                except OrchestratorError as error:
                    if error.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                        raise
                    pause = RETRY
                try:
                    await asyncio.wait_for(stopping.wait(), pause)
                except asyncio.TimeoutError:
                    continue
            try:
                await client.deregister(self.id, incarnation=incarnation, timeout=5)
            except OrchestratorError:
                # The lease ends by itself.
                pass
        await self.stop()

    async def _execute(self, request: pb.ExecuteRequest, context: Any) -> pb.ExecuteResponse:
        metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        call = Call(metadata, context.time_remaining())
        try:
            answer = to_value(await self.execute(from_value(request.payload), call), "answer")
        except Refused as refused:
            await context.abort(refused.code, str(refused))
            raise
        except PayloadError as error:
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
            raise
        return pb.ExecuteResponse(payload=answer)

    async def _session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> None:
        first = await anext(requests, None)
        if first is None or not first.HasField("open"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be open")
            return
        session = self._opened(first.open)
        if session is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the epoch is stale")
            return
        epoch = session.epoch
        await context.write(pb.SessionResponse(opened=pb.SessionOpened(received_through=session.received)))
        for again in session.unacknowledged:
            await context.write(pb.SessionResponse(data=again))
        answered = first.open.answered_through
        async for request in requests:
            if session.epoch != epoch:
                await context.abort(grpc.StatusCode.ABORTED, "a newer epoch has been opened")
            match request.WhichOneof("frame"):
                case "data":
                    await self._apply(session, request.data, answered, context)
                case "ack":
                    _forget(session, request.ack.through)
                    await _acknowledge(session, context)
                case "close":
                    if request.close.reason != pb.SESSION_CLOSE_REASON_SUSPENDED:
                        self._sessions.pop(session.id, None)
                    return

    def _opened(self, open_: pb.SessionOpen) -> Conversation | None:
        """The session of that name; nothing when the epoch is stale."""
        spawned = open_.spawn_time.ToMilliseconds()
        known = self._sessions.get(open_.session)
        if known is None or known.spawned < spawned:
            known = Conversation(open_.session, dict(open_.labels), spawned=spawned)
            known.sent = open_.received_through
        elif spawned < known.spawned or open_.epoch <= known.epoch:
            return None
        elif known.epoch < open_.received_epoch:
            # Another instance has spoken since: what was not taken of ours is void.
            known.unacknowledged.clear()
            known.replies_of.clear()
            known.sent = open_.received_through
        else:
            _forget(known, open_.received_through)
        # What it was never given does not count as received.
        known.skipped = open_.next_seq - 1
        known.epoch = open_.epoch
        self._sessions[open_.session] = known
        return known

    async def _apply(self, session: Conversation, data: pb.SessionData, answered: int, context: Any) -> None:
        if data.seq <= session.received:
            await _acknowledge(session, context)
            return
        expected = max(session.received, session.skipped) + 1
        if data.seq != expected:
            await context.abort(grpc.StatusCode.INTERNAL, f"message {data.seq} came where {expected} was next")
        async for reply in self.message(session, from_value(data.payload), data.seq):
            if data.seq <= answered:
                # Answered before, by this instance or another one: applied for its effects only.
                continue
            session.sent += 1
            frame = pb.SessionData(seq=session.sent, in_reply_to=data.seq, payload=to_value(reply, "reply"))
            session.unacknowledged.append(frame)
            session.replies_of[data.seq] = session.sent
            await context.write(pb.SessionResponse(data=frame))
        session.received = data.seq
        await _acknowledge(session, context)


def _forget(session: Conversation, through: int) -> None:
    session.unacknowledged = [data for data in session.unacknowledged if through < data.seq]
    session.replies_of = {seq: last for seq, last in session.replies_of.items() if through < last}


async def _acknowledge(session: Conversation, context: Any) -> None:
    """A message is acknowledged once it is applied and its replies are safe."""
    through = min(session.replies_of, default=session.received + 1) - 1
    if through:
        await context.write(pb.SessionResponse(ack=pb.SessionAck(through=through)))
