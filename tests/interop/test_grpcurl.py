"""grpcurl: what people paste."""

import json

import pytest

from json_documents import documents
from processes import KEY

SERVICE = "openclaw.orchestrator.v1.OrchestratorService"


@pytest.fixture
def grpcurl(run, embedded):
    """Calls the embedded fleet with the key."""

    def grpcurl(*words, data=None, flags=(), key=KEY):
        bearer = [] if key is None else ["-H", f"authorization: Bearer {key}"]
        given = [] if data is None else ["-d", data if isinstance(data, str) else json.dumps(data)]
        return run("grpcurl", "-plaintext", *bearer, *flags, *given, embedded.address, *words)

    return grpcurl


def failure(output):
    """What `-format-error` writes: google.rpc.Status with its details."""
    assert output.returncode != 0, output
    return json.loads(output.stderr)


def detail(status, name):
    """The one detail of a status that has this type."""
    [found] = [detail for detail in status["details"] if detail["@type"] == f"type.googleapis.com/{name}"]
    return found


def test_the_route_of_the_issue_word_for_word(run, embedded):
    output = run(
        "grpcurl",
        "-plaintext",
        "-H",
        f"authorization: Bearer {KEY}",
        "-d",
        '{"instances":["A","B"],"payload":{"data":"task"}}',
        embedded.address,
        "openclaw.orchestrator.v1.OrchestratorService/Route",
    )
    assert output.returncode == 0, output
    answer = json.loads(output.stdout)
    assert answer["instance"] in ("A", "B")
    assert answer["payload"] == {"data": "task"}
    assert [attempt["kind"] for attempt in answer["attempts"]] == ["ATTEMPT_KIND_FIRST"]


def test_list_shows_the_services_that_are_served_and_no_others(grpcurl):
    listed = grpcurl("list")
    assert listed.returncode == 0, listed
    assert sorted(listed.stdout.split()) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "openclaw.orchestrator.v1.ClusterService",
        "openclaw.orchestrator.v1.OrchestratorService",
    ]
    methods = grpcurl("list", SERVICE)
    for method in ["Route", "Fanout", "Health", "HealthWatch"]:
        assert f"{SERVICE}.{method}" in methods.stdout.split()


def test_describe_shows_the_comments(grpcurl):
    check = lambda symbol, told: told in grpcurl("describe", symbol).stdout or pytest.fail(symbol)
    check(SERVICE, "// Delegates tasks to instances.")
    check(f"{SERVICE}.Route", "// Hands one task to the one instance")
    check("openclaw.orchestrator.v1.RouteRequest", "google.protobuf.Value payload = 2;")
    check("google.rpc.ErrorInfo", "string reason = 1;")
    check("grpc.health.v1.Health", "rpc Check")
    # What an instance has to implement can be looked up although it is not served here.
    check("openclaw.instance.v1.InstanceService", "rpc Execute")


def test_a_fanout_streams_started_then_partials_then_summary(grpcurl):
    events = documents(grpcurl(f"{SERVICE}/Fanout", data={"targets": ["A-H"], "payload": {"data": "task"}}).stdout)
    assert [next(iter(event)) for event in events] == ["started"] + ["partial"] * 8 + ["summary"]
    assert events[0]["started"]["roster"] == list("ABCDEFGH")
    partials = [event["partial"] for event in events[1:-1]]
    assert sorted(partial["instance"] for partial in partials) == list("ABCDEFGH")
    for partial in partials:
        assert (partial["outcome"], partial["payload"]) == ("OUTCOME_ANSWERED", {"data": "task"})
    assert events[-1]["summary"] == {"counts": {"answered": 8}, "stopReason": "STOP_REASON_ALL_TERMINAL"}


def test_partials_come_as_they_come_and_not_in_the_end(grpcurl):
    slow = {"targets": ["A-B"], "payload": {"_builtin": {"silent": True}}, "timeout": "0.5s"}
    events = documents(grpcurl(f"{SERVICE}/Fanout", data=slow).stdout)
    assert [next(iter(event)) for event in events] == ["started", "partial", "partial", "summary"]
    assert {event["partial"]["outcome"] for event in events[1:3]} == {"OUTCOME_TIMED_OUT"}
    assert events[-1]["summary"]["missing"] == ["A", "B"]


def test_an_aggregate_carries_the_results_in_roster_order(grpcurl):
    events = documents(grpcurl(f"{SERVICE}/Fanout", data={"targets": ["C", "A"], "aggregate": True, "payload": 7}).stdout)
    assert all("payload" not in event["partial"] for event in events[1:-1])
    aggregate = events[-1]["summary"]["aggregate"]
    assert [(leg["instance"], leg["payload"]) for leg in aggregate] == [("C", 7), ("A", 7)]


@pytest.mark.parametrize("payload", [None, True, -0.5, "text", [], {}, {"a": [1, {"b": None}]}])
def test_any_json_is_a_payload(grpcurl, payload):
    answer = json.loads(grpcurl(f"{SERVICE}/Route", data={"instances": ["A"], "payload": payload}).stdout)
    assert answer["payload"] == payload


def test_a_failure_shows_its_error_info(grpcurl):
    status = failure(grpcurl(f"{SERVICE}/Route", data={"instances": ["Z"]}, flags=["-format-error"]))
    assert status["code"] == 5
    assert status["message"].startswith("no instance `Z` in the fleet")
    info = detail(status, "google.rpc.ErrorInfo")
    assert (info["reason"], info["domain"]) == ("TARGET_UNKNOWN", "orchestrator.openclaw")


def test_an_instance_s_own_failure_names_the_instance(grpcurl):
    data = {"instances": ["A"], "payload": {"_builtin": {"fail": "FAILED_PRECONDITION"}}}
    status = failure(grpcurl(f"{SERVICE}/Route", data=data, flags=["-format-error"]))
    info = detail(status, "google.rpc.ErrorInfo")
    assert (status["code"], info["reason"], info["metadata"]["instance"]) == (9, "INSTANCE_FAILED", "A")
    [attempt] = detail(status, "openclaw.orchestrator.v1.FailedAttempts")["attempts"]
    assert (attempt["instance"], attempt["failure"]["code"]) == ("A", 9)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_good_key_a_call_is_unauthenticated(grpcurl, key):
    # From the files, since reflection needs the key as well.
    files = ["-import-path", "proto", "-proto", "openclaw/orchestrator/v1/orchestrator.proto"]
    output = grpcurl(f"{SERVICE}/Route", data={"instances": ["A"]}, flags=files, key=key)
    assert output.returncode == 64 + 16, output
    assert "Code: Unauthenticated" in output.stderr
    listed = grpcurl("list", key=key)
    assert listed.returncode != 0 and "Unauthenticated" in listed.stderr, listed


def test_the_deadline_of_the_caller_ends_a_call_to_a_silent_instance(grpcurl):
    data = {"instances": ["A"], "payload": {"_builtin": {"silent": True}}}
    output = grpcurl(f"{SERVICE}/Route", data=data, flags=["-max-time", "1", "-format-error"])
    assert output.returncode == 64 + 4, output
    info = detail(failure(output), "google.rpc.ErrorInfo")
    # The details are ours: the orchestrator has answered before the client gave up.
    assert (info["reason"], info["metadata"]["instance"]) == ("DEADLINE_EXCEEDED", "A")


def test_health_of_the_server_needs_no_key(grpcurl):
    files = ["-import-path", "third_party", "-proto", "grpc/health/v1/health.proto"]
    output = grpcurl("grpc.health.v1.Health/Check", data="{}", flags=files, key=None)
    assert json.loads(output.stdout) == {"status": "SERVING"}
    # With the key the files are not needed.
    output = grpcurl("grpc.health.v1.Health/Check", data={"service": SERVICE})
    assert json.loads(output.stdout) == {"status": "SERVING"}


def test_health_of_the_instances(grpcurl):
    answer = json.loads(grpcurl(f"{SERVICE}/Health", data={"instances": ["A-C"]}).stdout)
    assert [entry["instance"] for entry in answer["instances"]] == ["A", "B", "C"]
    assert all(entry["state"].startswith("HEALTH_STATE_") for entry in answer["instances"])
