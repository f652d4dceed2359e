"""The operator's port of the real binary: each thing that happens moves its metric, and a large fleet adds none."""

import json
import os
import re
import subprocess
import urllib.error
import urllib.request

import grpc
import pytest
from google.protobuf import json_format, struct_pb2

from conftest import BEARER, Client
from processes import KEY, Collector, Orchestrator, binary
from stubs import REPOSITORY
from waiting import LONG, until

HEALTH = {"interval": "200ms", "timeout": "2s", "failures_down": 2, "successes_up": 1}
SERIES_MAX = 1000
"""What docs/operations.md states, whatever the fleet and the callers are."""


def value(json_value):
    return json_format.ParseDict(json_value, struct_pb2.Value())


class Operators:
    """The port, read over HTTP."""

    def __init__(self, orchestrator):
        address = [
            json.loads(line)["address"]
            for line in until(orchestrator.log.read_text, lambda text: "operators see" in text).splitlines()
            if "operators see" in line
        ]
        self.url = f"http://{address[0]}"

    def get(self, path) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=LONG) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def series(self) -> dict[str, float]:
        """Each series with its value."""
        status, text = self.get("/metrics")
        assert status == 200
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(number) for name, number in (line.rsplit(" ", 1) for line in lines)}

    def sum(self, name, **labels) -> float:
        """All series of a metric that have these labels."""
        wanted = [f'{label}="{text}"' for label, text in labels.items()]
        return sum(
            number
            for series, number in self.series().items()
            if re.split(r"[{ ]", series)[0] == name and all(label in series for label in wanted)
        )


def started(folder, **config):
    folder.mkdir(exist_ok=True)
    config = {
        "instances": [{"id": id, "builtin": {}} for id in "ABCDEFG"] + [{"id": "H", "builtin": {"fail": "UNAVAILABLE"}}],
        "health": HEALTH,
        "operators": {"listen": "127.0.0.1:0"},
        **config,
    }
    return Orchestrator(folder, config)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operators")
    collector = Collector(folder)
    orchestrator = started(folder, traces={"endpoint": f"http://{collector.address}", "ratio": 1})
    yield orchestrator
    orchestrator.end()
    collector.end()


@pytest.fixture
def operators(running):
    return Operators(running)


@pytest.fixture
def caller(stubs, running):
    client = Client(stubs, running.address)
    yield client
    client.channel.close()


def refused(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def routes_well(client):
    client.route(["A"], value("task"))


def routes_without_a_key(client):
    refused(lambda: client.api.Route(client.messages.RouteRequest(instances=["A"]), timeout=LONG))


def tries_again(client):
    policy = client.messages.CallPolicy(idempotent=True)
    refused(lambda: client.route(["H", "H"], value({"_builtin": {"fail": "UNAVAILABLE"}}), policy=policy))


def fans_out(client):
    list(client.fanout(["A", "H"], value("task")))


def runs_out_of_time(client):
    list_all = lambda: list(client.fanout(["B"], value({"_builtin": {"silent": True}}), timeout=0.5))
    try:
        list_all()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def spawns_a_session(client):
    client.api.SessionSpawn(client.messages.SessionSpawnRequest(), metadata=BEARER, timeout=LONG)


def drains(client):
    request = client.messages.DrainRequest(instances=["G"])
    client.cluster.Drain(request, metadata=BEARER, timeout=LONG)


ROUTE = "/openclaw.orchestrator.v1.OrchestratorService/Route"
MOVES = [
    (routes_well, "orchestrator_calls_total", {"path": ROUTE, "code": "OK"}),
    (routes_well, "orchestrator_call_seconds_count", {"path": ROUTE}),
    (routes_well, "orchestrator_attempts_total", {"kind": "first", "result": "OK"}),
    (routes_well, "orchestrator_attempt_seconds_count", {}),
    (routes_well, "orchestrator_spans_total", {"result": "delivered"}),
    (routes_without_a_key, "orchestrator_calls_total", {"path": ROUTE, "code": "UNAUTHENTICATED"}),
    (tries_again, "orchestrator_attempts_total", {"kind": "retry", "result": "INSTANCE_FAILED"}),
    (tries_again, "orchestrator_calls_total", {"path": ROUTE, "code": "UNAVAILABLE"}),
    (fans_out, "orchestrator_legs_total", {"outcome": "answered"}),
    (fans_out, "orchestrator_legs_total", {"outcome": "failed"}),
    (runs_out_of_time, "orchestrator_legs_total", {"outcome": "timed_out"}),
    (spawns_a_session, "orchestrator_journal_commits_total", {"result": "ok"}),
    (spawns_a_session, "orchestrator_journal_commit_seconds_count", {}),
    (spawns_a_session, "orchestrator_sessions", {}),
    (drains, "orchestrator_health_changes_total", {"to": "draining"}),
]


@pytest.mark.parametrize(("act", "name", "labels"), MOVES, ids=lambda it: getattr(it, "__name__", None))
def test_what_happens_moves_its_metric(operators, caller, act, name, labels):
    before = operators.sum(name, **labels)
    act(caller)
    # A call is counted when its answer has left.
    until(lambda: operators.sum(name, **labels), lambda now: now > before)


def test_levels_say_how_things_are(operators, caller):
    assert operators.sum("orchestrator_instances") == 8
    assert operators.sum("orchestrator_message_bytes_limit") > 0
    assert operators.sum("orchestrator_retry_tokens") > 0
    held = [caller.route_later(["C"], value({"_builtin": {"silent": True}})) for _ in range(3)]
    for name in ("orchestrator_calls_in_flight", "orchestrator_instance_calls_in_flight"):
        until(lambda: operators.sum(name), lambda now: now == 3)
    assert operators.sum("orchestrator_message_bytes") > 0
    assert operators.sum("orchestrator_connections") > 0
    for call in held:
        call.cancel()
    until(lambda: operators.sum("orchestrator_calls_in_flight"), lambda now: now == 0)
    until(lambda: operators.sum("orchestrator_message_bytes"), lambda now: now == 0)


def test_the_config_is_shown_without_secrets_and_other_paths_are_refused(operators, running):
    status, text = operators.get("/config")
    assert status == 200 and json.loads(text)["instances"][0]["id"] == "A"
    for path in ("/config", "/metrics"):
        assert KEY not in operators.get(path)[1]
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


def test_it_is_alive_and_not_ready_while_it_stops(tmp_path):
    orchestrator = started(tmp_path / "stopping", shutdown={"not_ready_for": "20s"})
    try:
        operators = Operators(orchestrator)
        orchestrator.child.terminate()
        until(lambda: operators.get("/readyz"), lambda answer: answer == (503, "stopping\n"))
        assert operators.get("/livez") == (200, "alive\n")
        assert operators.sum("orchestrator_draining") == 1
    finally:
        orchestrator.end()


def test_five_thousand_instances_add_no_series(tmp_path, running, operators, stubs):
    many = [{"id": f"w{at:04}", "address": "127.0.0.1:1"} for at in range(5_000 - 8)]
    own = [{"id": id, "builtin": {}} for id in "ABCDEFGH"]
    folder = tmp_path / "many"
    folder.mkdir()
    config = {"instances": own + many, "operators": {"listen": "127.0.0.1:0"}}
    orchestrator = Orchestrator(folder, config, instances=5_000)
    try:
        large = Operators(orchestrator)
        client = Client(stubs, orchestrator.address)
        list(client.fanout(["A-H", "w0000-w2000"], value("task")))
        client.channel.close()
        assert len(large.series()) < SERIES_MAX
        assert not any("w00" in series for series in large.series())
        assert large.sum("orchestrator_instances") == 5_000
    finally:
        orchestrator.end()


def test_every_query_of_the_dashboard_finds_what_it_asks_for(operators):
    dashboard = json.loads((REPOSITORY / "packaging" / "grafana" / "orchestrator.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    series = operators.series()
    for query in queries:
        names = re.findall(r"(?:orchestrator|process)_\w+", query)
        assert names, query
        for name in names:
            found = [one for one in series if re.split(r"[{ ]", one)[0] == name]
            assert found, f"{query}: there is no {name}"
            labels = re.findall(r"by \(([^)]*)\)", query)
            for label in (label.strip() for group in labels for label in group.split(",")):
                assert all(f'{label}="' in one for one in found), f"{query}: {name} has no label {label}"


def test_what_is_served_is_what_the_docs_list(operators):
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    listed = dict(re.findall(r"^\| `(orchestrator_\w+)` \| (\w+) \|", page, re.MULTILINE))
    text = operators.get("/metrics")[1]
    served = dict(re.findall(r"^# TYPE (orchestrator_\w+) (\w+)$", text, re.MULTILINE))
    # Of those that need more than every orchestrator has.
    with_tls = {"orchestrator_tls_end_seconds": "gauge"}
    assert served | with_tls == listed


def test_every_command_of_the_page_runs(tmp_path):
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    commands = [
        line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
    ]
    assert len(commands) >= 6
    orchestrator = started(tmp_path / "page")
    environment = {
        **os.environ,
        "ORCHESTRATOR_API_KEY": KEY,
        "ORCHESTRATOR_SERVER": orchestrator.address,
        "PATH": os.pathsep.join([str(binary().parent), os.environ["PATH"]]),
    }
    try:
        for command in commands:
            command = command.replace("/var/lib/orchestrator", str(tmp_path / "page" / "data"))
            command = command.replace("127.0.0.1:7070", orchestrator.address)
            command = command.replace("/tmp/journal-copy.db", str(tmp_path / "copy"))
            done = subprocess.run(
                command, shell=True, cwd=tmp_path / "page", env=environment, capture_output=True, text=True, timeout=LONG
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    finally:
        orchestrator.end()
