"""Real orchestrators for the tests of the package. `cargo build` first; the package must be installed."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
KEY = "python-key-7c02"
LONG = 60


def binary() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(os.environ.get("ORCHESTRATOR_BINARY", target / "debug" / "orchestrator"))
    assert path.is_file(), f"{path} is missing: run `cargo build` first"
    return path


class Server:
    """An orchestrator that can be killed, and started again on the same port with the same data."""

    def __init__(self, folder: Path, config: dict | None = None):
        self.folder = folder
        self.arguments = ["--data-dir", str(folder / "data")]
        if config is not None:
            file = folder / "orchestrator.json"
            file.write_text(json.dumps(config))
            self.arguments += ["--config", str(file)]
        self.address = "127.0.0.1:0"
        self.start()

    def start(self):
        self.child = subprocess.Popen(
            [binary(), "serve", "--listen", self.address, *self.arguments],
            stdout=subprocess.PIPE,
            stderr=(self.folder / "log").open("a"),
            text=True,
            env={**os.environ, "ORCHESTRATOR_API_KEY": KEY},
        )
        line = self.child.stdout.readline()
        assert line, (self.folder / "log").read_text()
        self.address = json.loads(line)["listening"]

    def kill(self):
        self.child.kill()
        self.child.wait(LONG)

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            self.child.wait(LONG)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", KEY)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """Eight built-in instances, A to H."""
    server = Server(tmp_path_factory.mktemp("embedded"))
    yield server
    server.stop()


@pytest.fixture
def server(tmp_path):
    """A server of the test's own, with A to H and probes that are soon done."""
    config = {
        "instances": [{"id": id, "builtin": {}} for id in "ABCDEFGH"],
        "health": {"interval": "200ms", "timeout": "2s", "failures_down": 2, "successes_up": 1},
    }
    server = Server(tmp_path, config)
    yield server
    server.stop()
