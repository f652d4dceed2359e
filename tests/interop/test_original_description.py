"""The description that this program was built from, sentence by sentence: what it promises is done.

Each row is a sentence, the call or the command line that it is about, and what must come back.
"""

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import pytest
import requests

from processes import KEY, Orchestrator, binary
from waiting import LONG, until


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A to H, where nobody listens at B."""
    instances = [{"id": id, "builtin": {}} for id in "ACDEFGH"]
    config = {
        "instances": [{"id": "B", "address": "127.0.0.1:1"}, *instances],
        "health": {"interval": "200ms", "timeout": "2s", "failures_down": 1, "successes_up": 1},
    }
    orchestrator = Orchestrator(tmp_path_factory.mktemp("original"), config)
    url = f"http://{orchestrator.address}"
    health = Call("GET", "/api/orchestrator/health")
    until(lambda: health.made(url).json(), lambda seen: set(seen.values()) == {"healthy", "down"})
    yield url
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass
class Call:
    """One call over HTTP."""

    verb: str
    path: str
    json: object = None
    headers: dict | None = None

    def made(self, url: str) -> requests.Response:
        headers = BEARER if self.headers is None else self.headers
        return requests.request(self.verb, url + self.path, json=self.json, headers=headers, timeout=LONG)


@dataclass
class Promise:
    sentence: str
    call: Call
    status: int
    kept: Callable[[requests.Response], bool]


def code(response):
    return response.json()["error"]["code"]


# Who fails five times in a row is ejected: no instance is made to in this file.
FAIL = {"_builtin": {"fail": "UNAVAILABLE"}}
SILENT = {"_builtin": {"silent": True}}
ROUTE = "/api/orchestrator/route"
FANOUT = "/api/orchestrator/fanout"

PROMISES = [
    Promise(
        'POST /api/orchestrator/route: Body: {"instances": ["A", "B"], "payload": {"data": "task"}}, '
        "Headers: Authorization: Bearer $ORCHESTRATOR_API_KEY",
        Call("POST", ROUTE, {"instances": ["A", "B"], "payload": {"data": "task"}}),
        200,
        lambda got: got.json()["instance"] == "A" and got.json()["payload"] == {"data": "task"},
    ),
    Promise(
        'POST /api/orchestrator/fanout: Body: {"targets": ["A", "C"], "aggregate": true}, '
        "Returns aggregated JSON array.",
        Call("POST", FANOUT, {"targets": ["A", "C"], "aggregate": True}),
        200,
        lambda got: [result["instance"] for result in got.json()] == ["A", "C"],
    ),
    Promise(
        'POST /api/orchestrator/sessions/spawn: Body: {"sessionId": "session1"}, Response: session token.',
        Call("POST", "/api/orchestrator/sessions/spawn", {"sessionId": "session1"}),
        200,
        lambda got: got.json()["sessionId"] == "session1" and got.json()["token"].startswith("ost_"),
    ),
    Promise(
        "Session-Based Workflows: Spawn a session, send data, and monitor health; use for multi-step processes.",
        Call("POST", "/api/orchestrator/sessions/send", {"sessionId": "session1", "data": {"key": "value"}}),
        200,
        lambda got: got.json()["payload"] == {"key": "value"},
    ),
    Promise(
        'GET /api/orchestrator/health: Query: ?instances=A-H, Returns: {"A": "healthy", "B": "down"}.',
        Call("GET", "/api/orchestrator/health?instances=A-H"),
        200,
        lambda got: got.json() == {id: "down" if id == "B" else "healthy" for id in "ABCDEFGH"},
    ),
    Promise(
        "Periodically verify instance status with endpoints like /api/health/check, returning JSON with "
        "status codes (e.g., 200 for healthy).",
        Call("GET", "/api/health/check", headers={}),
        200,
        lambda got: got.json() == {"status": "healthy"},
    ),
    Promise(
        "Ensure the skill is registered via the cluster's API (e.g., POST /api/cluster/register with body "
        '{"skillId": "orchestrator"}).',
        Call("POST", "/api/cluster/register", {"skillId": "orchestrator"}),
        200,
        lambda got: got.json()["skillId"] == "orchestrator",
    ),
    Promise(
        "When embedding, include the hint string in metadata: orchestrate delegate multi-instance session "
        "spawn send fanout aggregate instances.",
        Call("POST", "/api/cluster/register", {"skillId": "orchestrator"}),
        200,
        lambda got: got.json()["hint"]
        == "orchestrate delegate multi-instance session spawn send fanout aggregate instances",
    ),
    Promise(
        "Simple Routing: Route a task to instance A by specifying the target.",
        Call("POST", ROUTE, {"instances": ["A"], "payload": 1}),
        200,
        lambda got: got.json()["instance"] == "A",
    ),
    Promise(
        "Fanout and Aggregate: Send a request to instances A-C, then aggregate results.",
        Call("POST", FANOUT, {"targets": ["A-C"], "payload": 1, "aggregate": True}),
        200,
        lambda got: [result["status"] for result in got.json()] == ["answered", "failed", "answered"],
    ),
    Promise(
        "Broadcast requests to multiple instances and collect/aggregate responses.",
        Call("POST", FANOUT, {"targets": ["*"], "payload": 1}),
        200,
        lambda got: len(got.text.splitlines()) == 10 and '"summary"' in got.text.splitlines()[-1],
    ),
    Promise(
        "Error Resilience: Automatically retry failed delegations up to 3 times based on configurable thresholds.",
        Call("POST", ROUTE, {"instances": ["D"], "payload": FAIL, "policy": {"idempotent": True}}),
        503,
        lambda got: [attempt["kind"] for attempt in got.json()["error"]["attempts"]][1:] == ["retry"] * 3,
    ),
    Promise(
        "Error Resilience: … based on configurable thresholds.",
        Call("POST", ROUTE, {"instances": ["E"], "payload": FAIL, "policy": {"idempotent": True, "attemptsMax": 2}}),
        503,
        lambda got: len(got.json()["error"]["attempts"]) == 2,
    ),
    Promise(
        "Authentication failures (e.g., 401 Unauthorized): Check if $ORCHESTRATOR_API_KEY is set …",
        Call("POST", ROUTE, {"instances": ["A"]}, headers={}),
        401,
        lambda got: code(got) == "key_missing" and got.headers["WWW-Authenticate"] == "Bearer",
    ),
    Promise(
        "… and valid; retry once after verifying.",
        Call("POST", ROUTE, {"instances": ["A"]}, headers={"Authorization": "Bearer wrong"}),
        401,
        lambda got: code(got) == "key_invalid" and "will not help" in got.json()["error"]["message"],
    ),
    Promise(
        "Instance unreachable (e.g., 503 Service Unavailable): … handle in code with exponential backoff.",
        Call("POST", ROUTE, {"instances": ["B"]}),
        503,
        lambda got: code(got) == "instance_down" and got.json()["error"]["retryable"] is True,
    ),
    Promise(
        'Parse response JSON for error codes (e.g., "instance_down") and fallback to healthy instances.',
        Call("POST", ROUTE, {"instances": ["B"], "payload": 1, "policy": {"fallback": "any_healthy"}}),
        200,
        lambda got: got.json()["instance"] != "B" and got.json()["attempts"][-1]["kind"] == "fallback",
    ),
    Promise(
        "Aggregation timeouts: Set --timeout 10s and catch errors with try/except in scripts.",
        Call("POST", FANOUT, {"targets": ["A", "C"], "payload": SILENT, "aggregate": True, "timeout": "0.3s"}),
        200,
        lambda got: [result["status"] for result in got.json()] == ["timed_out", "timed_out"],
    ),
    Promise(
        'Config Formats: Use JSON for payloads, e.g., {"instances": ["A"], "timeout": 5}.',
        Call("POST", ROUTE, {"instances": ["A"], "timeout": 5}),
        200,
        lambda got: got.json()["instance"] == "A",
    ),
    Promise(
        "Always log errors with timestamps and instance details for debugging.",
        Call("POST", ROUTE, {"instances": ["B"]}, headers={**BEARER, "x-request-id": "find-me"}),
        503,
        lambda got: got.json()["error"]["requestId"] == "find-me" and got.json()["error"]["instance"] == "B",
    ),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.sentence[:50])
def test_a_promise_is_kept(url, promise):
    response = promise.call.made(url)
    assert response.status_code == promise.status, response.text
    assert promise.kept(response), response.text


SNIPPET = """\
import requests
headers = {'Authorization': f'Bearer {os.environ["ORCHESTRATOR_API_KEY"]}'}
response = requests.post('http://api.openclaw/orchestrator/route', \
json={'instances': ['A'], 'payload': {'data': 'task'}}, headers=headers)
"""


def test_the_snippet_works_but_for_its_import_and_its_host(url, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", KEY)
    names = {}
    exec("import os\n" + SNIPPET.replace("http://api.openclaw", url), names)
    assert names["response"].status_code == 200
    assert names["response"].json()["payload"] == {"data": "task"}


RETRY = """\
try:
    response = requests.post(url, headers=headers)
    response.raise_for_status()
except requests.exceptions.HTTPError as e:
    print(f"Error: {e} - Retrying...")
"""


def test_the_error_handling_of_the_description_catches_errors(url, capsys):
    for path, said in [("/orchestrator/route", "400"), ("/orchestrator/nothing", "404")]:
        exec(RETRY, {"requests": requests, "url": url + path, "headers": BEARER})
        printed = capsys.readouterr().out
        assert printed.startswith(f"Error: {said} ") and "Retrying" in printed


def test_a_backoff_on_503_is_of_use(url):
    """As the description asks: try again with exponential backoff, for as long as the answer is retryable."""
    adapter = requests.adapters.HTTPAdapter(
        max_retries=requests.packages.urllib3.Retry(
            total=3, backoff_factor=0.01, status_forcelist=[503], allowed_methods=["POST"]
        )
    )
    with requests.Session() as session:
        session.mount(url, adapter)
        with pytest.raises(requests.exceptions.RetryError):
            session.post(url + ROUTE, json={"instances": ["B"]}, headers=BEARER, timeout=LONG)
        good = session.post(url + ROUTE, json={"instances": ["A"]}, headers=BEARER, timeout=LONG)
        assert good.status_code == 200


# === the command lines, as they are written ===

DESCRIBED_KEY = "your_key_here"


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs lines as they are written, where `openclaw` is on the PATH and A to H are well."""
    folder = tmp_path_factory.mktemp("described")
    openclaw = binary().parent / "openclaw"
    assert openclaw.is_file(), f"{openclaw} is missing: run `cargo build --features openclaw` first"
    (folder / "bin").mkdir()
    (folder / "bin" / "openclaw").symlink_to(openclaw.resolve())
    described = {"name": "described", "scopes": ["admin"]}
    described["sha256"] = hashlib.sha256(DESCRIBED_KEY.encode()).hexdigest()
    config = {"instances": [{"id": id, "builtin": {}} for id in "ABCDEFGH"], "keys": [described]}
    orchestrator = Orchestrator(folder, config)

    def run(lines: str, key=KEY) -> subprocess.CompletedProcess:
        environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "ORCHESTRATOR_SERVER": orchestrator.address,
        }
        if key is not None:
            environment["ORCHESTRATOR_API_KEY"] = key
        return subprocess.run(
            ["bash", "-c", lines], capture_output=True, text=True, timeout=LONG, env=environment, cwd=folder
        )

    run.folder = folder
    until(lambda: run("openclaw orchestrator health").returncode, lambda code: code == 0)
    yield run
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


@dataclass
class Line:
    sentence: str
    lines: str
    kept: Callable[[str, Path], bool]
    """By standard output and the folder in which it ran."""
    exit: int = 0


def is_aggregate(text: str) -> bool:
    return [result["instance"] for result in json.loads(text)] == list("ABCDEFGH")


FAILS = '{"_builtin": {"fail": "UNAVAILABLE"}}'

LINES = [
    Line(
        "Route to instances",
        """openclaw orchestrator route --instances A B --payload '{"data": "task"}'""",
        lambda out, _: json.loads(out)["payload"] == {"data": "task"} and json.loads(out)["instance"] in "AB",
    ),
    Line(
        "Fanout and aggregate",
        "openclaw orchestrator fanout --targets A-H --aggregate true --timeout 10s",
        lambda out, _: is_aggregate(out),
    ),
    Line(
        "Spawn and send session",
        "openclaw orchestrator sessions_spawn --id session1; "
        """openclaw orchestrator sessions_send --id session1 --data '{"key": "value"}'""",
        lambda out, _: '"ost_' in out and json.loads(out[out.rindex("\n{") :])["payload"] == {"key": "value"},
    ),
    Line(
        "Health check",
        "openclaw orchestrator health --instances A-H --output json",
        lambda out, _: json.loads(out) == {id: "healthy" for id in "ABCDEFGH"},
    ),
    Line(
        "export ORCHESTRATOR_API_KEY=your_key_here …",
        "export ORCHESTRATOR_API_KEY=your_key_here\n"
        "openclaw orchestrator fanout --targets A-H --aggregate true > output.json",
        lambda out, folder: out == "" and is_aggregate((folder / "output.json").read_text()),
    ),
    Line(
        "Use JSON for payloads, e.g., {\"instances\": [\"A\"], \"timeout\": 5}; store in files like config.json and "
        "pass via --config config.json.",
        """echo '{"instances": ["A"], "timeout": 5}' > config.json; openclaw orchestrator route --config config.json""",
        lambda out, _: json.loads(out)["instance"] == "A",
    ),
    Line(
        "Instance unreachable (e.g., 503 Service Unavailable): Use --retry 3 in CLI",
        f"openclaw orchestrator route --instances D --retry 3 --idempotent --payload '{FAILS}'",
        lambda out, _: [it["kind"] for it in json.loads(out)["error"]["attempts"]] == ["first"] + ["retry"] * 3,
        exit=4,
    ),
    Line(
        "Aggregation timeouts: Set --timeout 10s and catch errors with try/except in scripts.",
        """openclaw orchestrator fanout --targets A C --aggregate true --timeout 1s """
        """--payload '{"_builtin": {"silent": true}}'""",
        lambda out, _: [it["outcome"] for it in json.loads(out)] == ["timed_out"] * 2,
        exit=5,
    ),
    Line(
        "Health Monitoring Loop: Integrate into scripts to check instances every 60 seconds and reroute if needed.",
        "openclaw orchestrator health --watch --interval 60s --output json | "
        """head -n 1 | grep -q '"B":"healthy"' && openclaw orchestrator route --instances B""",
        lambda out, _: json.loads(out)["instance"] == "B",
    ),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.sentence[:50])
def test_a_line_works_as_it_is_written(shell, line):
    if "--watch" in line.lines:
        # It goes on for ever, and would write to the reader that has left only after a minute.
        line.lines = line.lines.replace("openclaw", "timeout --foreground 10 openclaw", 1)
    done = shell(line.lines)
    assert done.returncode == line.exit, done
    assert line.kept(done.stdout, shell.folder), done


def test_without_a_key_a_line_says_what_to_do(shell):
    """Authentication failures (e.g., 401 Unauthorized): Check if $ORCHESTRATOR_API_KEY is set and valid."""
    for key, said in [(None, "ORCHESTRATOR_API_KEY"), ("wrong", "KEY_INVALID")]:
        done = shell("openclaw orchestrator route --instances A", key=key)
        assert done.returncode == 3 and said in done.stderr, done
