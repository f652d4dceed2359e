"""A session, synchronously: messages both ways, over as many connections as it takes."""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

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

ARRIVED_MAX = 64
"""Messages that wait to be read; then the orchestrator has to wait."""


class Session:
    """An attached session. It reconnects by itself, resends what was not acknowledged, and yields each message once.

    Every method may be called from any thread. An error that another connection cannot help against is raised to
    whoever reads or sends. Use it as a context manager, or call `detach` at the end; the session itself goes on until
    it is closed or expires.
    """

    def __init__(self, channel: grpc.Channel, bearer: tuple[str, str], session_id: str) -> None:
        self._channel = channel
        self._metadata = (bearer, (_service.SESSION_METADATA, session_id))
        self._conversation = Conversation(session_id)
        self._changed = threading.Condition()
        """Guards everything below, and tells of it."""
        self._outgoing: queue.SimpleQueue[pb.SessionSendRequest | None] | None = None
        self._call: Any = None
        self._arrived: deque[Message | Exception] = deque()
        self._safety_awaited = 0
        """How many wait for acknowledgements, which come behind messages: those are read on meanwhile."""
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

    def send(self, payload: Json = None, *, in_reply_to: int = 0, timeout: float | None = None) -> int:
        """Sends a message; returns its number, by which a reply names it. Waits while too many are unacknowledged, and
        raises `TimeoutError` when that takes longer than `timeout` seconds.

        It is kept, and sent again after a cut, until it is safe; wait for that with `flush` before `detach`.
        """
        value = to_message(payload)
        with self._changed:
            # A number given before the session was ever reached might be somebody else's.
            has_room = self._wait_for_safety(lambda: self._is_reached() and self._conversation.has_room, timeout)
            self._raise_if_over()
            if not has_room:
                raise TimeoutError("the message could not be sent in time")
            frame = self._conversation.send(value, in_reply_to)
            if self._outgoing is not None:
                self._outgoing.put(frame)
            return frame.data.seq

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until every message of ours is safe; False when that took longer than `timeout` seconds. Raises when
        they cannot become safe any more."""
        with self._changed:
            self._wait_for_safety(lambda: self._conversation.unacknowledged == 0, timeout)
            if self._conversation.unacknowledged == 0:
                return True
            self._raise_if_over()
            return False

    def receive(self, timeout: float | None = None) -> Message:
        """The next message. Raises `TimeoutError` when none comes in time, `SessionClosedError` at the end of the
        session, and `DetachedError` once this end has left it; whoever asks again is told again."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._arrived or self._is_over(), timeout):
                raise TimeoutError("no message came in time")
            if self._detached or not self._arrived:
                self._raise_if_over()
            arrived = self._arrived.popleft()
            # The driver may wait for room.
            self._changed.notify_all()
            if isinstance(arrived, Exception):
                raise arrived
            acknowledgement = self._conversation.hand_out(arrived)
            if self._outgoing is not None:
                self._outgoing.put(acknowledgement)
            return arrived

    def __iter__(self) -> Iterator[Message]:
        """Messages until the session has ended or this end has left it."""
        while True:
            try:
                message = self.receive()
            except (SessionClosedError, DetachedError):
                return
            yield message

    def detach(self) -> None:
        """Leaves the session; it goes on without us. Whoever waits is told so by `DetachedError`. Messages that are not
        safe yet may be lost: `flush` before."""
        with self._changed:
            self._detached = True
            call = self._call
            if self._outgoing is not None:
                self._outgoing.put(None)
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        if self._driver is not threading.current_thread():
            self._driver.join()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    def _is_over(self) -> bool:
        return self._detached or self._failure is not None

    def _raise_if_over(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._detached:
            raise DetachedError

    def _wait_for_safety(self, is_safe: Callable[[], bool], timeout: float | None) -> bool:
        self._safety_awaited += 1
        self._changed.notify_all()
        try:
            return self._changed.wait_for(lambda: self._is_over() or is_safe(), timeout)
        finally:
            self._safety_awaited -= 1

    def _is_reached(self) -> bool:
        return self._conversation.epoch != 0

    def _drive(self) -> None:
        try:
            failures = 0
            while not self._is_over():
                reached = self._connect()
                failures = 0 if reached else failures + 1
                pause = self._conversation.pause(failures, random.random())
                with self._changed:
                    self._changed.wait_for(self._is_over, pause)
        except Exception as error:
            # Whatever it is, whoever reads or sends must not wait for ever. A channel that was closed, above all.
            self._fail(error)

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
            if isinstance(taken, SessionClosedError):
                # What came before it is handed out first.
                self._failure = taken
            elif taken is not None:
                self._changed.wait_for(lambda: self._is_over() or self._reads_on())
                self._arrived.append(taken)
            self._changed.notify_all()

    def _reads_on(self) -> bool:
        # What comes is bounded all the same: nothing of it is acknowledged before it was handed out.
        return len(self._arrived) < ARRIVED_MAX or 0 < self._safety_awaited

    def _judge(self, error: grpc.RpcError) -> None:
        failure = from_rpc(error)
        if not is_worth_another_connection(failure):
            self._fail(failure)

    def _fail(self, failure: Exception) -> None:
        with self._changed:
            if not self._is_over():
                self._failure = failure
            self._changed.notify_all()
