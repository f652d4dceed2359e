"""Starts the real programs: the orchestrator, and an instance that is not ours."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from stubs import REPOSITORY
from waiting import LONG

KEY = "interop-key-5d20"


def binary() -> Path:
    """The program as `cargo test` built it; never another one that happens to be on the machine."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(os.environ.get("ORCHESTRATOR_BINARY", target / "debug" / "orchestrator"))
    assert path.is_file(), f"{path} is missing: run `cargo build` first"
    return path


class Lines:
    """The JSON lines of a process, kept as they come, so that a test can wait for one."""

    def __init__(self, stream):
        self._lines = []
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        for text in stream:
            with self._changed:
                self._lines.append(json.loads(text))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def matching(self, **wanted):
        """The lines so far that say this."""
        with self._changed:
            return [line for line in self._lines if wanted.items() <= line.items()]

    def wait_for(self, **wanted):
        """The first line that says this, which may still have to come."""
        ends = time.monotonic() + LONG
        while True:
            with self._changed:
                found = [line for line in self._lines if wanted.items() <= line.items()]
                if found:
                    return found[0]
                left = ends - time.monotonic()
                assert not self._ended and left > 0, f"never said {wanted}: {self._lines}"
                self._changed.wait(left)


class Process:
    """A running program that speaks JSON lines."""

    restores_signals = True

    def __init__(self, command, log: Path, **environment):
        self.log = log
        with log.open("w") as errors:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
                restore_signals=self.restores_signals,
            )
        self.lines = Lines(self.child.stdout)

    def kill(self):
        """As the kernel does when memory runs out: no word to anybody."""
        self.child.kill()
        self.child.wait(LONG)

    def terminate(self) -> int:
        """As an operator does; its exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(LONG)

    def end(self):
        """Whatever happened to it before."""
        if self.child.poll() is None:
            self.kill()
        self.child.stdin.close()


class Orchestrator(Process):
    """An orchestrator on a port of its own."""

    # Python ignores SIGXFSZ, and so does it then: a file that may not grow is an error of a write, as on a full disk.
    restores_signals = False

    def __init__(self, folder: Path, config: dict | None = None, instances: int = 8):
        command = [binary(), "serve", "--listen", "127.0.0.1:0", "--data-dir", folder / "data"]
        if config is not None:
            file = folder / "orchestrator.json"
            file.write_text(json.dumps(config))
            command += ["--config", file]
        super().__init__(command, folder / "orchestrator.log", ORCHESTRATOR_API_KEY=KEY)
        started = self.lines.wait_for(instances=instances)
        self.address = started["listening"]


class PythonInstance(Process):
    """An instance written in Python with grpcio, which registers itself and renews its lease."""

    def __init__(self, folder: Path, generated: Path, orchestrator: str, id: str, incarnation: int, lease=5, collector=None):
        here = Path(__file__).parent
        super().__init__(
            [
                sys.executable,
                here / "python_instance.py",
                f"--orchestrator={orchestrator}",
                f"--id={id}",
                f"--incarnation={incarnation}",
                f"--lease={lease}",
                *([] if collector is None else [f"--collector={collector}"]),
            ],
            folder / f"{id}-{incarnation}.log",
            ORCHESTRATOR_API_KEY=KEY,
            PYTHONPATH=os.pathsep.join([str(generated), str(REPOSITORY / "examples")]),
        )
        self.id = id

    def tell(self, *words):
        """One line of orders on its standard input."""
        self.child.stdin.write(" ".join(map(str, words)) + "\n")
        self.child.stdin.flush()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Collector(Process):
    """The OTLP receiver of the OpenTelemetry Collector, which says each span that it receives."""

    def __init__(self, folder: Path):
        program = REPOSITORY / "target" / "tools" / "bin" / "collector"
        assert program.is_file(), f"{program} is missing: run `go build` in tests/interop/collector"
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__([program, self.address], folder / "collector.log")
        self.lines.wait_for(event="listening")

    def spans(self, trace: str) -> list[dict]:
        return self.lines.matching(event="span", trace=trace)
