"""The examples run as they are, but for the address; and they are what the README shows."""

import subprocess
import sys
from pathlib import Path

import openclaw_orchestrator as oc

PACKAGE = Path(__file__).resolve().parents[1]
LONG = 60


def example(name, server, folder) -> Path:
    text = (PACKAGE / "examples" / name).read_text()
    assert text in (PACKAGE / "README.md").read_text(), f"{name} is not what the README shows"
    file = folder / name
    file.write_text(text.replace("127.0.0.1:7070", server.address))
    return file


def test_the_client_says_what_happened(server, tmp_path):
    with oc.Orchestrator(server.address) as client:
        for change in client.health_watch():
            if all(one.state == "healthy" for one in change.instances):
                break
    program = [sys.executable, example("client.py", server, tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] in ("A {'data': 'task'}", "B {'data': 'task'}")
    assert sorted(lines[1:4]) == ["A answered", "B answered", "C answered"]
    assert lines[4:] == ["hello", "TARGET_UNKNOWN False"]


def test_the_instance_takes_work(server, tmp_path):
    instance = subprocess.Popen([sys.executable, example("instance.py", server, tmp_path)])
    try:
        with oc.Orchestrator(server.address) as client:
            for change in client.health_watch():
                if any(one.instance == "upper" and one.state == "healthy" for one in change.instances):
                    break
            assert client.route("upper", "hello", timeout=LONG).payload == "HELLO"
    finally:
        instance.terminate()
        instance.wait(LONG)
