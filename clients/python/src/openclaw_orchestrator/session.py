"""A session, synchronously: messages both ways, over as many connections as it takes."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import grpc

from . import _service
from ._conversation import Conversation, SessionClosedError, is_worth_another_connection
from ._errors import from_rpc
from ._json import Json, to_value
from ._models import Message
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb

ARRIVED_MAX = 64
"""Messages that wait to be read; then the orchestrator has to wait."""


class Session:
    """An attached session. It reconnects by itself, resends what was not acknowledged, and yields each message once.

    `send` may be called from other threads than the one that reads. An error that another connection cannot help
    against is raised to whoever reads or sends. Use it as a context manager, or call `detach` at the end; the session
    itself goes on until it is closed or expires.
    """

    def __init__(self, channel: grpc.Channel, bearer: tuple[str, str], session_id: str) -> None:
        self._channel = channel
        self._metadata = (bearer, (_service.SESSION_METADATA, session_id))
        self._conversation = Conversation(session_id)
        self._changed = threading.Condition()
        self._outgoing: queue.SimpleQueue[pb.SessionSendRequest | None] | None = None
        self._call: Any = None
        self._arrived: queue.Queue[Message | Exception] = queue.Queue(ARRIVED_MAX)
        self._detached = False
        self._failure: Exception | None = None
        self._driver = threading.Thread(target=self._drive, name=f"session {session_id}", daemon=True)
        self._driver.start()

    @property
    def instance(self) -> str:
        """The instance that holds the session, as far as is known."""
        return self._conversation.instance

    @property
    def unacknowledged(self) -> int:
        """Messages of ours that are not safe yet."""
        return self._conversation.unacknowledged

    def send(self, payload: Json = None, *, in_reply_to: int = 0) -> int:
        """Sends a message; returns its number, by which a reply names it. Waits while too many are unacknowledged."""
        value = to_value(payload)
        with self._changed:
            # A number given before the session was ever reached might be somebody else's.
            self._changed.wait_for(lambda: self._is_over() or (self._is_reached() and self._conversation.has_room))
            if self._failure is not None:
                raise self._failure
            if self._detached:
                raise ValueError("the session was detached")
            frame = self._conversation.send(value, in_reply_to)
            if self._outgoing is not None:
                self._outgoing.put(frame)
            return frame.data.seq

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until every message of ours is safe; False when that took longer than `timeout` seconds."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._is_over() or self._conversation.unacknowledged == 0, timeout
            )
            if self._failure is not None and self._conversation.unacknowledged:
                raise self._failure
            return done

    def receive(self, timeout: float | None = None) -> Message:
        """The next message. Raises `TimeoutError` when none comes in time, and `SessionClosedError` at the end."""
        try:
            arrived = self._arrived.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError("no message came in time") from None
        if isinstance(arrived, Exception):
            if arrived is self._failure:
                # Whoever asks again is told again.
                self._arrived.put(arrived)
            raise arrived
        with self._changed:
            acknowledgement = self._conversation.hand_out(arrived)
            if self._outgoing is not None:
                self._outgoing.put(acknowledgement)
        return arrived

    def __iter__(self) -> Iterator[Message]:
        while True:
            try:
                yield self.receive()
            except SessionClosedError:
                return

    def detach(self) -> None:
        """Leaves the session; it goes on without us."""
        with self._changed:
            self._detached = True
            call = self._call
            if self._outgoing is not None:
                self._outgoing.put(None)
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        while self._driver.is_alive():
            # It may be waiting for room.
            try:
                self._arrived.get_nowait()
            except queue.Empty:
                self._driver.join(0.01)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def _is_over(self) -> bool:
        return self._detached or self._failure is not None

    def _is_reached(self) -> bool:
        return self._conversation.epoch != 0

    def _drive(self) -> None:
        failures = 0
        while not self._is_over():
            reached = self._connect()
            failures = 0 if reached else failures + 1
            if not self._is_over():
                pause = self._conversation.pause(failures, random.random())
                with self._changed:
                    self._changed.wait_for(self._is_over, pause)

    def _connect(self) -> bool:
        """One connection, to its end; whether it was ever ready."""
        outgoing: queue.SimpleQueue[pb.SessionSendRequest | None] = queue.SimpleQueue()
        with self._changed:
            outgoing.put(self._conversation.hello())
        open_ = self._channel.stream_stream(
            _service.SESSION_SEND.path, _service.encoded, pb.SessionSendResponse.FromString
        )
        # A server that is away is tried again by us, with what is known by then.
        call = open_(iter(outgoing.get, None), metadata=self._metadata, wait_for_ready=False)
        with self._changed:
            self._call = call
            if self._detached:
                call.cancel()
        ready = False
        try:
            for frame in call:
                if frame.HasField("ready"):
                    ready = True
                    with self._changed:
                        for again in self._conversation.ready(frame.ready):
                            outgoing.put(again)
                        self._outgoing = outgoing
                        self._changed.notify_all()
                else:
                    self._take(frame)
                    if self._is_over():
                        break
        except grpc.RpcError as error:
            self._judge(error)
        finally:
            with self._changed:
                self._outgoing = None
            outgoing.put(None)
            call.cancel()
        return ready

    def _take(self, frame: pb.SessionSendResponse) -> None:
        with self._changed:
            taken = self._conversation.take(frame)
            if self._conversation.closed is not None and isinstance(taken, Exception):
                self._failure = taken
            self._changed.notify_all()
        if taken is not None:
            self._arrived.put(taken)

    def _judge(self, error: grpc.RpcError) -> None:
        failure = from_rpc(error)
        if self._detached or is_worth_another_connection(failure):
            return
        with self._changed:
            self._failure = failure
            self._changed.notify_all()
        self._arrived.put(failure)
