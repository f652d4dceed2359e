"""An instance over plain HTTP, in a process of its own: the example of the README, registered by somebody else, at
work, and killed in the midst of a call.
"""

import re
import signal
import subprocess
import sys

import pytest
import requests

from processes import KEY, free_port
from stubs import REPOSITORY
from waiting import LONG, until

EXAMPLE = REPOSITORY / "examples" / "http_instance.py"

# The example, and a task that it keeps: its answer waits for a line on standard input.
HOLDING = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Holding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        task = json.loads(self.rfile.read(int(self.headers["content-length"])))
        print(json.dumps({"task": task, "path": self.path, "headers": dict(self.headers)}), flush=True)
        if task == "hold":
            sys.stdin.readline()
        answer = json.dumps(task).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Holding).serve_forever()
"""


@pytest.fixture
def serving(tmp_path):
    """Starts an HTTP instance; ends what was started."""
    started = []

    def serving(program):
        port = free_port()
        command = [sys.executable, *program, str(port)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(child)
        return child, port

    yield serving
    for child in started:
        child.kill()
        child.communicate(timeout=LONG)


@pytest.fixture
def ask(orchestrator):
    """A REST call with the key: its status and its JSON."""

    def ask(verb, path, body=None, **parameters):
        url = f"http://{orchestrator.address}/api/{path}"
        headers = {"authorization": f"Bearer {KEY}", "x-request-id": "request-17"}
        answer = requests.request(verb, url, json=body, params=parameters, headers=headers, timeout=LONG)
        return answer.status_code, answer.json()

    return ask


def register(ask, id, address, incarnation=1):
    instance = {"id": id, "address": address}
    status, answer = ask("POST", "cluster/register", {"instance": instance, "incarnation": incarnation, "lease": "10m"})
    assert status == 200, answer
    until(lambda: ask("GET", "orchestrator/health", instances=id)[1], lambda seen: seen == {id: "healthy"})


def test_the_example_of_the_readme_works_as_it_is_shown(serving, ask):
    _, port = serving([EXAMPLE])
    register(ask, "upper", f"http://127.0.0.1:{port}/run")
    for _ in range(3):
        status, answer = ask("POST", "orchestrator/route", {"instances": ["upper"], "payload": "hello"})
        assert (status, answer["payload"], answer["instance"]) == (200, "HELLO", "upper")
    # A number has no upper(): the example lets the connection go, and nobody knows what it had done.
    status, answer = ask("POST", "orchestrator/route", {"instances": ["upper"], "payload": 7})
    assert (status, answer["error"]["code"], answer["error"]["retryable"]) == (503, "instance_lost", False)


def test_the_readme_shows_how_it_is_registered(serving, ask, orchestrator):
    text = (REPOSITORY / "README.md").read_text()
    section = text.split("### An instance over plain HTTP")[1]
    [command] = re.findall(r"curl -s .*?(?=\norchestrator route)", section, re.DOTALL)
    _, port = serving([EXAMPLE])
    command = command.replace("127.0.0.1:7070", orchestrator.address).replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=LONG, env={"ORCHESTRATOR_API_KEY": KEY, "PATH": "/usr/bin:/bin:/usr/local/bin"}
    )
    assert done.returncode == 0 and "expireTime" in done.stdout, done
    until(lambda: ask("GET", "orchestrator/health", instances="upper")[1], lambda seen: seen == {"upper": "healthy"})
    status, answer = ask("POST", "orchestrator/route", {"instances": ["upper"], "payload": "hello"})
    assert (status, answer["payload"]) == (200, "HELLO")


def test_a_killed_one_has_lost_its_call_and_takes_no_other_with_it(serving, ask, own_client):
    child, port = serving(["-c", HOLDING])
    register(ask, "py-http", f"http://127.0.0.1:{port}/run")
    status, answer = ask("POST", "orchestrator/route", {"instances": ["py-http"], "payload": {"z": 1, "a": [2]}})
    assert (status, answer["payload"]) == (200, {"z": 1, "a": [2]})
    first = child.stdout.readline()
    assert '"path": "/run"' in first and '"x-request-id": "request-17"' in first
    assert KEY not in first, "the caller's key is never passed on"

    from google.protobuf import struct_pb2

    call = own_client.route_later(["py-http"], struct_pb2.Value(string_value="hold"))
    assert '"task": "hold"' in child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    from error_info import error_info

    info = error_info(call.exception(timeout=LONG))
    assert (info.reason, info.metadata["instance"], info.metadata["retryable"]) == ("INSTANCE_LOST", "py-http", "false")
    # Now nobody is there, which is proof that a task never began: it goes elsewhere at once.
    body = {"instances": ["py-http", "A"], "payload": "hello", "policy": {"selection": "ordered"}}
    status, answer = ask("POST", "orchestrator/route", body)
    assert (status, answer["instance"]) == (200, "A")
    seen = until(
        lambda: ask("GET", "orchestrator/health", instances="py-http")[1], lambda seen: seen == {"py-http": "down"}
    )
    assert seen
    # It comes back on another port, as a newer incarnation.
    _, port = serving(["-c", HOLDING])
    register(ask, "py-http", f"http://127.0.0.1:{port}/run", incarnation=2)
    status, answer = ask("POST", "orchestrator/route", {"instances": ["py-http"], "payload": "hello"})
    assert (status, answer["payload"]) == (200, "hello")


def test_both_kinds_answer_one_fan_out(serving, ask):
    _, port = serving([EXAMPLE])
    register(ask, "upper", f"http://127.0.0.1:{port}")
    status, answer = ask("POST", "orchestrator/fanout", {"targets": ["A", "upper"], "payload": "hello", "aggregate": True})
    found = {one["instance"]: one["payload"] for one in answer}
    assert (status, found) == (200, {"A": "hello", "upper": "HELLO"})
