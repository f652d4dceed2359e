"""Every transcript of docs/rest.md is what a real orchestrator answers."""

import os
import subprocess

import pytest

import transcripts
from processes import KEY, Orchestrator
from stubs import REPOSITORY
from waiting import LONG, until

DOCS = REPOSITORY / "docs" / "rest.md"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The fleet of the page: A to H, and nobody listens where B should be."""
    instances = [{"id": id, "builtin": {}} for id in "ACDEFGH"]
    config = {
        "instances": [{"id": "B", "address": "127.0.0.1:1"}, *instances],
        "health": {"interval": "200ms", "timeout": "2s", "failures_down": 1, "successes_up": 1},
    }
    orchestrator = Orchestrator(tmp_path_factory.mktemp("docs"), config)
    health = "curl -s $ORCHESTRATOR/api/orchestrator/health -H \"authorization: Bearer $ORCHESTRATOR_API_KEY\""
    wanted = {id: "down" if id == "B" else "healthy" for id in "ABCDEFGH"}
    until(lambda: transcripts.documents(execute(orchestrator, health))[0], lambda seen: seen == wanted)
    yield orchestrator
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


def execute(house, command: str) -> str:
    environment = {
        **os.environ,
        "ORCHESTRATOR": f"http://{house.address}",
        "ORCHESTRATOR_API_KEY": KEY,
    }
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=LONG, env=environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


STEPS = transcripts.steps(DOCS.read_text())


def test_there_are_transcripts():
    assert len(STEPS) >= 15


# In order: a step may build on those before it.
@pytest.mark.parametrize("at", range(len(STEPS)))
def test_a_transcript_is_what_is_answered(house, at):
    step = STEPS[at]
    transcripts.compare(execute(house, step.command), step.printed)


def test_what_differs_is_seen():
    good = "HTTP/1.1 200 OK\r\ndate: x\r\n\r\n" + '{"a": "0.1s", "b": [1, "…"]}'
    said = good.replace("0.1s", "0.25s")
    transcripts.compare(good.replace("…", "anything"), said)
    for bad in (
        good.replace("200", "404"),
        good.replace("1,", "2,"),
        good.replace('"a"', '"c"'),
        good.replace("0.1s", "soon"),
        good.replace('{"a": "0.1s", "b": [1, "…"]}', '{"b": [1, "…"], "a": "0.1s"}'),
    ):
        with pytest.raises(AssertionError):
            transcripts.compare(bad, said)
