"""Real clients in other languages against the real binary, and an instance that is not ours behind it.

Run `cargo build --features openclaw` and `pip install -r tests/interop/requirements.txt` first; grpcurl must be on the PATH,
and tests/interop/collector built into target/tools/bin.
`.ci/run` does all of that. A missing tool is a failure here, and so is a skipped test.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

import stubs as stub_files
from operators import Operators, started
from processes import KEY, Collector, Orchestrator, PythonInstance
from waiting import LONG

BEARER = (("authorization", f"Bearer {KEY}"),)


def _fail(report):
    if report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed here: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _fail(report)
    return report


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Path:
    """A folder with freshly generated stubs."""
    folder = tmp_path_factory.mktemp("stubs")
    stub_files.generate(folder)
    return folder


@pytest.fixture(scope="session")
def stubs(generated):
    """The generated modules."""
    sys.path.insert(0, str(generated))
    from openclaw.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc

    return SimpleNamespace(
        messages=orchestrator_pb2,
        Orchestrator=orchestrator_pb2_grpc.OrchestratorServiceStub,
        Cluster=orchestrator_pb2_grpc.ClusterServiceStub,
    )


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """An orchestrator as it starts without a config: eight built-in instances, A to H."""
    orchestrator = Orchestrator(tmp_path_factory.mktemp("embedded"))
    yield orchestrator
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


@pytest.fixture
def orchestrator(tmp_path):
    """An orchestrator of the test's own, with A to H and probes that are soon done."""
    config = {
        "instances": [{"id": id, "builtin": {}} for id in "ABCDEFGH"],
        "health": {"interval": "200ms", "timeout": "2s", "failures_down": 2, "successes_up": 1},
    }
    orchestrator = Orchestrator(tmp_path, config)
    yield orchestrator
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


@pytest.fixture
def python_instance(tmp_path, generated, orchestrator):
    """Starts instances in processes of their own, registered with the test's orchestrator."""
    started = []

    def start(id="py-1", incarnation=1, lease=5):
        instance = PythonInstance(tmp_path, generated, orchestrator.address, id, incarnation, lease)
        started.append(instance)
        return instance

    yield start
    for instance in started:
        instance.end()


class Client:
    """The generated stubs with a channel and the key."""

    def __init__(self, stubs, address):
        self.address = address
        self.channel = grpc.insecure_channel(address)
        self.api = stubs.Orchestrator(self.channel)
        self.cluster = stubs.Cluster(self.channel)
        self.messages = stubs.messages

    def route(self, instances, payload=None, timeout=LONG, metadata=(), **fields):
        request = self.messages.RouteRequest(instances=instances, payload=payload, **fields)
        return self.api.Route(request, timeout=timeout, metadata=(*BEARER, *metadata))

    def route_later(self, instances, payload=None, timeout=LONG, metadata=(), **fields):
        request = self.messages.RouteRequest(instances=instances, payload=payload, **fields)
        return self.api.Route.future(request, timeout=timeout, metadata=(*BEARER, *metadata))

    def fanout(self, targets, payload=None, timeout=LONG, **fields):
        request = self.messages.FanoutRequest(targets=targets, payload=payload, **fields)
        return self.api.Fanout(request, timeout=timeout, metadata=BEARER)

    def health(self, *instances):
        """What is said of each instance, by its id."""
        request = self.messages.HealthRequest(instances=instances)
        answer = self.api.Health(request, timeout=LONG, metadata=BEARER)
        return {entry.instance: entry for entry in answer.instances}

    def state(self, id):
        """The state of one instance as a word; absent when it is not in the fleet."""
        entry = self.health().get(id)
        return "absent" if entry is None else self.messages.HealthState.Name(entry.state)


@pytest.fixture
def client(stubs, embedded):
    """A Python client of the embedded fleet."""
    client = Client(stubs, embedded.address)
    yield client
    client.channel.close()


@pytest.fixture
def own_client(stubs, orchestrator):
    """A Python client of the test's own orchestrator."""
    client = Client(stubs, orchestrator.address)
    yield client
    client.channel.close()


@pytest.fixture
def run():
    """Runs a tool to its end."""

    def run(tool, *arguments, cwd=stub_files.REPOSITORY) -> subprocess.CompletedProcess:
        path = shutil.which(tool)
        assert path, f"{tool} is not on the PATH; .ci/run installs it"
        command = [path, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=LONG, cwd=cwd)

    return run


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """An orchestrator with an operator's port, which records every call."""
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
