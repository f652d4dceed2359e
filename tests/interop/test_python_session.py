"""Sessions with instances written in Python, asked directly: what they promise does not need an orchestrator."""

import asyncio
import queue
import threading

import grpc
import pytest
from google.protobuf import json_format, struct_pb2

from stubs import REPOSITORY
from waiting import LONG


class Talk:
    """One call of Session, frame by frame."""

    def __init__(self, messages, stub, epoch, session="s", spawned=1_700_000_000, **opening):
        self.messages = messages
        self.frames = queue.Queue()
        open = messages.SessionOpen(session=session, epoch=epoch, **{"next_seq": 1, **opening})
        open.spawn_time.FromSeconds(spawned)
        self.tell(open=open)
        self.call = stub.Session(iter(self.frames.get, None), timeout=LONG)

    def tell(self, **frame):
        self.frames.put(self.messages.SessionRequest(**frame))

    def send(self, seq, number):
        payload = struct_pb2.Value(number_value=number)
        self.tell(data=self.messages.SessionData(seq=seq, payload=payload))

    def ack(self, through):
        self.tell(ack=self.messages.SessionAck(through=through))

    def close(self, reason):
        self.tell(close=self.messages.SessionClose(reason=reason))

    def hear(self):
        """The next frame, as plain words."""
        response = next(self.call)
        kind = response.WhichOneof("frame")
        frame = getattr(response, kind)
        match kind:
            case "opened":
                return kind, frame.received_through
            case "data":
                return kind, frame.seq, frame.in_reply_to, json_format.MessageToDict(frame.payload)
            case "ack":
                return kind, frame.through

    def code(self):
        """The status with which it ends."""
        with pytest.raises(grpc.RpcError) as caught:
            next(self.call)
        return caught.value.code()


@pytest.fixture
def echoes(python_instance, stubs):
    """The instance of these tests, which says what it applies."""
    instance = python_instance()
    address = instance.lines.wait_for(event="registered")["address"]
    yield from talking(address)


@pytest.fixture
def adds_up(stubs, monkeypatch):
    """The example: it answers with the sum of what it was sent."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    import session_instance
    from openclaw.instance.v1 import instance_pb2_grpc

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start():
        server = grpc.aio.server()
        instance_pb2_grpc.add_InstanceServiceServicer_to_server(session_instance.Counter(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(LONG)
    yield from talking(f"127.0.0.1:{port}")
    asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(LONG)
    loop.call_soon_threadsafe(loop.stop)


def talking(address):
    from openclaw.instance.v1 import instance_pb2, instance_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = instance_pb2_grpc.InstanceServiceStub(channel)
        yield lambda epoch, **opening: Talk(instance_pb2, stub, epoch, **opening)


@pytest.fixture(params=["echoes", "adds_up"])
def talk(request):
    return request.getfixturevalue(request.param)


DONE, SUSPENDED = 1, 4


def test_each_message_is_applied_once_and_acknowledged_when_its_answer_was_taken(talk):
    first = talk(1)
    assert first.hear() == ("opened", 0)
    first.send(1, 5)
    assert first.hear() == ("data", 1, 1, 5)
    first.send(1, 5)
    first.ack(1)
    assert first.hear() == ("ack", 1)
    first.send(2, 0)
    answer = first.hear()
    assert answer[:3] == ("data", 2, 2)
    first.call.cancel()

    # The answer was lost: it comes again, and the message is not applied again.
    second = talk(2, received_through=1, received_epoch=1)
    assert second.hear() == ("opened", 2)
    assert second.hear() == answer
    assert second.hear() == ("ack", 1)
    second.send(2, 0)
    second.ack(2)
    assert second.hear() == ("ack", 2)
    second.close(SUSPENDED)
    assert list(second.call) == []
    assert talk(3).hear() == ("opened", 2)


def test_an_older_epoch_is_refused_before_and_after(talk):
    older = talk(1)
    assert older.hear() == ("opened", 0)
    assert talk(2).hear() == ("opened", 0)
    older.send(1, 1)
    assert older.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert talk(2).code() == grpc.StatusCode.FAILED_PRECONDITION


def test_a_gap_ends_the_call_and_a_closed_session_is_forgotten(talk):
    gap = talk(1)
    assert gap.hear() == ("opened", 0)
    gap.send(2, 1)
    assert gap.code() == grpc.StatusCode.DATA_LOSS
    last = talk(2)
    last.send(1, 1)
    assert (last.hear(), last.hear()[:3]) == (("opened", 0), ("data", 1, 1))
    last.close(DONE)
    assert list(last.call) == []
    assert talk(1).hear() == ("opened", 0)


def test_what_was_answered_before_is_applied_and_not_answered(talk):
    replay = talk(2, answered_through=1, received_through=1, received_epoch=1)
    assert replay.hear() == ("opened", 0)
    replay.send(1, 5)
    assert replay.hear() == ("ack", 1)
    replay.send(2, 0)
    assert replay.hear()[:3] == ("data", 2, 2)


def test_a_session_spawned_anew_has_nothing_of_the_one_before(adds_up):
    first = adds_up(3)
    first.send(1, 5)
    assert (first.hear(), first.hear()) == (("opened", 0), ("data", 1, 1, 5))
    anew = adds_up(1, spawned=1_700_000_001)
    anew.send(1, 7)
    assert (anew.hear(), anew.hear()) == (("opened", 0), ("data", 1, 1, 7))


def test_what_the_example_remembers_has_a_bound(adds_up, monkeypatch):
    import session_instance

    monkeypatch.setattr(session_instance, "SESSIONS_MAX", 1)
    for session, opened in (("a", 0), ("b", 0), ("b", 1), ("a", 0)):
        call = adds_up(1 if opened == 0 else 2, session=session)
        assert call.hear() == ("opened", opened)
        call.send(opened + 1, 1)
        assert call.hear()[0] == "data"
