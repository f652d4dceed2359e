"""Sessions through the package, over cuts and restarts of a real orchestrator."""

import asyncio
import subprocess
import sys
import threading

import pytest

import openclaw_orchestrator as oc
from openclaw_orchestrator import aio

LONG = 60


@pytest.fixture
def client(server):
    with oc.Orchestrator(server.address) as client:
        yield client


def test_messages_go_both_ways(client):
    spawned = client.session_spawn("talk", instances="A-H")
    with client.session("talk") as session:
        sent = session.send({"hello": 1})
        reply = session.receive(LONG)
        assert (reply.payload, reply.in_reply_to) == ({"hello": 1}, sent)
        assert session.instance == spawned.session.instance
    assert client.session_get("talk").state == "open"
    assert [one.id for one in client.sessions(state="open")] == ["talk"]
    assert client.session_close("talk").state == "closed"


def test_a_token_opens_its_session_and_nothing_else(server, client):
    token = client.session_spawn("mine").token
    assert token not in repr(client.session_spawn("other"))
    with oc.Orchestrator(server.address, key=token) as holder:
        assert holder.session_post("mine", "x", timeout=LONG).payload == "x"
        with pytest.raises(oc.PermissionDeniedError):
            holder.session_get("other")
        with pytest.raises(oc.OrchestratorError):
            holder.route("A")


def test_a_post_waits_for_its_reply_and_is_not_sent_twice(client):
    client.session_spawn("posts")
    first = client.session_post("posts", {"n": 1}, idempotency_key="k", timeout=LONG)
    again = client.session_post("posts", {"n": 1}, idempotency_key="k", timeout=LONG)
    assert (first.payload, again.payload) == ({"n": 1}, {"n": 1})
    assert again.deduplicated and again.position == first.position
    assert not client.session_post("posts", 2, wait=False, timeout=LONG).replied


def test_a_session_survives_the_death_of_the_orchestrator(server, client):
    client.session_spawn("durable", instances="A-H", loss_policy="replay", idle_ttl=600)
    with client.session("durable") as session:
        replies = []
        reading = threading.Thread(target=lambda: [replies.append(session.receive(LONG)) for _ in range(30)])
        reading.start()
        numbers = []
        for number in range(30):
            numbers.append(session.send(number))
            if number in (10, 20):
                server.kill()
                server.start()
        reading.join(2 * LONG)
        assert [reply.payload for reply in replies] == list(range(30))
        assert [reply.in_reply_to for reply in replies] == numbers
        assert session.flush(LONG)


def test_a_newer_reader_cuts_off_the_older_one(client):
    client.session_spawn("one")
    with client.session("one") as older:
        older.send(1)
        older.receive(LONG)
        with client.session("one") as newer:
            newer.send(2)
            message = newer.receive(LONG)
            if message.redelivered:
                # What the older one has received may not be acknowledged yet.
                assert message.payload == 1
                message = newer.receive(LONG)
            assert message.payload == 2
            with pytest.raises(oc.AbortedError):
                older.receive(LONG)


def test_whoever_reads_is_told_of_the_end(client):
    client.session_spawn("short")
    with client.session("short") as session:
        session.send(1)
        session.receive(LONG)
        client.session_close("short")
        with pytest.raises(oc.SessionClosedError, match="by_client"):
            session.receive(LONG)
        with pytest.raises(oc.SessionClosedError):
            session.receive(LONG)


def test_an_unknown_session_is_no_reason_to_wait(client):
    with client.session("nobody") as session, pytest.raises(oc.NotFoundError):
        session.receive(LONG)


def test_the_asynchronous_client_does_the_same(server):
    async def talk():
        async with aio.Orchestrator(server.address) as client:
            assert (await client.route("A", "x", timeout=LONG)).payload == "x"
            events = [event async for event in client.fanout("A-C", 1, timeout=LONG)]
            assert isinstance(events[-1], oc.Summary)
            await client.session_spawn("async", instances="A-H", loss_policy="replay", idle_ttl=600)
            async with client.session("async") as session:
                for number in range(10):
                    await session.send(number)
                    if number == 5:
                        await asyncio.to_thread(server.kill)
                        await asyncio.to_thread(server.start)
                replies = [await asyncio.wait_for(session.receive(), LONG) for _ in range(10)]
                assert [reply.payload for reply in replies] == list(range(10))
                await asyncio.wait_for(session.flush(), LONG)

    asyncio.run(talk())


def in_a_thread(call):
    """Runs a call in a thread; what it raises, or gives, is in the list once the thread has ended."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def ended(thread, outcome):
    thread.join(LONG)
    assert not thread.is_alive(), "it hangs"
    return outcome[0]


@pytest.mark.parametrize("leave", ["detach", "close"])
def test_whoever_reads_or_iterates_when_this_end_leaves_is_told(client, server, leave):
    client.session_spawn("left")
    ours = oc.Orchestrator(server.address)
    session = ours.session("left")
    session.send("x")
    assert session.flush(LONG)
    assert session.receive(LONG).payload == "x"
    reading = in_a_thread(session.receive)
    iterating = in_a_thread(lambda: list(session))
    if leave == "detach":
        session.detach()
    else:
        ours.close()
    assert isinstance(ended(*reading), oc.DetachedError)
    assert ended(*iterating) == []
    for call in (session.receive, session.send):
        with pytest.raises(oc.DetachedError):
            call()
    assert session.flush(LONG), "everything is safe"
    assert list(session) == []
    assert not session._driver.is_alive()
    session.detach()
    ours.close()


def test_a_channel_that_somebody_else_has_closed_is_an_error_for_whoever_reads_or_sends(client, server):
    client.session_spawn("cut")
    ours = oc.Orchestrator(server.address)
    session = ours.session("cut")
    session.send("x")
    assert session.receive(LONG).payload == "x"
    reading = in_a_thread(session.receive)
    ours._channel.close()
    assert isinstance(ended(*reading), ValueError)
    with pytest.raises(ValueError, match="(?i)channel"):
        session.send("y")
    session.detach()


def test_what_is_not_safe_when_this_end_leaves_is_told_by_flush(client, server):
    client.session_spawn("unsafe")
    with client.session("unsafe") as session:
        session.send("x")
        assert session.receive(LONG).payload == "x"
        assert session.flush(LONG)
        server.kill()
        session.send("y")
        assert not session.flush(0)
        flushing = in_a_thread(session.flush)
    assert isinstance(ended(*flushing), oc.DetachedError)


def test_sending_gives_up_in_time_when_nobody_is_there(client, server):
    server.kill()
    with client.session("away") as session:
        with pytest.raises(TimeoutError):
            session.send("x", timeout=0.01)
        with pytest.raises(TimeoutError):
            session.receive(timeout=0.01)


def test_a_wrong_token_is_told_to_whoever_reads_sends_or_iterates(client):
    client.session_spawn("mine")
    other = client.session_spawn("other").token
    for token, error in (("wrong", oc.AuthenticationError), (other, oc.PermissionDeniedError)):
        with client.session("mine", token=token) as session:
            for call in (session.receive, session.send, lambda: list(session)):
                with pytest.raises(error):
                    call()


def test_a_message_that_is_too_large_is_refused_and_the_session_goes_on(client):
    client.session_spawn("large")
    with client.session("large") as session:
        with pytest.raises(oc.PayloadError, match="bytes"):
            session.send("x" * (4 * 1024 * 1024))
        session.send("small")
        assert session.receive(LONG).payload == "small"


def test_whoever_waits_for_safety_need_not_read_meanwhile(client):
    client.session_spawn("many", instances="A")
    with client.session("many") as session:
        for number in range(300):
            session.send(number)
        assert session.flush(LONG)
        assert [session.receive(LONG).payload for _ in range(300)] == list(range(300))


def test_a_program_that_leaves_without_detaching_ends(server, client):
    client.session_spawn("forgotten")
    program = f"""
import openclaw_orchestrator as oc
session = oc.Orchestrator({server.address!r}).session("forgotten")
session.send("x")
print(session.receive(60).payload)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")


@pytest.mark.parametrize("leave", ["detach", "close", "channel"])
def test_whoever_reads_asynchronously_when_this_end_leaves_is_told(server, client, leave):
    client.session_spawn("left")

    async def play():
        ours = aio.Orchestrator(server.address)
        session = ours.session("left")
        await session.send("x")
        assert (await session.receive()).payload == "x"

        async def iterate():
            return [message async for message in session]

        reading, iterating = asyncio.ensure_future(session.receive()), asyncio.ensure_future(iterate())
        await asyncio.sleep(0)
        match leave:
            case "detach":
                await session.detach()
            case "close":
                await ours.close()
            case "channel":
                await ours._channel.close()
        for one in (reading, iterating):
            await asyncio.wait([one], timeout=LONG)
            assert one.done(), "it hangs"
        assert isinstance(reading.exception(), ValueError | oc.OrchestratorError), reading.exception()
        if leave != "channel":
            assert isinstance(reading.exception(), oc.DetachedError)
            assert iterating.result() == []
        else:
            iterating.exception()
        with pytest.raises(Exception):
            await asyncio.wait_for(session.send("y"), LONG)
        await session.flush()
        await session.detach()
        await ours.close()

    asyncio.run(asyncio.wait_for(play(), 2 * LONG))


def test_cancelling_what_waits_loses_nothing(server, client):
    client.session_spawn("patient", instances="A")

    async def play():
        async with aio.Orchestrator(server.address) as ours, ours.session("patient") as session:
            await session.send("first")
            assert (await session.receive()).payload == "first"
            received = []
            for number in range(50):
                reading = asyncio.ensure_future(session.receive())
                await asyncio.sleep(0)
                reading.cancel()
                await session.send(number)
                flushing = asyncio.ensure_future(session.flush())
                await asyncio.sleep(0)
                flushing.cancel()
                await asyncio.wait([reading, flushing])
                # What had arrived before was read, and not cancelled any more.
                if not reading.cancelled():
                    received.append(reading.result().payload)
            while len(received) < 50:
                received.append((await session.receive()).payload)
            assert received == list(range(50))
            await session.flush()
            calling = asyncio.ensure_future(ours.route("B", {"_builtin": {"delay": "30s"}}, timeout=60))
            watching = asyncio.ensure_future(anext(aiter(ours.fanout("C", {"_builtin": {"delay": "30s"}}, timeout=60))))
            await asyncio.wait([watching], timeout=LONG)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling

    asyncio.run(asyncio.wait_for(play(), LONG))
