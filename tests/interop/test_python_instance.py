"""An instance that is not ours, in a process of its own: its work, its death and its return.

It speaks grpcio and the contract and nothing else of this repository: see python_instance.py.
"""

import itertools
import threading

import grpc
import pytest
from google.protobuf import json_format, struct_pb2

from conftest import BEARER
from error_info import error_info
from waiting import LONG, until

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def value(json_value):
    return json_format.ParseDict(json_value, struct_pb2.Value())


def plain(message):
    return json_format.MessageToDict(message)


def hold(name):
    """A task that the instance keeps until it is told to go on."""
    return value({"task": name, "hold": True})


@pytest.fixture
def serving(python_instance, own_client):
    """Starts an instance and waits until the orchestrator finds it well."""

    def serving(id="py-1", incarnation=1, lease=5):
        instance = python_instance(id, incarnation, lease)
        instance.lines.wait_for(event="registered")
        until(lambda: own_client.state(id), lambda state: state == "HEALTH_STATE_HEALTHY")
        return instance

    return serving


def failed(call):
    """The code and the reason with which a call ends."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), error_info(caught.value)


def test_it_serves_routes_with_what_the_contract_promises_an_instance(serving, own_client):
    instance = serving()
    metadata = (("x-request-id", "request-17"), ("traceparent", TRACE))
    payload = value({"data": ["task", 1.5, None]})
    request = own_client.messages.RouteRequest(
        instances=["py-1"], payload=payload, metadata={"tenant": "blue"}
    )
    answer = own_client.api.Route(request, metadata=(*BEARER, *metadata), timeout=10)
    assert answer.instance == "py-1"
    assert plain(answer.payload) == {"data": ["task", 1.5, None]}

    begun = instance.lines.wait_for(event="begun")
    # 250 ms of the caller's time are kept for the way back; grpcio itself sends 10 s as up to 10.1 s.
    assert 5 < begun["time_remaining"] <= 10.1 - 0.25
    seen = begun["metadata"]
    assert seen["x-request-id"] == "request-17"
    assert seen["traceparent"].split("-")[1] == TRACE.split("-")[1]
    assert (seen["x-orchestrator-attempt"], seen["tenant"]) == ("1", "blue")
    assert "authorization" not in seen, "the caller's key is never passed on"


def test_the_least_of_header_and_field_is_what_it_gets_as_its_time(serving, own_client):
    instance = serving()
    request = own_client.messages.RouteRequest(instances=["py-1"])
    request.timeout.FromSeconds(10)
    own_client.api.Route(request, metadata=BEARER, timeout=LONG)
    assert 5 < instance.lines.wait_for(event="begun")["time_remaining"] <= 9.75


@pytest.mark.parametrize("targets", [["*"], ["A-H py-1"]])
def test_it_serves_fanouts_beside_the_built_in_instances(serving, own_client, targets):
    serving()
    events = list(own_client.fanout(targets, value({"data": "task"})))
    assert list(events[0].started.roster) == [*"ABCDEFGH", "py-1"]
    partials = {event.partial.instance: event.partial for event in events[1:-1]}
    assert len(partials) == 9
    assert plain(partials["py-1"].payload) == {"data": "task"}
    assert events[-1].summary.counts.answered == 9


def test_it_learns_that_the_caller_has_left(serving, own_client):
    instance = serving()
    call = own_client.route_later(["py-1"], hold("left"))
    instance.lines.wait_for(event="begun", task="left")
    call.cancel()
    instance.lines.wait_for(event="cancelled", task="left", before_its_deadline=True)

    events = own_client.fanout(["A", "py-1"], hold("left-too"))
    instance.lines.wait_for(event="begun", task="left-too")
    events.cancel()
    instance.lines.wait_for(event="cancelled", task="left-too", before_its_deadline=True)


def test_it_learns_that_the_deadline_has_passed(serving, own_client):
    instance = serving()
    code, info = failed(lambda: own_client.route(["py-1"], hold("late"), timeout=1))
    assert (code, info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    instance.lines.wait_for(event="cancelled", task="late")
    assert not instance.lines.matching(event="answered", task="late")


def test_a_fanout_that_has_enough_cancels_the_rest(serving, own_client):
    instance = serving()
    completion = own_client.messages.Completion(first=1)
    events = list(own_client.fanout(["A", "py-1"], hold("loser"), completion=completion))
    outcome = {event.partial.instance: event.partial.outcome for event in events[1:-1]}
    assert outcome["A"] == own_client.messages.OUTCOME_ANSWERED
    # Whether the task had been sent by then is a race that either side may win.
    assert outcome["py-1"] in (own_client.messages.OUTCOME_CANCELLED, own_client.messages.OUTCOME_SKIPPED)
    assert not instance.lines.matching(event="answered", task="loser")


def test_one_that_says_it_does_not_serve_gets_no_work(serving, own_client):
    instance = serving()
    instance.tell("serving", "no")
    until(lambda: own_client.state("py-1"), lambda state: state == "HEALTH_STATE_DOWN")
    assert own_client.health("py-1")["py-1"].reason == "says that it does not serve"
    code, info = failed(lambda: own_client.route(["py-1"], value("task")))
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "INSTANCE_DOWN")
    instance.tell("serving", "yes")
    until(lambda: own_client.state("py-1"), lambda state: state == "HEALTH_STATE_HEALTHY")
    assert own_client.route(["py-1"], value({"task": "well again"})).instance == "py-1"
    instance.lines.wait_for(event="begun", task="well again")
    assert len(instance.lines.matching(event="begun")) == 1


def test_a_killed_one_is_told_honestly_leaves_with_its_lease_and_comes_back(serving, python_instance, own_client):
    first, second = serving("py-1", lease=8), serving("py-2")
    messages, unavailable = own_client.messages, grpc.StatusCode.UNAVAILABLE
    ordered = messages.CallPolicy(selection=messages.SELECTION_ORDERED)

    route = own_client.route_later(["py-1", "py-2"], hold("routed"), policy=ordered)
    fanout = own_client.fanout(["A-H py-1"], hold("fanned-out"))
    assert len(next(fanout).started.roster) == 9
    answered = [next(fanout).partial for _ in range(8)]
    for task in ["routed", "fanned-out"]:
        first.lines.wait_for(event="begun", task=task)
    first.kill()

    # The tasks may have been executed, so nobody repeats them, and the caller is told.
    code, info = failed(route.result)
    assert (code, info.reason, info.metadata["instance"]) == (unavailable, "INSTANCE_LOST", "py-1")
    assert info.metadata["retryable"] == "false"
    rest = list(fanout)
    assert sorted(partial.instance for partial in answered) == list("ABCDEFGH")
    assert all(partial.outcome == messages.OUTCOME_ANSWERED for partial in answered)
    lost, summary = rest[0].partial, rest[1].summary
    assert (lost.instance, lost.outcome) == ("py-1", messages.OUTCOME_FAILED)
    assert (lost.failure.reason, lost.failure.instance) == ("INSTANCE_LOST", "py-1")
    assert not lost.failure.retryable
    assert len(lost.attempts) == 1 and len(rest) == 2
    assert (summary.counts.answered, summary.counts.failed, list(summary.missing)) == (8, 1, ["py-1"])

    # Soon its probes say so, and it gets no work.
    until(lambda: own_client.state("py-1"), lambda state: state == "HEALTH_STATE_DOWN")
    assert "connect to" in own_client.health("py-1")["py-1"].reason
    code, info = failed(lambda: own_client.route(["py-1"], value("task")))
    assert (code, info.reason, info.metadata["instance"]) == (unavailable, "INSTANCE_DOWN", "py-1")
    assert info.metadata["retryable"] == "true"
    answer = own_client.route(["py-1", "py-2"], value({"task": "after"}), policy=ordered)
    assert answer.instance == "py-2"
    second.lines.wait_for(event="begun", task="after")
    assert len(second.lines.matching(event="begun")) == 1, "no second execution of what was lost"

    # Nobody renews its lease: it leaves the fleet. The other one renews and stays.
    until(lambda: own_client.state("py-1"), lambda state: state == "absent")
    code, info = failed(lambda: own_client.route(["py-1"], value("task")))
    assert (code, info.reason) == (grpc.StatusCode.NOT_FOUND, "TARGET_UNKNOWN")
    assert own_client.state("py-2") == "HEALTH_STATE_HEALTHY"

    # Started again, with a higher incarnation, it serves again.
    serving("py-1", incarnation=2)
    assert own_client.route(["py-1"], value("task")).instance == "py-1"


def test_a_task_that_may_run_twice_is_finished_elsewhere_when_its_instance_is_killed(serving, own_client):
    first, second = serving("py-1"), serving("py-2")
    messages = own_client.messages
    policy = messages.CallPolicy(selection=messages.SELECTION_ORDERED, idempotent=True)
    route = own_client.route_later(["py-1", "py-2"], hold("task"), policy=policy)
    first.lines.wait_for(event="begun", task="task")
    first.kill()
    assert second.lines.wait_for(event="begun", task="task")["metadata"]["x-orchestrator-attempt"] == "2"
    second.tell("release", "task")
    answer = route.result()
    assert answer.instance == "py-2"
    lost, answered = answer.attempts
    assert (lost.instance, lost.failure.reason) == ("py-1", "INSTANCE_LOST")
    assert (answered.instance, answered.kind) == ("py-2", messages.ATTEMPT_KIND_RETRY)


def test_a_restart_replaces_at_once_and_a_stale_incarnation_is_refused(serving, python_instance, own_client):
    serving("py-1", incarnation=7, lease=60).kill()
    # No lease has to end first.
    restarted = serving("py-1", incarnation=8)
    assert own_client.route(["py-1"], value({"task": "before"})).instance == "py-1"
    restarted.lines.wait_for(event="answered", task="before")

    stale = python_instance("py-1", incarnation=6)
    refused = stale.lines.wait_for(event="refused")
    assert (refused["code"], refused["detail"]) == (
        "FAILED_PRECONDITION",
        "instance py-1: incarnation 8 is registered, which is newer",
    )
    assert own_client.route(["py-1"], value({"task": "after"})).instance == "py-1"
    restarted.lines.wait_for(event="answered", task="after")
    assert not stale.lines.matching(event="begun")


def test_a_lease_is_kept_alive_by_renewing_it(serving, own_client):
    instance = serving(lease=5)
    request = own_client.messages.ListInstancesRequest()

    def lease_end():
        listed = own_client.cluster.ListInstances(request, metadata=BEARER, timeout=LONG)
        [found] = [entry for entry in listed.instances if entry.instance.id == instance.id]
        assert found.origin == own_client.messages.INSTANCE_ORIGIN_REGISTERED
        return found.expire_time.ToMilliseconds()

    first = lease_end()
    # Beyond the first lease: it is still there only because it was renewed.
    until(lease_end, lambda end: first + 6000 < end)
    assert own_client.route(["py-1"], value("task")).instance == "py-1"


class Traffic:
    """Callers that never pause: each call names py-1 first and A second, and its task has a name of its own."""

    def __init__(self, client, threads=4):
        messages = client.messages
        self._client = client
        self._policy = messages.CallPolicy(selection=messages.SELECTION_ORDERED)
        self._over = threading.Event()
        self.ends = {}
        self._threads = [threading.Thread(target=self._call, args=(at,)) for at in range(threads)]
        for thread in self._threads:
            thread.start()

    def _call(self, thread):
        for at in itertools.count():
            if self._over.is_set():
                return
            task = f"traffic-{thread}-{at}"
            try:
                answer = self._client.route(["py-1", "A"], value({"task": task}), policy=self._policy)
                self.ends[task] = answer.instance
            except grpc.RpcError as error:
                self.ends[task] = f"{error.code().name} {error_info(error).reason}"

    def answered_by(self, instance):
        return sum(end == instance for end in self.ends.copy().values())

    def stop(self):
        """How each call ended."""
        self._over.set()
        for thread in self._threads:
            thread.join(LONG)
        return self.ends


@pytest.fixture
def traffic(own_client):
    """Starts traffic, which is over when the test is."""
    started = []

    def start():
        started.append(Traffic(own_client))
        return started[0]

    yield start
    for traffic in started:
        traffic.stop()


@pytest.fixture
def busy(serving, own_client):
    """An instance with calls that it holds, and what finishes them."""
    instance = serving()
    names = [f"running-{at}" for at in range(4)]
    routes = [own_client.route_later(["py-1"], hold(name)) for name in names]
    fanout = own_client.fanout(["A", "py-1"], hold("running-fanout"))
    for name in [*names, "running-fanout"]:
        instance.lines.wait_for(event="begun", task=name)

    def finish():
        assert not any(route.done() for route in routes), "it still works on what it had"
        for name in [*names, "running-fanout"]:
            instance.tell("release", name)
        assert [route.result().instance for route in routes] == ["py-1"] * 4
        assert list(fanout)[-1].summary.counts.answered == 2

    return instance, finish


def test_one_that_says_goodbye_before_it_stops_loses_no_call_at_all(busy, traffic, own_client):
    (instance, finish), calls = busy, traffic()
    until(lambda: calls.answered_by("py-1"), lambda count: 20 < count)
    instance.tell("serving", "no")
    until(lambda: own_client.state("py-1"), lambda state: state == "HEALTH_STATE_DOWN")
    instance.tell("stop", LONG)
    instance.lines.wait_for(event="stopping")
    before = calls.answered_by("A")
    until(lambda: calls.answered_by("A"), lambda count: before + 20 < count)
    assert set(calls.stop().values()) == {"py-1", "A"}
    finish()
    instance.lines.wait_for(event="stopped")


def test_one_that_stops_without_a_word_finishes_what_it_has_and_new_calls_go_elsewhere(busy, traffic, own_client):
    (instance, finish), calls = busy, traffic()
    until(lambda: calls.answered_by("py-1"), lambda count: 20 < count)
    instance.tell("stop", LONG)
    instance.lines.wait_for(event="stopping")
    before = calls.answered_by("A")
    until(lambda: calls.answered_by("A"), lambda count: before + 20 < count)
    code, info = failed(lambda: own_client.route(["py-1"], value("task")))
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "INSTANCE_DOWN")

    ends = calls.stop()
    # A call that reaches grpcio between its stop and our sight of its GOAWAY is answered CANCELLED by grpcio
    # itself. That is no proof that the task never began, so it is told and not repeated.
    told = {task for task, end in ends.items() if end == "UNAVAILABLE INSTANCE_FAILED"}
    assert {end for task, end in ends.items() if task not in told} == {"py-1", "A"}
    finish()
    instance.lines.wait_for(event="stopped")
    begun = [line["task"] for line in instance.lines.matching(event="begun")]
    assert len(begun) == len(set(begun)), "nothing was executed twice"
    elsewhere = {task for task, end in ends.items() if end == "A"}
    assert not (elsewhere | told) & set(begun), "nothing that went elsewhere or was refused had begun here"
