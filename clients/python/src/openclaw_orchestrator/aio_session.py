"""A session for asyncio: messages both ways, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from . import _service
from ._conversation import (
    Conversation,
    DetachedError,
    SessionClosedError,
    is_worth_another_connection,
    to_message,
)
from ._errors import from_rpc
from ._json import Json
from ._models import Message
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb
from .session import ARRIVED_MAX


class Session:
    """An attached session. It reconnects by itself, resends what was not acknowledged, and yields each message once.

    An error that another connection cannot help against is raised to whoever reads or sends. Every method may be
    cancelled, and nothing is lost by that. Use it as an asynchronous context manager, or call `detach` at the end; the
    session itself goes on until it is closed or expires.
    """

    def __init__(self, channel: grpc.aio.Channel, bearer: tuple[str, str], session_id: str) -> None:
        self._channel = channel
        self._metadata = (bearer, (_service.SESSION_METADATA, session_id))
        self._conversation = Conversation(session_id)
        self._changed = asyncio.Event()
        """Set, and replaced by another one, with each change."""
        self._outgoing: asyncio.Queue[pb.SessionSendRequest] | None = None
        self._arrived: deque[Message | Exception] = deque()
        self._safety_awaited = 0
        """How many wait for acknowledgements, which come behind messages: those are read on meanwhile."""
        self._detached = False
        self._failure: Exception | None = None
        self._driver = asyncio.get_running_loop().create_task(self._drive(), name=f"session {session_id}")

    @property
    def instance(self) -> str:
        """The instance that holds the session, as far as is known."""
        return self._conversation.instance

    @property
    def unacknowledged(self) -> int:
        """Messages of ours that are not safe yet."""
        return self._conversation.unacknowledged

    async def send(self, payload: Json = None, *, in_reply_to: int = 0) -> int:
        """Sends a message; returns its number, by which a reply names it. Waits while too many are unacknowledged.

        It is kept, and sent again after a cut, until it is safe; wait for that with `flush` before `detach`.
        """
        value = to_message(payload)
        # A number given before the session was ever reached might be somebody else's.
        await self._wait_for_safety(lambda: self._conversation.epoch != 0 and self._conversation.has_room)
        self._raise_if_over()
        frame = self._conversation.send(value, in_reply_to)
        if self._outgoing is not None:
            self._outgoing.put_nowait(frame)
        return frame.data.seq

    async def flush(self) -> None:
        """Waits until every message of ours is safe. Raises when they cannot become safe any more."""
        await self._wait_for_safety(lambda: self._conversation.unacknowledged == 0)
        if self._conversation.unacknowledged:
            self._raise_if_over()

    async def receive(self) -> Message:
        """The next message. Raises `SessionClosedError` at the end of the session, and `DetachedError` once this end
        has left it; whoever asks again is told again."""
        await self._wait_for(lambda: bool(self._arrived) or self._is_over())
        if self._detached or not self._arrived:
            self._raise_if_over()
        arrived = self._arrived.popleft()
        # The driver may wait for room.
        self._notify()
        if isinstance(arrived, Exception):
            raise arrived
        acknowledgement = self._conversation.hand_out(arrived)
        if self._outgoing is not None:
            self._outgoing.put_nowait(acknowledgement)
        return arrived

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Messages until the session has ended or this end has left it."""
        while True:
            try:
                message = await self.receive()
            except (SessionClosedError, DetachedError):
                return
            yield message

    async def detach(self) -> None:
        """Leaves the session; it goes on without us. Whoever waits is told so by `DetachedError`. Messages that are not
        safe yet may be lost: `flush` before."""
        self._detached = True
        self._notify()
        self._driver.cancel()
        await asyncio.wait([self._driver])

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.detach()

    def _is_over(self) -> bool:
        return self._detached or self._failure is not None

    def _raise_if_over(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._detached:
            raise DetachedError

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for(self, holds: Callable[[], bool]) -> None:
        """Nothing comes between the end of it and what its caller does next."""
        while not holds():
            await self._changed.wait()

    async def _wait_for_safety(self, is_safe: Callable[[], bool]) -> None:
        self._safety_awaited += 1
        self._notify()
        try:
            await self._wait_for(lambda: self._is_over() or is_safe())
        finally:
            self._safety_awaited -= 1

    async def _drive(self) -> None:
        try:
            failures = 0
            while not self._is_over():
                reached = await self._connect()
                failures = 0 if reached else failures + 1
                if not self._is_over():
                    await asyncio.sleep(self._conversation.pause(failures, random.random()))
        except asyncio.CancelledError:
            # By `detach`, or by a loop that ends: nobody may wait for what does not come any more.
            self._detached = True
            raise
        except Exception as error:
            # Whatever it is, whoever reads or sends must not wait for ever. A channel that was closed, above all.
            self._fail(error)
        finally:
            self._notify()

    async def _connect(self) -> bool:
        """One connection, to its end; whether it was ever ready."""
        outgoing: asyncio.Queue[pb.SessionSendRequest] = asyncio.Queue()
        outgoing.put_nowait(self._conversation.hello())
        open_: Any = self._channel.stream_stream(
            _service.SESSION_SEND.path, _service.encoded, pb.SessionSendResponse.FromString
        )
        call = open_(metadata=self._metadata)
        writer = asyncio.ensure_future(_write_all(call, outgoing))
        ready = False
        try:
            async for frame in call:
                if frame.HasField("ready"):
                    ready = True
                    for again in self._conversation.ready(frame.ready):
                        outgoing.put_nowait(again)
                    self._outgoing = outgoing
                    self._notify()
                else:
                    await self._take(frame)
                    if self._is_over():
                        break
        except grpc.aio.AioRpcError as error:
            self._judge(error)
        finally:
            self._outgoing = None
            writer.cancel()
            call.cancel()
            await asyncio.wait([writer])
        return ready

    async def _take(self, frame: pb.SessionSendResponse) -> None:
        taken = self._conversation.take(frame)
        if isinstance(taken, SessionClosedError):
            # What came before it is handed out first.
            self._failure = taken
        elif taken is not None:
            await self._wait_for(lambda: self._is_over() or self._reads_on())
            self._arrived.append(taken)
        self._notify()

    def _reads_on(self) -> bool:
        # What comes is bounded all the same: nothing of it is acknowledged before it was handed out.
        return len(self._arrived) < ARRIVED_MAX or 0 < self._safety_awaited

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        failure = from_rpc(error)
        if not is_worth_another_connection(failure):
            self._fail(failure)

    def _fail(self, failure: Exception) -> None:
        if not self._is_over():
            self._failure = failure
        self._notify()


async def _write_all(call: Any, outgoing: asyncio.Queue[pb.SessionSendRequest]) -> None:
    try:
        while True:
            await call.write(await outgoing.get())
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        # The call has ended; whoever reads it is told why.
        return
