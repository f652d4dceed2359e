"""An instance written with the base class, behind a real orchestrator."""

import asyncio
import threading
import time

import grpc
import pytest

import openclaw_orchestrator as oc
from openclaw_orchestrator import aio
from openclaw_orchestrator._stubs.openclaw.instance.v1 import instance_pb2 as pb

LONG = 60


class Counter(oc.Instance):
    """Upper-cases tasks, and counts the messages of each session."""

    async def execute(self, payload, call):
        if not isinstance(payload, str):
            raise oc.Refused(grpc.StatusCode.INVALID_ARGUMENT, "the payload is not a text")
        return {"text": payload.upper(), "attempt": call.attempt, "tenant": call.metadata.get("tenant")}

    async def message(self, session, payload, seq):
        session.state = (session.state or 0) + 1
        yield {"said": payload, "count": session.state}


@pytest.fixture
def counter(server):
    """A running instance, named `py`, and the loop that it runs in."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start():
        instance = Counter("py")
        port = await instance.start()
        async with aio.Orchestrator(server.address) as client:
            await client.register("py", f"127.0.0.1:{port}", incarnation=1, lease=300)
        return instance

    instance = asyncio.run_coroutine_threadsafe(start(), loop).result(LONG)
    yield instance
    asyncio.run_coroutine_threadsafe(instance.stop(grace=0), loop).result(LONG)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LONG)


def wait_until_healthy(client):
    for change in client.health_watch("py"):
        if any(one.state == "healthy" for one in change.instances):
            return


def test_tasks_are_executed_and_refused_as_it_says(server, counter):
    with oc.Orchestrator(server.address) as client:
        wait_until_healthy(client)
        answer = client.route("py", "hello", metadata={"tenant": "blue"}, timeout=LONG)
        assert answer.payload == {"text": "HELLO", "attempt": 1, "tenant": "blue"}
        with pytest.raises(oc.InvalidRequestError, match="not a text"):
            client.route("py", 1, timeout=LONG)


def test_each_message_of_a_session_is_applied_once_over_restarts_of_the_orchestrator(server, counter):
    with oc.Orchestrator(server.address) as client:
        wait_until_healthy(client)
        client.session_spawn("count", instances="py", loss_policy="reassign", idle_ttl=600)
        with client.session("count") as session:
            for number in range(12):
                session.send(number)
                if number in (4, 8):
                    server.kill()
                    server.start()
                    # What was registered is forgotten; an instance that runs itself registers again.
                    register_again(client, counter)
            counts = [session.receive(LONG).payload["count"] for _ in range(12)]
        assert counts == list(range(1, 13))


def register_again(client, counter):
    """As an instance does that runs itself: again, until somebody listens."""
    ends = time.monotonic() + LONG
    while True:
        try:
            return client.register("py", f"127.0.0.1:{counter.port}", incarnation=1, lease=300, timeout=LONG)
        except oc.UnavailableError:
            # The channel may still wait since it was refused.
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def test_it_says_that_it_does_not_serve_before_it_stops(server, counter):
    with oc.Orchestrator(server.address) as client:
        wait_until_healthy(client)
        counter.say_not_serving()
        for change in client.health_watch("py"):
            if any(one.state == "down" for one in change.instances):
                break


class Slow(oc.Instance):
    """Adds up what it is sent, and takes until it is told over each message."""

    def __init__(self):
        super().__init__("slow")
        self.applied = []
        self.begun = threading.Semaphore(0)
        self.go_on = asyncio.Event()

    async def message(self, session, payload, seq):
        self.applied.append(seq)
        self.begun.release()
        await self.go_on.wait()
        session.state = (session.state or 0) + payload
        yield session.state


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LONG)


def on(loop, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(LONG)


def test_a_message_whose_orchestrator_dies_while_it_is_applied_is_applied_once(server, loop):
    instance = Slow()
    on(loop, instance.start())
    with oc.Orchestrator(server.address) as client:
        client.register("slow", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
        client.session_spawn("sum", instances="slow", loss_policy="reassign", idle_ttl=600)
        with client.session("sum") as session:
            session.send(1)
            session.send(10)
            session.send(100)
            assert session.flush(LONG)
            assert instance.begun.acquire(timeout=LONG)
            server.kill()
            server.start()
            client.register("slow", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
            loop.call_soon_threadsafe(instance.go_on.set)
            assert [session.receive(LONG).payload for _ in range(3)] == [1, 11, 111]
        assert instance.applied == [1, 2, 3]
    on(loop, instance.stop(grace=0))


class Upper(oc.Instance):
    async def execute(self, payload, call):
        return payload.upper()


def test_an_instance_that_only_executes_is_not_asked_for_sessions_again_and_again(server, loop):
    instance = Upper("upper")
    opened, session_of = [], instance._session

    async def counted(requests, context):
        opened.append(1)
        await session_of(requests, context)

    instance._session = counted
    on(loop, instance.start())
    with oc.Orchestrator(server.address) as client:
        client.register("upper", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
        client.session_spawn("none", instances="upper", loss_policy="fail")
        with client.session("none") as session:
            with pytest.raises(oc.SessionClosedError, match="instance_lost"):
                session.send("x")
                try:
                    session.receive(LONG)
                except oc.MessagesLostError:
                    # It was taken before anybody knew that the instance takes no sessions.
                    session.receive(LONG)
        assert client.route("upper", "x", timeout=LONG).payload == "X"
    assert opened == [1]
    on(loop, instance.stop(grace=0))


def test_whoever_reads_is_told_which_of_what_was_posted_is_lost(server, loop):
    async def chokes(requests, context):
        await anext(requests)
        await context.write(pb.SessionResponse(opened=pb.SessionOpened()))
        await anext(requests)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no sessions after all")

    instance = Upper("chokes")
    instance._session = chokes
    on(loop, instance.start())
    with oc.Orchestrator(server.address) as client:
        client.register("chokes", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
        client.session_spawn("gone", instances="chokes", loss_policy="fail")
        with client.session("gone") as session:
            until = time.monotonic() + LONG
            while not client.session_get("gone").attached:
                assert time.monotonic() < until, "it is not attached"
                time.sleep(0.01)
            posted = client.session_post("gone", "x", wait=False, timeout=LONG)
            with pytest.raises(oc.MessagesLostError, match="posted to positions 1 to 1 to the instance") as told:
                session.receive(LONG)
            lost = told.value
            assert (lost.posted, lost.direction, lost.first, lost.last) == (True, "to_instance", 1, posted.position)
            with pytest.raises(oc.SessionClosedError, match="instance_lost"):
                session.receive(LONG)
    on(loop, instance.stop(grace=0))


@pytest.mark.parametrize(
    ("id", "host", "own_key", "error"),
    [
        ("bad id!", "127.0.0.1", None, oc.InvalidRequestError),
        ("py", "203.0.113.7", None, oc.PermissionDeniedError),
        ("py", "127.0.0.1", "wrong", oc.AuthenticationError),
        ("A", "127.0.0.1", None, oc.AlreadyExistsError),
    ],
)
def test_a_registration_that_can_never_succeed_ends_the_instance(embedded, caplog, id, host, own_key, error):
    run = Upper(id, key=own_key).run(orchestrator=embedded.address, host=host)
    with pytest.raises(error):
        asyncio.run(asyncio.wait_for(run, LONG))
    assert f"instance {id} may not register" in caplog.text


async def reached(client):
    try:
        await client.health()
    except oc.UnavailableError:
        return False
    return True


def test_an_instance_registers_once_its_orchestrator_is_there_and_says_that_it_waits(server, caplog):
    async def play():
        server.kill()
        running = asyncio.ensure_future(Upper("late").run(orchestrator=server.address))
        while "instance late could not register" not in caplog.text:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.start)
        async with aio.Orchestrator(server.address) as client:
            # Channels of one process share what they know of an address: this one may still count as refused.
            while not await reached(client):
                await asyncio.sleep(0.01)
            async for change in client.health_watch():
                if any(one.instance == "late" and one.state == "healthy" for one in change.instances):
                    break
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()

    asyncio.run(asyncio.wait_for(play(), LONG))


def test_an_instance_whose_name_a_newer_process_has_taken_ends(server, caplog, monkeypatch):
    monkeypatch.setattr("openclaw_orchestrator.instance.LEASE", 6.0)
    caplog.set_level("INFO", "openclaw_orchestrator")

    async def play():
        running = asyncio.ensure_future(Upper("twice").run(orchestrator=server.address))
        while "instance twice is registered" not in caplog.text:
            await asyncio.sleep(0.01)
        async with aio.Orchestrator(server.address) as client:
            await client.register("twice", "127.0.0.1:9", incarnation=time.time_ns(), lease=60)
        with pytest.raises(oc.PreconditionError, match="INCARNATION_STALE"):
            await running

    asyncio.run(asyncio.wait_for(play(), LONG))


def test_two_instances_cannot_share_a_port_by_chance():
    async def play():
        first = Upper("first")
        port = await first.start()
        with pytest.raises(RuntimeError):
            await Upper("second").start(f"127.0.0.1:{port}")
        await first.stop(grace=0)

    asyncio.run(play())


def test_a_task_as_large_as_the_orchestrator_takes_it_reaches_the_instance(server, loop):
    instance = Upper("upper")
    on(loop, instance.start())
    with oc.Orchestrator(server.address) as client:
        client.register("upper", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
        large = "x" * (4 * 1024 * 1024 - 128 * 1024)
        assert client.route("upper", large, timeout=LONG).payload == large.upper()
        with pytest.raises(oc.ResourceExhaustedError, match="MESSAGE_TOO_LARGE"):
            client.route("upper", large + large, timeout=LONG)
    on(loop, instance.stop(grace=0))


class Talkative(oc.Instance):
    async def message(self, session, payload, seq):
        for number in range(payload):
            yield number


def test_all_that_a_handler_says_arrives_once_though_its_orchestrator_dies_meanwhile(server, loop):
    instance = Talkative("talkative")
    on(loop, instance.start())
    with oc.Orchestrator(server.address) as client:
        client.register("talkative", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
        client.session_spawn("much", instances="talkative", idle_ttl=600)
        with client.session("much") as session:
            # More than is kept unacknowledged: it waits for room when the orchestrator dies.
            session.send(3000)
            received = [session.receive(LONG).payload for _ in range(100)]
            server.kill()
            server.start()
            client.register("talkative", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
            received += [session.receive(LONG).payload for _ in range(2900)]
        assert received == list(range(3000))
    on(loop, instance.stop(grace=0))


def test_an_instance_that_stops_does_not_wait_for_sessions_that_go_on_elsewhere(server, loop):
    instance = Talkative("talkative")
    on(loop, instance.start())
    with oc.Orchestrator(server.address) as client:
        client.register("talkative", f"127.0.0.1:{instance.port}", incarnation=1, lease=300)
        client.session_spawn("open", instances="talkative", idle_ttl=600)
        with client.session("open") as session:
            session.send(1)
            assert session.receive(LONG).payload == 0
            assert session.flush(LONG)
            on(loop, instance.stop(grace=10 * LONG))
            assert client.session_get("open").state == "open"
