"""The synchronous client against a real orchestrator."""

import math
import time

import grpc
import pytest

import openclaw_orchestrator as oc


@pytest.fixture
def client(embedded):
    with oc.Orchestrator(embedded.address) as client:
        yield client


def test_a_task_is_routed_and_its_answer_comes_back_as_it_was(client):
    payload = {"text": "ä", "list": [1, 2.5, None, True], "nested": {"deep": []}}
    answer = client.route(["A", "B"], payload, timeout=10)
    assert answer.payload == payload
    assert answer.instance in "AB"
    assert [attempt.kind for attempt in answer.attempts] == ["first"]


def test_a_fanout_yields_started_partials_and_summary(client):
    events = list(client.fanout("A-C", "task", timeout=10))
    assert events[0].roster == ("A", "B", "C")
    assert sorted(event.instance for event in events[1:-1]) == ["A", "B", "C"]
    assert events[-1].counts["answered"] == 3


def test_an_aggregate_has_all_results_in_roster_order(client):
    *_, summary = client.fanout(["C", "A"], 7, aggregate=True, timeout=10)
    assert [(one.instance, one.payload) for one in summary.aggregate] == [("C", 7), ("A", 7)]


def test_an_unmet_rule_raises_after_the_summary(client):
    seen = []
    with pytest.raises(oc.CompletionUnmetError) as failed:
        for event in client.fanout("A-C", {"_builtin": {"fail": "UNAVAILABLE"}}, quorum=2, timeout=10):
            seen.append(event)
    assert isinstance(seen[-1], oc.Summary)
    assert failed.value.reason == "COMPLETION_UNMET"


def test_leaving_the_loop_cancels_what_still_runs(client):
    for event in client.fanout("A-D", {"_builtin": {"delay": "30s"}}, timeout=60):
        assert isinstance(event, oc.Started)
        break
    ends = time.monotonic() + 30
    while any(one.calls_outstanding for one in client.health("A-D").values()):
        assert time.monotonic() < ends


def test_failures_are_exceptions_with_code_reason_instance_and_attempts(client):
    with pytest.raises(oc.UnavailableError) as failed:
        client.route("A", {"_builtin": {"fail": "UNAVAILABLE"}}, timeout=10)
    error = failed.value
    assert (error.code, error.reason, error.instance) == (grpc.StatusCode.UNAVAILABLE, "INSTANCE_FAILED", "A")
    assert [attempt.instance for attempt in error.attempts] == ["A"]
    assert error.attempts[0].failure.reason == "INSTANCE_FAILED"

    with pytest.raises(oc.NotFoundError, match="TARGET_UNKNOWN"):
        client.route("Z")
    with pytest.raises(oc.InvalidRequestError, match="metadata"):
        client.route("A", metadata={"authorization": "x"})


def test_a_deadline_is_kept(client):
    with pytest.raises(oc.DeadlineExceededError):
        client.route("A", {"_builtin": {"silent": True}}, timeout=0.2)


def test_a_wrong_key_is_told_apart_from_a_missing_right(embedded):
    with oc.Orchestrator(embedded.address, key="wrong") as client:
        with pytest.raises(oc.AuthenticationError) as failed:
            client.health()
    assert failed.value.reason == "KEY_INVALID"
    assert not failed.value.retryable


def test_without_any_key_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("ORCHESTRATOR_API_KEY")
    with pytest.raises(ValueError, match="ORCHESTRATOR_API_KEY"):
        oc.Orchestrator()


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ({"a": [1, 2**53 + 1]}, r"payload\.a\[1\]"),
        ({"a": math.nan}, r"payload\.a"),
        ([b"x"], r"payload\[0\]"),
        ({1: 2}, "payload"),
        ({"a": object()}, r"payload\.a"),
    ],
)
def test_what_would_be_rounded_or_is_no_json_is_refused_by_its_path(client, payload, place):
    with pytest.raises(oc.PayloadError, match=place):
        client.route("A", payload)


def test_a_policy_reaches_the_orchestrator(client):
    policy = oc.Policy(selection="hash", hash_key="user-7", attempts_max=2, idempotent=True, fallback="any_healthy")
    first = client.route("A-H", 1, policy=policy, timeout=10)
    assert {client.route("A-H", 1, policy=policy, timeout=10).instance for _ in range(5)} == {first.instance}
    with pytest.raises(oc.InvalidRequestError, match="attempts_max"):
        client.route("A", policy=oc.Policy(attempts_max=9))


def test_an_idempotency_key_brings_the_same_answer(client):
    first = client.route("A-H", {"n": 1, "m": 2}, idempotency_key="once", timeout=10)
    again = client.route("A-H", {"m": 2, "n": 1}, idempotency_key="once", timeout=10)
    assert (first.deduplicated, again.deduplicated) == (False, True)
    assert (again.instance, again.payload) == (first.instance, first.payload)
    with pytest.raises(oc.InvalidRequestError, match="IDEMPOTENCY_CONFLICT"):
        client.route("A-H", {"n": 2}, idempotency_key="once")


def test_health_is_told_and_watched(client):
    assert client.health("A-B")["A"].state == "healthy"
    first = next(client.health_watch("A-B"))
    assert [one.instance for one in first.instances] == ["A", "B"]


def test_instances_are_listed_registered_drained_and_removed(server):
    with oc.Orchestrator(server.address) as client:
        client.register("extra", "127.0.0.1:9", incarnation=1, labels={"zone": "a"}, lease=30)
        listed = {one.id: one for one in client.instances()}
        assert (listed["extra"].origin, listed["extra"].labels) == ("registered", {"zone": "a"})
        client.deregister("extra", incarnation=1)
        assert "extra" not in {one.id for one in client.instances()}
        assert client.drain("A")["A"].admin == "draining"
        assert client.route("A-B", timeout=10).instance == "B"
        assert client.undrain("A")["A"].admin == "active"


def test_what_a_call_would_do_is_explained(client):
    explained = client.explain_route(["A", "B"], policy=oc.Policy(selection="ordered"))
    assert [one.instance for one in explained.instances] == ["A", "B"]
    assert [one.instance for one in client.explain_fanout("C").instances] == ["C"]
