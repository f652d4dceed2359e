"""The operator's port of the real binary: what it shows, what it hides, and what it says while the program stops."""

import json

import grpc
import pytest

from conftest import BEARER, Client
from operators import HASH, OF_THE_CONFIG, ROUTE, TOKEN, Operators, refused, started, value
from processes import KEY
from waiting import LONG, until


def test_the_config_is_shown_without_secrets_and_other_paths_are_refused(operators, running):
    status, text = operators.get("/config")
    assert status == 200 and json.loads(text)["instances"][0]["id"] == "A"
    # What cannot stand there would not be missed: this config has a hash, and a file with a token.
    shown = json.loads(operators.get("/config")[1])
    assert shown["keys"] == [{"name": "canary", "scopes": ["health"], "sha256": "***"}]
    assert shown["instances"][-1]["credential"] == {"bearer_file": "token"}
    with pytest.raises(grpc.RpcError) as caught:
        with grpc.insecure_channel(running.address) as channel:
            call = channel.unary_unary(ROUTE)
            call(b"", metadata=(("authorization", f"Bearer {OF_THE_CONFIG}"),), timeout=LONG)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED, "the key is known, and may do something else"
    for path in ("/config", "/metrics", "/readyz", "/else"):
        for secret in (KEY, HASH, TOKEN, OF_THE_CONFIG):
            assert secret not in operators.get(path)[1], path
    assert operators.get("/livez") == (200, "alive\n")
    assert operators.get("/readyz") == (200, "ready\n")
    assert operators.get("/else")[0] == 404


def test_the_port_is_no_instance(operators, caller):
    address = operators.url.removeprefix("http://")
    for address in (address, operators.url + "/metrics"):
        instance = caller.messages.Instance(id="x", address=address)
        request = caller.messages.RegisterRequest(instance=instance, incarnation=1)
        error = refused(lambda: caller.cluster.Register(request, timeout=LONG, metadata=BEARER))
        assert error.code() == grpc.StatusCode.PERMISSION_DENIED and "the orchestrator itself" in error.details()


def test_calls_wait_and_it_is_alive_and_not_ready_while_it_stops(tmp_path, stubs):
    admission = {"calls_in_flight_max": 1, "each_key": {"calls_in_flight_max": 1}}
    orchestrator = started(tmp_path / "stopping", shutdown={"not_ready_for": "20s"}, admission=admission)
    try:
        operators = Operators(orchestrator)
        client = Client(stubs, orchestrator.address)
        held = [client.route_later(["C"], value({"_builtin": {"silent": True}})) for _ in range(3)]
        until(lambda: operators.sum("orchestrator_calls_waiting"), lambda now: now == 2)
        for call in held:
            call.cancel()
        until(lambda: operators.sum("orchestrator_calls_waiting"), lambda now: now == 0)
        client.channel.close()
        orchestrator.child.terminate()
        until(lambda: operators.get("/readyz"), lambda answer: answer == (503, "stopping\n"))
        assert operators.get("/livez") == (200, "alive\n")
        assert operators.sum("orchestrator_draining") == 1
    finally:
        orchestrator.end()
