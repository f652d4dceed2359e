"""How an instance takes part in sessions, frame by frame: calls that are cut, and what must not happen twice."""

import asyncio

import grpc
import pytest

import openclaw_orchestrator as oc
from openclaw_orchestrator._json import from_value, to_value
from openclaw_orchestrator._stubs.openclaw.instance.v1 import instance_pb2 as pb

SOON = 20


class Aborted(Exception):
    pass


class Call:
    """One call of Session, as its orchestrator sees it. `breaks_after` frames, nothing can be written any more."""

    def __init__(self, instance, breaks_after=None):
        self.requests = asyncio.Queue()
        self.written = []
        self.replies_count = 0
        self.acks = []
        self.status = None
        self.breaks_after = breaks_after
        self.changed = asyncio.Event()
        self.task = asyncio.ensure_future(instance._session(self.incoming(), self))
        # Whoever wants to know reads `status`.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def incoming(self):
        while (request := await self.requests.get()) is not None:
            yield request

    async def write(self, frame):
        # A write takes its time, and others run meanwhile.
        await asyncio.sleep(0)
        if self.breaks_after is not None and self.breaks_after <= len(self.written):
            raise ConnectionError("the call is gone")
        self.written.append(pb.SessionResponse.FromString(frame.SerializeToString()))
        self.replies_count += frame.HasField("data")
        if frame.HasField("ack"):
            self.acks.append(frame.ack.through)
        self.changed.set()

    async def abort(self, code, message):
        self.status = (code, message)
        self.changed.set()
        raise Aborted(message)

    def say(self, **frame):
        self.requests.put_nowait(pb.SessionRequest(**frame))

    def open(self, epoch, next_seq=1, session="s", **numbers):
        self.say(open=pb.SessionOpen(session=session, epoch=epoch, next_seq=next_seq, **numbers))
        return self

    def data(self, seq, payload=None):
        self.say(data=pb.SessionData(seq=seq, payload=to_value(payload)))

    @property
    def opened(self):
        return [frame.opened.received_through for frame in self.written if frame.HasField("opened")]

    @property
    def replies(self):
        found = [frame.data for frame in self.written if frame.HasField("data")]
        return [(data.seq, data.in_reply_to, from_value(data.payload)) for data in found]

    async def until(self, holds):
        async with asyncio.timeout(SOON):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def cut(self):
        self.task.cancel()
        await asyncio.wait([self.task])

    async def end(self):
        await asyncio.wait([self.task], timeout=SOON)
        assert self.task.done()


class Adder(oc.Instance):
    """Adds up what it is sent, and takes as long over it as it is told to."""

    def __init__(self, **options):
        super().__init__("adder", **options)
        self.applied = []
        self.begun = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def message(self, session, payload, seq):
        self.applied.append(seq)
        self.begun.put_nowait(seq)
        await self.go_on.wait()
        session.state = (session.state or 0) + payload
        yield session.state


def playing(play):
    """Runs a test in a loop of its own."""

    def test():
        asyncio.run(play())

    test.__name__ = play.__name__
    return test


@playing
async def test_a_call_that_is_cut_while_a_message_is_applied_does_not_have_it_applied_again():
    instance = Adder()
    instance.go_on.clear()
    first = Call(instance).open(1)
    first.data(1, 1)
    assert await instance.begun.get() == 1
    await first.cut()
    second = Call(instance).open(2)
    await second.until(lambda: second.opened)
    assert second.opened == [1], "it has the message already"
    second.data(1, 1)
    second.data(2, 10)
    # The next message waits until the one before it has been applied.
    for _ in range(20):
        await asyncio.sleep(0)
    assert instance.applied == [1]
    instance.go_on.set()
    await second.until(lambda: len(second.replies) == 2)
    assert instance.applied == [1, 2]
    assert second.replies == [(1, 1, 1), (2, 2, 11)]
    assert second.acks == []
    second.say(ack=pb.SessionAck(through=2))
    await second.until(lambda: second.acks == [2])
    await second.cut()


@playing
async def test_a_reply_that_could_not_be_written_is_kept_once():
    instance = Adder()
    # Broken after `opened`.
    first = Call(instance, breaks_after=1).open(1)
    first.data(1, 1)
    await first.end()
    second = Call(instance).open(2)
    await second.until(lambda: second.opened)
    if second.opened == [0]:
        second.data(1, 1)
    second.data(2, 10)
    await second.until(lambda: len(second.replies) == 2)
    assert instance.applied == [1, 2]
    assert second.replies == [(1, 1, 1), (2, 2, 11)]
    await second.cut()


@playing
async def test_a_session_that_was_elsewhere_meanwhile_goes_on_where_the_other_instance_has_stopped():
    instance = Adder()
    first = Call(instance).open(1)
    for seq in (1, 2, 3, 4, 5):
        first.data(seq, 1)
    await first.until(lambda: len(first.replies) == 5)
    await first.cut()
    back = Call(instance).open(3, next_seq=11, answered_through=10, received_through=10, received_epoch=2)
    await back.until(lambda: back.opened)
    assert back.opened == [5]
    back.data(11, 1)
    await back.until(lambda: back.replies)
    assert back.replies == [(11, 11, 6)]
    assert instance.applied == [1, 2, 3, 4, 5, 11]
    await back.cut()


@playing
async def test_what_another_instance_has_answered_meanwhile_is_applied_for_its_effects_only():
    instance = Adder()
    instance.go_on.clear()
    first = Call(instance).open(1)
    first.data(1, 1)
    assert await instance.begun.get() == 1
    await first.cut()
    back = Call(instance).open(3, answered_through=2, received_through=2, received_epoch=2)
    await back.until(lambda: back.opened)
    instance.go_on.set()
    back.data(2, 10)
    back.data(3, 100)
    await back.until(lambda: back.replies)
    assert back.replies == [(3, 3, 111)]
    assert instance.applied == [1, 2, 3]
    await back.cut()


class Twice(Adder):
    async def message(self, session, payload, seq):
        yield "at once"
        async for reply in super().message(session, payload, seq):
            yield reply


@playing
async def test_a_handler_that_runs_on_over_a_cut_says_the_rest_although_its_first_reply_is_safe():
    instance = Twice()
    instance.go_on.clear()
    first = Call(instance).open(1)
    first.data(1, 1)
    await first.until(lambda: first.replies)
    await first.cut()
    second = Call(instance).open(2, answered_through=1, received_through=1, received_epoch=1)
    await second.until(lambda: second.opened)
    instance.go_on.set()
    await second.until(lambda: second.replies)
    assert second.replies == [(2, 1, 1)]
    assert instance.applied == [1]
    await second.cut()


@playing
async def test_a_newer_call_replaces_the_older_one_at_once():
    instance = Adder()
    older = Call(instance).open(1)
    await older.until(lambda: older.opened)
    newer = Call(instance).open(2)
    await older.until(lambda: older.status)
    assert older.status[0] is grpc.StatusCode.ABORTED
    stale = Call(instance).open(2)
    await stale.until(lambda: stale.status)
    assert stale.status[0] is grpc.StatusCode.FAILED_PRECONDITION
    newer.data(1, 1)
    await newer.until(lambda: newer.replies)
    await newer.cut()


@playing
async def test_a_hole_is_told_as_lost_data():
    call = Call(Adder()).open(1)
    call.data(2, 1)
    await call.until(lambda: call.status)
    assert call.status[0] is grpc.StatusCode.DATA_LOSS


@playing
async def test_an_instance_that_overrides_no_message_refuses_sessions_when_they_are_opened():
    call = Call(oc.Instance("tasks-only")).open(1)
    await call.until(lambda: call.status)
    assert call.status[0] is grpc.StatusCode.UNIMPLEMENTED
    assert call.written == []


class Refusing(Adder):
    async def message(self, session, payload, seq):
        async for reply in super().message(session, 1, seq):
            yield reply
        if payload == "refuse":
            raise oc.Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more today")
        if payload == "fail":
            raise RuntimeError("a secret")
        if payload == "unsendable":
            yield 2**60
        if payload == "large":
            yield "x" * (4 * 1024 * 1024)


@pytest.mark.parametrize(
    ("payload", "code", "word"),
    [
        ("refuse", grpc.StatusCode.RESOURCE_EXHAUSTED, "no more today"),
        ("fail", grpc.StatusCode.INTERNAL, "failed to apply"),
        ("unsendable", grpc.StatusCode.INTERNAL, "2^53"),
        ("large", grpc.StatusCode.INTERNAL, "bytes"),
    ],
)
def test_a_handler_that_raises_ends_the_call_with_a_status_and_has_applied_its_message(payload, code, word):
    async def play():
        instance = Refusing()
        first = Call(instance).open(1)
        first.data(1, payload)
        await first.until(lambda: first.status)
        assert first.status[0] is code
        assert word in first.status[1] and "secret" not in first.status[1]
        second = Call(instance).open(2, received_through=1, received_epoch=1)
        await second.until(lambda: second.opened)
        assert second.opened == [1]
        second.data(2)
        await second.until(lambda: second.replies)
        assert instance.applied == [1, 2]
        await second.cut()

    asyncio.run(play())


@playing
async def test_what_a_handler_raises_while_nobody_is_connected_does_not_end_the_next_call():
    instance = Refusing()
    instance.go_on.clear()
    first = Call(instance).open(1)
    first.data(1, "refuse")
    assert await instance.begun.get() == 1
    await first.cut()
    instance.go_on.set()
    [session] = instance._sessions.all()
    await asyncio.wait([session._running])
    second = Call(instance).open(2)
    await second.until(lambda: second.replies)
    for _ in range(20):
        await asyncio.sleep(0)
    assert second.status is None
    second.data(2)
    await second.until(lambda: second.replies_count == 2)
    assert instance.applied == [1, 2]
    await second.cut()


@playing
async def test_the_session_that_has_rested_longest_is_forgotten_for_a_new_one():
    instance = Adder(sessions_max=2)

    async def sum_of(session, epoch):
        call = Call(instance).open(epoch, session=session)
        await call.until(lambda: call.opened)
        call.data(call.opened[0] + 1, 1)
        await call.until(lambda: call.replies)
        total = call.replies[-1][2]
        call.say(ack=pb.SessionAck(through=1))
        await call.until(lambda: call.acks)
        await call.cut()
        return total

    assert [await sum_of("a", 1), await sum_of("b", 1), await sum_of("a", 2)] == [1, 1, 2]
    assert await sum_of("c", 1) == 1
    assert await sum_of("a", 3) == 3, "it was used after b"
    assert len(instance._sessions) == 2
    assert await sum_of("b", 2) == 1, "it was forgotten"


@playing
async def test_sessions_in_use_are_never_forgotten():
    instance = Adder(sessions_max=2)
    instance.go_on.clear()
    attached = Call(instance).open(1, session="attached")
    running = Call(instance).open(1, session="running")
    running.data(1, 1)
    await instance.begun.get()
    await running.cut()
    one_more = Call(instance).open(1, session="one more")
    await one_more.until(lambda: one_more.status)
    assert one_more.status[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    instance.go_on.set()
    again = Call(instance).open(2, session="running")
    await again.until(lambda: again.replies)
    assert again.replies == [(1, 1, 1)]
    await again.cut()
    await attached.cut()


@playing
async def test_what_is_still_to_be_said_is_said_before_a_session_goes_elsewhere():
    instance = Adder()
    instance.go_on.clear()
    call = Call(instance).open(1)
    call.data(1, 1)
    assert await instance.begun.get() == 1
    call.data(2, 1)
    call.say(close=pb.SessionClose(reason=pb.SESSION_CLOSE_REASON_MOVED))
    await asyncio.sleep(0)
    instance.go_on.set()
    await call.end()
    assert call.status is None
    assert call.replies == [(1, 1, 1)]
    assert instance.applied == [1], "the other instance gets the rest"
    assert len(instance._sessions) == 0


@playing
async def test_an_instance_that_stops_gives_its_sessions_back_once_its_replies_are_safe():
    instance = Adder()
    instance.go_on.clear()
    call = Call(instance).open(1)
    call.data(1, 1)
    assert await instance.begun.get() == 1
    stopping = asyncio.ensure_future(instance.stop())
    await asyncio.sleep(0)
    call.data(2, 1)
    instance.go_on.set()
    await call.until(lambda: call.replies)
    assert not call.task.done()
    call.say(ack=pb.SessionAck(through=1))
    await call.end()
    assert call.acks == [1]
    assert call.written[-1].close.reason == pb.SESSION_CLOSE_REASON_SUSPENDED
    assert instance.applied == [1]
    await stopping


class Talkative(oc.Instance):
    async def message(self, session, payload, seq):
        for number in range(payload):
            yield number


@playing
async def test_a_handler_that_says_much_waits_for_room_and_hears_of_it_behind_many_messages():
    instance = Talkative("talkative")
    call = Call(instance).open(1)
    call.data(1, 1500)
    for seq in range(2, 1502):
        call.data(seq, 0)
    await call.until(lambda: call.replies_count == 1000)
    call.say(ack=pb.SessionAck(through=700))
    await call.until(lambda: call.replies_count == 1500)
    call.say(ack=pb.SessionAck(through=1500))
    await call.until(lambda: call.acks and call.acks[-1] == 1501)
    await call.cut()
