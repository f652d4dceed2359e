"""Sessions through the package, over cuts and restarts of a real orchestrator."""

import asyncio
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
