"""What a client of a session has to remember, whichever way it is connected. Nothing here waits or sends.

Each side numbers its messages from 1 and keeps them until the other has acknowledged them; after a cut the client
goes on where the orchestrator says that it stands.
"""

from __future__ import annotations

from collections import deque

from google.protobuf import struct_pb2

from . import _models as models
from . import _read
from ._errors import OrchestratorError
from ._json import Json, PayloadError, to_value
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb

KEPT_MAX = 1000
"""Messages of ours that wait for their acknowledgement: whoever keeps to it, and to the bytes, is always heard."""

KEPT_BYTES_MAX = 1024 * 1024
"""Bytes of these; one message always fits."""

MESSAGE_BYTES_MAX = 4 * 1024 * 1024 - 64 * 1024
"""Bytes of one message; its frame adds a few, and the orchestrator takes 4 MiB."""


class SessionClosedError(Exception):
    """The session has ended. `reason` is `by_client`, `by_instance`, `instance_lost` or `expired`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session has ended: {reason}")
        self.reason = reason


class DetachedError(ValueError):
    """This end has left the session, by `detach` or because the orchestrator's client was closed. What had arrived and
    was not handed out comes again with the next attach."""

    def __init__(self) -> None:
        super().__init__("the session was detached")


class MessagesLostError(Exception):
    """Messages of a session are lost; the session itself may go on.

    `direction` is `to_instance` or `to_client`, `first` and `last` are their numbers. Where `posted` is true these are
    messages that were posted, and the numbers are the positions that `post` has answered.
    """

    def __init__(self, direction: str, first: int, last: int, *, posted: bool = False) -> None:
        what = "messages posted to positions" if posted else "messages"
        super().__init__(f"{what} {first} to {last} {direction.replace('_', ' the ')} are lost")
        self.direction = direction
        self.first = first
        self.last = last
        self.posted = posted


def to_message(payload: Json) -> struct_pb2.Value:
    """A payload that fits into one message. One that does not would be sent, and refused, for ever."""
    value = to_value(payload)
    if MESSAGE_BYTES_MAX < value.ByteSize():
        raise PayloadError(f"payload: it has {value.ByteSize()} bytes, and a message may have {MESSAGE_BYTES_MAX}")
    return value


class Conversation:
    """The state of one client in one session, over all its connections."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.instance = ""
        self.epoch = 0
        self.received = 0
        """The last message of the other side that has arrived."""
        self.handed_out = 0
        """The last one that was handed out; only up to here nothing needs to be sent again."""
        self.closed: str | None = None
        self._knows_position = False
        self._sent = 0
        self._kept: deque[pb.SessionClientData] = deque()
        self._kept_bytes = 0
        self._going_away: float | None = None

    def hello(self) -> pb.SessionSendRequest:
        """The first frame of a connection."""
        hello = pb.SessionHello(session_id=self.session_id)
        if self._knows_position:
            hello.last_received_seq = self.handed_out
        return pb.SessionSendRequest(hello=hello)

    def ready(self, ready: pb.SessionReady) -> list[pb.SessionSendRequest]:
        """What has to be sent again at the start of a connection."""
        self.instance, self.epoch = ready.instance, ready.epoch
        if not self._knows_position:
            # Somebody else may have used the session before: go on where that one stopped.
            self._sent = max(self._sent, ready.last_received_seq)
            renumbered = 0
            for renumbered, data in enumerate(self._kept, start=ready.last_received_seq + 1):
                data.seq = renumbered
            self._sent = max(self._sent, renumbered)
            self._knows_position = True
        self.received = max(self.received, ready.first_seq - 1)
        self.handed_out = max(self.handed_out, ready.first_seq - 1)
        self._forget(ready.last_received_seq)
        return [pb.SessionSendRequest(data=data) for data in self._kept]

    @property
    def has_room(self) -> bool:
        """Whether one more message can be kept."""
        return not self._kept or (len(self._kept) < KEPT_MAX and self._kept_bytes < KEPT_BYTES_MAX)

    @property
    def unacknowledged(self) -> int:
        """Messages of ours that the orchestrator has not acknowledged."""
        return len(self._kept)

    def send(self, payload: struct_pb2.Value, in_reply_to: int) -> pb.SessionSendRequest:
        """Numbers a message and keeps it."""
        self._sent += 1
        data = pb.SessionClientData(seq=self._sent, payload=payload, in_reply_to=in_reply_to)
        self._kept.append(data)
        self._kept_bytes += payload.ByteSize()
        return pb.SessionSendRequest(data=data)

    def take(self, frame: pb.SessionSendResponse) -> models.Message | Exception | None:
        """A frame of the orchestrator: a message to hand out, something to raise, or nothing."""
        match frame.WhichOneof("frame"):
            case "data":
                if frame.data.seq <= self.received:
                    return None
                self.received = frame.data.seq
                return _read.message(frame.data)
            case "ack":
                self._forget(frame.ack.seq)
            case "moved":
                self.instance, self.epoch = frame.moved.instance, frame.moved.epoch
            case "lost":
                direction = _read.word(pb.Direction, "DIRECTION_", frame.lost.direction)
                if frame.lost.first_position:
                    first, last = frame.lost.first_position, frame.lost.last_position
                    return MessagesLostError(direction, first, last, posted=True)
                if direction == "to_client":
                    self.received = max(self.received, frame.lost.last_seq)
                else:
                    self._forget(frame.lost.last_seq)
                return MessagesLostError(direction, frame.lost.first_seq, frame.lost.last_seq)
            case "go_away":
                self._going_away = frame.go_away.delay.ToTimedelta().total_seconds()
            case "closed":
                self.closed = _read.word(pb.CloseReason, "CLOSE_REASON_", frame.closed.reason)
                return SessionClosedError(self.closed)
        return None

    def hand_out(self, message: models.Message) -> pb.SessionSendRequest:
        """Notes that a message was handed out, and says so to the orchestrator."""
        self.handed_out = max(self.handed_out, message.seq)
        return pb.SessionSendRequest(ack=pb.SessionAck(seq=self.handed_out))

    def pause(self, failures: int, random: float) -> float:
        """Seconds to wait before the next connection. `random` is uniform, 0 to 1."""
        if self._going_away is not None:
            pause, self._going_away = self._going_away, None
            return pause + 0.1 * random
        return float(min(5.0, 0.1 * 2 ** min(failures, 6)) * (0.5 + random / 2))

    def _forget(self, through: int) -> None:
        while self._kept and self._kept[0].seq <= through:
            self._kept_bytes -= self._kept.popleft().payload.ByteSize()


REPEATABLE = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED"}
"""What ends a connection and not a session: the next connection goes on."""

FINAL = {"MESSAGE_TOO_LARGE"}
"""Reasons that come again with what is sent again."""


def is_worth_another_connection(error: OrchestratorError) -> bool:
    return error.reason not in FINAL and (error.retryable or error.code.name in REPEATABLE)
