"""The operator's port of the real binary: each thing that happens moves its metric, whatever is called adds no more
series than are stated, and what Prometheus is to be asked is what it is told.
"""

import hashlib
import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request

import grpc
import pytest
import requests
from google.protobuf import json_format, struct_pb2

import promql
from conftest import BEARER, Client
from processes import KEY, Collector, Orchestrator, binary
from stubs import REPOSITORY
from waiting import LONG, until

HEALTH = {
    **{"interval": "200ms", "timeout": "2s", "failures_down": 2, "successes_up": 1},
    # Some of these fail all the time, and are to be asked all the same.
    "ejection": {"percent_max": 0},
}
PAGE = (REPOSITORY / "docs" / "operations.md").read_text()
SERIES_MAX = int(re.search(r"never more than ([\d,]+) series", PAGE)[1].replace(",", ""))
"""Whatever is called, and however large the fleet is. A unit test computes it."""
PROCESS_SERIES_MAX = 16
"""Of them those of the process, as that unit test has it."""
OF_THE_CONFIG = "config-canary-11f7"
"""A key that the config knows, by its hash."""
TOKEN = "token-canary-9a02"
"""What the config's files say to an instance."""
HASH = hashlib.sha256(OF_THE_CONFIG.encode()).hexdigest()


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
        "instances": [{"id": id, "builtin": {}} for id in "ABCDEFG"]
        + [
            {"id": "H", "builtin": {"fail": "UNAVAILABLE"}},
            {"id": "slow", "builtin": {"delay": "30s"}},
            {"id": "flaps", "builtin": {"flap": "700ms"}},
            {"id": "gone", "address": "127.0.0.1:1", "credential": {"bearer_file": "token"}},
        ],
        "keys": [{"name": "canary", "sha256": HASH, "scopes": ["health"]}],
        "health": HEALTH,
        "operators": {"listen": "127.0.0.1:0"},
        **config,
    }
    (folder / "token").write_text(TOKEN)
    return Orchestrator(folder, config, instances=len(config["instances"]))


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


def hedges(client):
    """The first one that is asked takes its time."""
    policy = client.messages.CallPolicy(idempotent=True, selection=client.messages.SELECTION_ORDERED)
    policy.hedge.delay.FromMilliseconds(5)
    assert client.route(["slow", "A"], value("task"), policy=policy).instance == "A"


def falls_back(client):
    """The only one that is named fails; one of the others may be slow."""
    policy = client.messages.CallPolicy(idempotent=True, fallback=client.messages.FALLBACK_ANY_HEALTHY, attempts_max=5)
    policy.per_try_timeout.FromMilliseconds(500)
    client.route(["H"], value("task"), policy=policy)


def fans_out_to_the_first(client):
    completion = client.messages.Completion(first=1)
    list(client.fanout(["A", "slow"], value("task"), completion=completion))


def talks_in_a_session(client):
    spawn = client.messages.SessionSpawnRequest(session_id="talks", instances=["A"])
    client.api.SessionSpawn(spawn, metadata=BEARER, timeout=LONG)
    hello = client.messages.SessionSendRequest(hello=client.messages.SessionHello(session_id="talks"))
    left = threading.Event()

    def says():
        # Whoever says no more has ended the call, and cancels nothing.
        yield hello
        left.wait(LONG)

    frames = client.api.SessionSend(says(), metadata=BEARER, timeout=LONG)
    assert next(frames).WhichOneof("frame") == "ready"
    frames.cancel()
    left.set()


def routes_over_rest(client):
    body = {"instances": ["A"], "payload": "task"}
    bearer = {"authorization": f"Bearer {KEY}"}
    answer = requests.post(f"http://{client.address}/api/orchestrator/route", json=body, headers=bearer, timeout=LONG)
    assert answer.status_code == 200, answer.text


def routes_over_grpc_web(client):
    message = client.messages.RouteRequest(instances=["A"], payload=value("task")).SerializeToString()
    body = b"\x00" + len(message).to_bytes(4, "big") + message
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/grpc-web+proto"}
    answer = requests.post(f"http://{client.address}{ROUTE}", data=body, headers=headers, timeout=LONG)
    assert answer.status_code == 200 and b"grpc-status:0" in answer.content.replace(b" ", b""), answer.content


def waits(client):
    """What is counted happens by itself."""


ROUTE = "/openclaw.orchestrator.v1.OrchestratorService/Route"
SEND = "/openclaw.orchestrator.v1.OrchestratorService/SessionSend"
MOVES = [
    (routes_well, "orchestrator_calls_total", {"path": ROUTE, "code": "OK"}),
    (routes_well, "orchestrator_call_seconds_count", {"path": ROUTE}),
    (routes_well, "orchestrator_attempts_total", {"kind": "first", "result": "OK"}),
    (routes_well, "orchestrator_attempt_seconds_count", {}),
    (routes_well, "orchestrator_spans_total", {"result": "delivered"}),
    (routes_without_a_key, "orchestrator_calls_total", {"path": ROUTE, "code": "UNAUTHENTICATED"}),
    (tries_again, "orchestrator_attempts_total", {"kind": "retry", "result": "INSTANCE_FAILED"}),
    (tries_again, "orchestrator_calls_total", {"path": ROUTE, "code": "UNAVAILABLE"}),
    (hedges, "orchestrator_attempts_total", {"kind": "hedge", "result": "OK"}),
    (hedges, "orchestrator_attempts_total", {"kind": "first", "result": "NOT_NEEDED"}),
    (falls_back, "orchestrator_attempts_total", {"kind": "fallback", "result": "OK"}),
    (routes_over_rest, "orchestrator_calls_total", {"path": "/orchestrator/route", "code": "200"}),
    (routes_over_rest, "orchestrator_call_seconds_count", {"path": "/orchestrator/route"}),
    (routes_over_grpc_web, "orchestrator_calls_total", {"path": ROUTE, "code": "OK"}),
    (talks_in_a_session, "orchestrator_calls_total", {"path": SEND, "code": "CANCELLED"}),
    (fans_out, "orchestrator_legs_total", {"outcome": "answered"}),
    (fans_out, "orchestrator_legs_total", {"outcome": "failed"}),
    (fans_out_to_the_first, "orchestrator_legs_total", {"outcome": "cancelled"}),
    (runs_out_of_time, "orchestrator_legs_total", {"outcome": "timed_out"}),
    (spawns_a_session, "orchestrator_journal_commits_total", {"result": "ok"}),
    (spawns_a_session, "orchestrator_journal_commit_seconds_count", {}),
    (spawns_a_session, "orchestrator_sessions", {}),
    (drains, "orchestrator_health_changes_total", {"to": "draining"}),
    (waits, "orchestrator_health_changes_total", {"from": "healthy", "to": "down"}),
    (waits, "orchestrator_health_changes_total", {"from": "down", "to": "healthy"}),
]
LEVELS = [
    "orchestrator_instances",
    "orchestrator_calls_in_flight",
    "orchestrator_calls_waiting",
    "orchestrator_legs_in_flight",
    "orchestrator_instance_calls_in_flight",
    "orchestrator_connections",
    "orchestrator_message_bytes",
    "orchestrator_message_bytes_limit",
    "orchestrator_retry_tokens",
    "orchestrator_hedge_tokens",
    "orchestrator_draining",
    "orchestrator_journal_ready",
    "orchestrator_runtime_tasks",
]
"""What is read when somebody asks; each stands in a test below."""
ELSEWHERE = {
    "orchestrator_tls_end_seconds": "it takes TLS: test_tls.py compares it with what openssl says of the files",
    "orchestrator_runtime_queue_depth": "it is the queue of one moment, which is empty whenever a thread is free to answer",
}
"""Metrics that no test of this file moves, and why."""


@pytest.mark.parametrize(("act", "name", "labels"), MOVES, ids=lambda it: getattr(it, "__name__", None))
def test_what_happens_moves_its_metric(operators, caller, act, name, labels):
    before = operators.sum(name, **labels)
    act(caller)
    # A call is counted when its answer has left.
    until(lambda: operators.sum(name, **labels), lambda now: now > before)


def test_every_metric_of_the_page_is_moved_by_a_test():
    listed = set(re.findall(r"^\| `(orchestrator_\w+)` \| (?:counter|gauge|histogram) \|", PAGE, re.MULTILINE))
    assert len(listed) > 20
    moved = {re.sub("_(count|sum|bucket)$", "", name) for _, name, _ in MOVES}
    assert moved | set(LEVELS) | set(ELSEWHERE) == listed
    assert not (moved | set(LEVELS)) & set(ELSEWHERE), "whoever is moved needs no excuse"


def test_levels_say_how_things_are(operators, caller):
    assert operators.sum("orchestrator_instances") == 11
    assert operators.sum("orchestrator_instances", state="down") >= 1
    for name in ("orchestrator_hedge_tokens", "orchestrator_runtime_tasks"):
        assert operators.sum(name) > 0
    assert operators.sum("orchestrator_journal_ready") == 1
    assert operators.sum("orchestrator_draining") == 0
    assert "orchestrator_runtime_queue_depth" in operators.series()
    assert operators.sum("orchestrator_message_bytes_limit") > 0
    assert operators.sum("orchestrator_retry_tokens") > 0
    held = [caller.route_later(["C"], value({"_builtin": {"silent": True}})) for _ in range(3)]
    for name in ("orchestrator_calls_in_flight", "orchestrator_instance_calls_in_flight"):
        until(lambda: operators.sum(name), lambda now: now == 3)
    assert operators.sum("orchestrator_message_bytes") > 0
    assert operators.sum("orchestrator_connections") > 0
    legs = caller.fanout(["D", "E"], value({"_builtin": {"silent": True}}))
    until(lambda: operators.sum("orchestrator_legs_in_flight"), lambda now: now == 2)
    legs.cancel()
    until(lambda: operators.sum("orchestrator_legs_in_flight"), lambda now: now == 0)
    for call in held:
        call.cancel()
    until(lambda: operators.sum("orchestrator_calls_in_flight"), lambda now: now == 0)
    until(lambda: operators.sum("orchestrator_message_bytes"), lambda now: now == 0)


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


def methods(stubs):
    """Every method of both services."""
    services = stubs.messages.DESCRIPTOR.services_by_name.values()
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def calls_every_path(stubs, address) -> set[str]:
    """Each path of both doors with a key and without, and some that are not there; what they are counted as."""
    bearers = [BEARER, ()]
    counted = {"other", "/grpc.health.v1.Health", "/grpc.reflection"}
    grpc_paths = [*methods(stubs), "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
    reflection = ["v1", "v1alpha"]
    grpc_paths += [f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in reflection]
    counted |= set(methods(stubs))
    with grpc.insecure_channel(address) as channel:
        for path in [*grpc_paths, "/openclaw.orchestrator.v1.OrchestratorService/None", "/no/thing"]:
            for bearer in bearers:
                # On the wire a call of one message is a stream of one. What has no end by itself ends in time.
                call = channel.stream_stream(path)(iter([b""]), metadata=bearer, timeout=0.2)
                try:
                    for _ in call:
                        pass
                except grpc.RpcError:
                    pass
    document = requests.get(f"http://{address}/openapi.json", timeout=LONG).json()
    rest = {path.removeprefix("/api") for path in document["paths"]} | {"/health/check", "/openapi.json"}
    counted |= rest
    for path in [*rest, "/nothing"]:
        for verb, bearer in [("GET", BEARER), ("POST", BEARER), ("DELETE", BEARER), ("POST", ())]:
            url = f"http://{address}{path.replace('{id}', 'some')}"
            with requests.request(verb, url, headers=dict(bearer), json={}, timeout=LONG, stream=True):
                # An answer may have no end.
                pass
    return counted


def test_whatever_is_called_and_however_many_instances_there_are_the_series_are_bounded(tmp_path, stubs):
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
        paths = calls_every_path(stubs, orchestrator.address)
        path_of = lambda series: {found[1] for one in series if (found := re.search(r'path="([^"]*)"', one))}
        until(lambda: path_of(large.series()), lambda seen: seen == paths)
        series = large.series()
        of_the_process = [one for one in series if not one.startswith("orchestrator_")]
        assert all(one.startswith("process_") for one in of_the_process)
        assert 0 < len(of_the_process) <= PROCESS_SERIES_MAX
        # Each of the paths has its buckets at least.
        assert len(paths) * 18 < len(series) <= SERIES_MAX
        assert not any("w00" in one for one in series)
        assert large.sum("orchestrator_instances") == 5_000
    finally:
        orchestrator.end()


def queries() -> dict[str, str]:
    """All that a Prometheus is to be asked, by where it stands: the dashboard and the rules of the alerts."""
    dashboard = json.loads((REPOSITORY / "packaging" / "grafana" / "orchestrator.json").read_text())
    asked = {
        f"panel {panel['title']!r} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    assert len(asked) > 20
    alerts = PAGE.split("\n## Alerts\n")[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in alerts.splitlines() if line.startswith("| ")]
    for name, rule, _, what_to_do in rows[1:]:
        asked[f"alert {name!r}"] = re.match("`(.*?)`", rule)[1].replace("\\|", "|")
        for at, query in enumerate(re.findall(r"`((?:sum|rate|orchestrator)[^`]*[(}][^`]*)`", what_to_do)):
            asked[f"alert {name!r}, what to do {at}"] = query
    assert sum(where.startswith("alert") for where in asked) >= 15
    return asked


def labels_of_the_page() -> dict[str, dict[str, set[str] | None]]:
    """Of each metric its labels, with all that each can say: a unit test holds this table against the program."""
    listed = re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram) \| ([`\w, ]*) \|", PAGE, re.MULTILINE)
    labels = {name: {label: None for label in re.findall(r"`(\w+)`", said)} for name, said in listed}
    rows = re.findall(r"^\| `(orchestrator_\w+)` \| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    reasons = re.findall(r"^\| `([A-Z_]+)` ", (REPOSITORY / "docs" / "failures.md").read_text(), re.MULTILINE)
    assert len(rows) > 10 and len(reasons) > 40
    for name, label, said in rows:
        if "such as" in said:
            continue
        words = set(re.findall(r"`([^`]+)`", said))
        labels[name][label] = words | set(reasons) if "docs/failures.md" in said else words
    return labels


def test_prometheus_can_be_asked_all_this():
    page = labels_of_the_page()
    wrong = {where: found for where, query in queries().items() if (found := promql.complaints(query, page))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sum(rate(orchestrator_calls_total[5m])", "unclosed left parenthesis"),
        ("rate(orchestrator_calls_total)", "expected type"),
        ("orchestrator_call_total", "there is no orchestrator_call_total"),
        ("orchestrator_call_seconds", "orchestrator_call_seconds is a histogram"),
        ("orchestrator_sessions_bucket", "there is no orchestrator_sessions_bucket"),
        ('orchestrator_calls_total{kode="OK"}', "orchestrator_calls_total has no label kode"),
        ('orchestrator_calls_total{code="OKAY"}', "code is never OKAY"),
        ('orchestrator_calls_total{code!="OKAY"}', "code is never OKAY"),
        ('orchestrator_calls_total{code=~"OK|NONE|50[03]"}', "code is never NONE"),
        ('orchestrator_instances{state="gone"}', "state is never gone"),
        ("sum by (path) (orchestrator_legs_total)", "nothing here has the label path"),
        ("sum without (path) (orchestrator_legs_total)", "nothing here has the label path"),
        ("sum by (le) (orchestrator_legs_total)", "nothing here has the label le"),
        ("histogram_quantile(0.5, sum by (le) (rate(orchestrator_call_seconds_bucket[5m])))", None),
        ('sum by (code) (rate(orchestrator_calls_total{code=~"OK|50[03]",path!="other"}[5m])) > 0', None),
    ],
)
def test_a_query_that_is_wrong_is_noticed(query, complaint):
    found = promql.complaints(query, labels_of_the_page())
    assert found == [] if complaint is None else complaint in " ".join(found), found


def test_every_query_finds_what_it_asks_for(operators, caller):
    """A metric that nothing has moved yet has no series."""
    for act in (routes_well, fans_out, spawns_a_session, drains):
        act(caller)
    until(lambda: operators.sum("orchestrator_spans_total"), lambda spans: spans > 0)
    names = {re.split(r"[{ ]", one)[0] for one in operators.series()}
    for where, query in queries().items():
        for name in promql.metrics(query):
            # What Prometheus says itself, and what takes TLS.
            if name not in ("up", "orchestrator_tls_end_seconds"):
                assert name in names, f"{where}: there is no {name}"


def test_what_is_served_is_what_the_docs_list(operators):
    listed = dict(re.findall(r"^\| `(orchestrator_\w+)` \| (counter|gauge|histogram) \|", PAGE, re.MULTILINE))
    text = operators.get("/metrics")[1]
    served = dict(re.findall(r"^# TYPE (orchestrator_\w+) (\w+)$", text, re.MULTILINE))
    # Of those that need more than every orchestrator has.
    with_tls = {"orchestrator_tls_end_seconds": "gauge"}
    assert served | with_tls == listed


def test_every_command_of_the_page_runs(tmp_path):
    commands = [
        line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    assert len(commands) >= 6
    # Those of the tables, which say what to do with a fleet that is ill: the program knows each word of them.
    tables = re.findall(r"`(orchestrator [a-z][^`]*)`", PAGE)
    assert len(set(tables)) >= 6
    commands += [f"{command} --help" for command in sorted(set(tables))]
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
