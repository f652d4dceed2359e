"""A session for asyncio: messages both ways, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from . import _service
from ._conversation import Conversation, SessionClosedError, is_worth_another_connection
from ._errors import from_rpc
from ._json import Json, to_value
from ._models import Message
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb
from .session import ARRIVED_MAX


class Session:
    """An attached session. It reconnects by itself, resends what was not acknowledged, and yields each message once.

    An error that another connection cannot help against is raised to whoever reads or sends. Use it as an asynchronous
    context manager, or call `detach` at the end; the session itself goes on until it is closed or expires.
    """

    def __init__(self, channel: grpc.aio.Channel, bearer: tuple[str, str], session_id: str) -> None:
        self._channel = channel
        self._metadata = (bearer, (_service.SESSION_METADATA, session_id))
        self._conversation = Conversation(session_id)
        self._changed = asyncio.Condition()
        self._outgoing: asyncio.Queue[pb.SessionSendRequest] | None = None
        self._arrived: asyncio.Queue[Message | Exception] = asyncio.Queue(ARRIVED_MAX)
        self._detached = False
        self._failure: Exception | None = None
        self._driver = asyncio.ensure_future(self._drive())

    @property
    def instance(self) -> str:
        """The instance that holds the session, as far as is known."""
        return self._conversation.instance

    @property
    def unacknowledged(self) -> int:
        """Messages of ours that are not safe yet."""
        return self._conversation.unacknowledged

    async def send(self, payload: Json = None, *, in_reply_to: int = 0) -> int:
        """Sends a message; returns its number, by which a reply names it. Waits while too many are unacknowledged."""
        value = to_value(payload)
        async with self._changed:
            # A number given before the session was ever reached might be somebody else's.
            await self._changed.wait_for(
                lambda: self._is_over() or (self._conversation.epoch != 0 and self._conversation.has_room)
            )
            if self._failure is not None:
                raise self._failure
            if self._detached:
                raise ValueError("the session was detached")
            frame = self._conversation.send(value, in_reply_to)
            if self._outgoing is not None:
                self._outgoing.put_nowait(frame)
            return frame.data.seq

    async def flush(self) -> None:
        """Waits until every message of ours is safe."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_over() or self._conversation.unacknowledged == 0)
            if self._failure is not None and self._conversation.unacknowledged:
                raise self._failure

    async def receive(self) -> Message:
        """The next message. Raises `SessionClosedError` at the end."""
        if self._failure is not None and self._arrived.empty():
            # Whoever asks again is told again.
            raise self._failure
        arrived = await self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        acknowledgement = self._conversation.hand_out(arrived)
        if self._outgoing is not None:
            self._outgoing.put_nowait(acknowledgement)
        return arrived

    async def __aiter__(self) -> AsyncIterator[Message]:
        while True:
            try:
                message = await self.receive()
            except SessionClosedError:
                return
            yield message

    async def detach(self) -> None:
        """Leaves the session; it goes on without us."""
        self._detached = True
        self._driver.cancel()
        await asyncio.wait([self._driver])
        async with self._changed:
            self._changed.notify_all()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.detach()

    def _is_over(self) -> bool:
        return self._detached or self._failure is not None

    async def _drive(self) -> None:
        failures = 0
        while not self._is_over():
            reached = await self._connect()
            failures = 0 if reached else failures + 1
            if not self._is_over():
                await asyncio.sleep(self._conversation.pause(failures, random.random()))

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
                    async with self._changed:
                        for again in self._conversation.ready(frame.ready):
                            outgoing.put_nowait(again)
                        self._outgoing = outgoing
                        self._changed.notify_all()
                else:
                    await self._take(frame)
                    if self._is_over():
                        break
        except grpc.aio.AioRpcError as error:
            await self._judge(error)
        finally:
            self._outgoing = None
            writer.cancel()
            call.cancel()
        return ready

    async def _take(self, frame: pb.SessionSendResponse) -> None:
        async with self._changed:
            taken = self._conversation.take(frame)
            if self._conversation.closed is not None and isinstance(taken, Exception):
                self._failure = taken
            self._changed.notify_all()
        if taken is not None:
            await self._arrived.put(taken)

    async def _judge(self, error: grpc.aio.AioRpcError) -> None:
        failure = from_rpc(error)
        if is_worth_another_connection(failure):
            return
        async with self._changed:
            self._failure = failure
            self._changed.notify_all()
        await self._arrived.put(failure)


async def _write_all(call: Any, outgoing: asyncio.Queue[pb.SessionSendRequest]) -> None:
    try:
        while True:
            await call.write(await outgoing.get())
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
        # The call has ended; whoever reads it is told why.
        return
