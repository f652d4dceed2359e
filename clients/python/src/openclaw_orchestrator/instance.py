"""A base class for instances: what an orchestrator hands tasks and sessions to.

    class Upper(Instance):
        async def execute(self, payload, call):
            return payload.upper()

    asyncio.run(Upper("upper").run(orchestrator="127.0.0.1:7070"))
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf import struct_pb2

from . import _service
from ._errors import OrchestratorError
from ._health import SERVICE as HEALTH_SERVICE
from ._health import Health
from ._json import Json, PayloadError, from_value, to_value
from ._instance_side import Stale
from ._stubs.openclaw.instance.v1 import instance_pb2 as pb
from ._taking import REPLY_BYTES_MAX, SESSIONS_MAX, Conversation, Ended, Full, Reply, Sessions, Taking
from .aio import Orchestrator

LOG = logging.getLogger("openclaw_orchestrator")

LEASE = 30.0
"""Seconds that a registration lasts; it is renewed three times as often."""
RETRY_MIN = 1.0
"""Seconds until a registration that failed is tried again, at first; twice as long each time."""
RETRY_MAX = 10.0
"""The same, at most: an orchestrator that has just started waits 45 s for the instances of its sessions."""
HOPELESS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""Refusals of a registration that do not pass by themselves."""
SERVER_OPTIONS: list[tuple[str, Any]] = [
    # Tasks are as large as the orchestrator takes them.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # Two processes on one port would share its tasks and sessions by chance.
    ("grpc.so_reuseport", 0),
    # The orchestrator may be told to look more often than every 5 minutes whether a connection still works.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]


class Refused(Exception):
    """Raised by an instance to answer with a status of its own."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        if code is grpc.StatusCode.OK:
            raise ValueError("a refusal cannot be OK")
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


class Instance:
    """An instance. Override `execute`, and `message` where it takes part in sessions.

    Messages of a session are applied once each and in order as long as this process lives, whatever becomes of
    connections and orchestrators: `message` runs to its end, also when the call is cut meanwhile, and its replies are
    kept until they are acknowledged. What comes again is acknowledged and not applied again.

    Args:
        id: Its name in the fleet.
        labels: Free words about it.
        weight: Its share of balanced work.
        key: The API key to register with; `$ORCHESTRATOR_API_KEY` when left out.
        sessions_max: How many sessions are remembered, with their `state`. For one more, the one that nobody has
            opened for longest is forgotten; while all of them are in use it is refused with RESOURCE_EXHAUSTED.
    """

    def __init__(
        self,
        id: str,
        *,
        labels: Mapping[str, str] | None = None,
        weight: int = 1,
        key: str | None = None,
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        self.id = id
        self.labels = dict(labels or {})
        self.weight = weight
        self._key = key
        self._health = Health()
        self._sessions = Sessions(sessions_max)
        self._suspending = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0
        """Where it listens, once it was started."""

    async def execute(self, payload: Json, call: Call) -> Json:
        """Does one task. Raise `Refused` to answer with a status. It is cancelled when nobody waits any more."""
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "this instance executes no tasks")

    async def message(self, session: Conversation, payload: Json, seq: int) -> AsyncIterator[Json]:
        """Applies one message of a session, and yields the replies to it.

        It is called once for each message, and the next one waits until it has ended; without it the instance takes no
        sessions. What it raises ends the call and not the session: `Refused` with its status, anything else with
        INTERNAL and a line in the log. The message counts as applied all the same, so that its effects do not happen
        twice: yield a reply where the sender shall hear of it.
        """
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "this instance holds no sessions")
        yield  # It is a generator.

    async def start(self, listen: str = "127.0.0.1:0") -> int:
        """Serves; returns the port. `listen` is `host:port`."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
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
        """Says that it does not serve, waits `notice` seconds until that is known, then stops. Give it a little more
        than the orchestrator's probe interval, and no call fails. What runs after `grace` seconds is cancelled;
        sessions are given back as soon as their replies are safe."""
        self._health.stop_serving()
        await asyncio.sleep(notice)
        self._suspending.set()
        for session in self._sessions.all():
            session._notify()
        ends = asyncio.get_running_loop().time() + grace
        if self._server is not None:
            await self._server.stop(grace)
        await self._sessions.stop(max(0.0, ends - asyncio.get_running_loop().time()))

    async def run(self, *, orchestrator: str, listen: str = "127.0.0.1:0", host: str = "127.0.0.1") -> None:
        """Serves, registers with an orchestrator, and keeps the lease, until SIGTERM, SIGINT or its cancellation.

        `host` is where the orchestrator finds this instance. An orchestrator that is away is tried again, ever less
        often, and the log says so. Raises an `OrchestratorError` when the registration is refused for a reason that
        does not pass by itself: the id, the address or the key is wrong, or a newer process has taken the name.
        """
        incarnation = time.time_ns() // 1_000_000
        async with Orchestrator(orchestrator, key=self._key) as client:
            port = await self.start(listen)
            try:
                with _stopped_by_signals() as stopping:
                    await self._keep_registered(client, f"{host}:{port}", incarnation, stopping)
                try:
                    await client.deregister(self.id, incarnation=incarnation, timeout=5)
                except OrchestratorError as error:
                    LOG.warning("instance %s: its lease has to end by itself: %s", self.id, error)
            finally:
                await self.stop()

    async def _keep_registered(
        self, client: Orchestrator, address: str, incarnation: int, stopping: asyncio.Event
    ) -> None:
        is_registered = False
        failures = 0
        while not stopping.is_set():
            try:
                await client.register(
                    self.id,
                    address,
                    incarnation=incarnation,
                    labels=self.labels,
                    weight=self.weight,
                    lease=LEASE,
                    timeout=5,
                )
            except OrchestratorError as error:
                # Before the first time it may be the lease of a process whose clock was ahead, which ends.
                is_replaced = is_registered and error.code is grpc.StatusCode.FAILED_PRECONDITION
                if error.code in HOPELESS or is_replaced:
                    LOG.error("instance %s may not register: %s", self.id, error)
                    raise
                pause = min(RETRY_MAX, RETRY_MIN * 2 ** min(failures, 8)) * (0.5 + random.random() / 2)
                failures += 1
                LOG.warning("instance %s could not register, next try in %.1f s: %s", self.id, pause, error)
            else:
                if not is_registered or failures:
                    LOG.info("instance %s is registered at %s", self.id, address)
                is_registered, failures = True, 0
                pause = LEASE / 3
            try:
                await asyncio.wait_for(stopping.wait(), pause)
            except asyncio.TimeoutError:
                continue

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
        if getattr(self.message, "__func__", None) is Instance.message:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this instance holds no sessions")
        first = await anext(requests, None)
        if first is None or not first.HasField("open"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be open")
            return
        try:
            session, resumed = self._sessions.open(first.open)
        except Stale as stale:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(stale))
            return
        except Full as full:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(full))
            return
        taking = Taking(session, resumed, context, self._apply, self._suspending)
        try:
            await taking.run(requests)
        except Ended as ended:
            await context.abort(ended.code, str(ended))
        finally:
            if taking.is_over:
                self._sessions.forget(session)
            else:
                self._sessions.rest(session)

    async def _apply(self, session: Conversation, seq: int, payload: struct_pb2.Value) -> AsyncIterator[Reply]:
        try:
            async for reply in self.message(session, from_value(payload), seq):
                value = to_value(reply, "reply")
                size = value.ByteSize()
                if REPLY_BYTES_MAX < size:
                    raise PayloadError(f"reply: it has {size} bytes, and {REPLY_BYTES_MAX} are passed on at most")
                yield Reply(value, size)
        except Refused as refused:
            raise Ended(refused.code, str(refused)) from None
        except Exception as error:
            LOG.exception("session %s: message %d was not applied to its end", session.id, seq)
            detail = str(error) if isinstance(error, PayloadError) else "the instance failed to apply the message"
            raise Ended(grpc.StatusCode.INTERNAL, detail) from None


@contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """What SIGTERM and SIGINT set; nothing does where a loop cannot hear them, as beside the main thread."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    heard = []
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stopping.set)
        except (NotImplementedError, RuntimeError, ValueError):
            continue
        heard.append(number)
    try:
        yield stopping
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
