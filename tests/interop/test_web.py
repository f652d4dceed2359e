"""Clients for browsers against the real binary: the gRPC project's own, and Connect's, each on a page of another origin.

jsdom's XMLHttpRequest, and `web/browser_fetch.mjs` for fetch, do what the Fetch standard asks of a browser: they send
preflights, and hide what the server does not expose.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from processes import KEY, Orchestrator
from stubs import REPOSITORY
from waiting import LONG

PAGE = "https://console.example.com"
OTHER_PAGE = "https://elsewhere.example.com"
HERE = Path(__file__).parent / "web"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with the programs of pages, the packages that they use, and stubs made from the contract."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    packages = target / "tools/web/node_modules"
    assert packages.is_dir(), f"{packages} is missing: .ci/run installs it with npm ci"
    folder = tmp_path_factory.mktemp("pages")
    (folder / "node_modules").symlink_to(packages)
    (folder / "gen").mkdir()
    (folder / "package.json").write_text('{"type": "module"}')
    for program in HERE.glob("*.mjs"):
        shutil.copy(program, folder)
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={REPOSITORY / 'proto'}",
        f"--plugin=protoc-gen-es={packages / '.bin/protoc-gen-es'}",
        f"--es_out={folder / 'gen'}",
        "--es_opt=target=js",
        "openclaw/orchestrator/v1/orchestrator.proto",
    ]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """An orchestrator that allows pages of one origin; `slow` takes a minute."""
    config = {
        "instances": [{"id": id, "builtin": {}} for id in "ABCDEFGH"]
        + [{"id": "slow", "builtin": {"delay": "60s"}}],
        "cors": {"origins": [PAGE]},
        "operators": {"listen": "127.0.0.1:0"},
    }
    orchestrator = Orchestrator(tmp_path_factory.mktemp("web"), config, instances=9)
    yield SimpleNamespace(url=f"http://{orchestrator.address}", log=orchestrator.log)
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


@pytest.fixture
def visit(pages):
    """Runs the program of a page; what it has told, by name."""

    def visit(program, *arguments):
        command = ["node", program, *arguments]
        page = subprocess.run(command, cwd=pages, capture_output=True, text=True, timeout=LONG)
        assert page.returncode == 0, page.stderr
        lines = [json.loads(line) for line in page.stdout.splitlines()]
        return {line.pop("name"): line for line in lines}

    return visit


EVENTS = ["started"] + ["partial"] * 8 + ["summary"]


def test_connect_calls_from_a_page(visit, house):
    told = visit("connect.mjs", house.url, PAGE, KEY)
    assert told["route"] == {"instance": "A", "length": 50_000, "hasId": True}
    assert told["fanout"] == {"cases": EVENTS}
    unknown = told["unknown"]
    assert unknown["code"] == "NotFound" and "Z" in unknown["message"], unknown
    assert unknown["details"] == ["google.rpc.ErrorInfo"], "a page reads why"
    assert told["late"]["code"] == "DeadlineExceeded", told
    assert told["watch"]["told"] > 0


def test_connect_is_told_what_is_wrong_with_its_key(visit, house):
    for key in ["", "wrong"]:
        told = visit("connect.mjs", house.url, PAGE, key)
        for name in ["route", "fanout", "unknown"]:
            assert told[name]["code"] == "Unauthenticated", told
            assert "key" in told[name]["message"]
            assert told[name]["details"] == ["google.rpc.ErrorInfo"]


@pytest.mark.parametrize("form", ["text", "binary"])
def test_the_grpc_project_s_own_client_calls_from_a_page(visit, house, form):
    told = visit("official.mjs", house.url, PAGE, KEY, form)
    assert told["route"] == {"instance": "A"}
    if form == "text":
        assert told["fanout"] == {"cases": EVENTS}
    assert told["unknown"]["code"] == 5 and "Z" in told["unknown"]["message"], told
    refused = visit("official.mjs", house.url, PAGE, "wrong", form)
    assert {said["code"] for said in refused.values()} == {16}, refused


def test_a_page_of_another_origin_can_do_nothing(visit, house):
    for told in [
        visit("connect.mjs", house.url, OTHER_PAGE, KEY),
        visit("official.mjs", house.url, OTHER_PAGE, KEY, "text"),
    ]:
        for said in told.values():
            assert "instance" not in said and not said.get("cases"), told
            assert said["code"] in ["Unknown", "DeadlineExceeded", "Canceled", 2, 14], told


def block(language, after):
    """A block of the README's chapter about pages."""
    chapter = (REPOSITORY / "README.md").read_text().split("\n## A page in a browser\n")[1].split("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", chapter[chapter.index(after):], re.S)[1]


def test_what_the_readme_shows_is_what_happens(pages, tmp_path):
    config = json.loads(block("json", "A page of another origin"))
    orchestrator = Orchestrator(tmp_path, config, instances=2)
    program = block("js", "stubs in `gen`")
    values = {'"http://127.0.0.1:7070"': f'"http://{orchestrator.address}"', '"KEY"': f'"{KEY}"'}
    for shown, real in values.items():
        assert program.count(shown) == 1
        program = program.replace(shown, real)
    (pages / "readme.mjs").write_text(program)
    page = 'import { fetchOf } from "./browser_fetch.mjs";\nglobalThis.fetch = fetchOf(process.argv[2]);\n'
    (pages / "page.mjs").write_text(page + 'await import("./readme.mjs");\n')
    command = ["node", "page.mjs", config["cors"]["origins"][0]]
    run = subprocess.run(command, cwd=pages, capture_output=True, text=True, timeout=LONG)
    assert run.stdout == block("text", "console.log(event.case)"), run.stderr
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()
