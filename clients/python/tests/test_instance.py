"""An instance written with the base class, behind a real orchestrator."""

import asyncio
import threading
import time

import grpc
import pytest

import openclaw_orchestrator as oc
from openclaw_orchestrator import aio

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
