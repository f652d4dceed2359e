"""buf: a second implementation of the protocol as a client, and the keeper of the contract."""

import json
import shutil

import pytest

from json_documents import documents
from processes import KEY
from stubs import REPOSITORY

SERVICE = "openclaw.orchestrator.v1.OrchestratorService"
BEARER = f"authorization: Bearer {KEY}"
BY_REFLECTION = ["--reflect-header", BEARER]
BY_SCHEMA = ["--schema", "proto"]


@pytest.fixture
def buf_curl(run, embedded):
    """Calls the embedded fleet over gRPC without TLS."""

    def buf_curl(method, data, *flags, header=BEARER):
        sent = ["--header", header, "--data", json.dumps(data)]
        url = f"http://{embedded.address}/{SERVICE}/{method}"
        return run("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", *flags, *sent, url)

    return buf_curl


@pytest.mark.parametrize("schema", [BY_REFLECTION, BY_SCHEMA], ids=["reflection", "schema"])
def test_buf_curl_routes(buf_curl, schema):
    output = buf_curl("Route", {"instances": ["A", "B"], "payload": {"data": "task"}}, *schema)
    assert output.returncode == 0, output
    assert json.loads(output.stdout)["payload"] == {"data": "task"}


@pytest.mark.parametrize("schema", [BY_REFLECTION, BY_SCHEMA], ids=["reflection", "schema"])
def test_buf_curl_streams_a_fanout(buf_curl, schema):
    events = documents(buf_curl("Fanout", {"targets": ["A-C"], "payload": {"data": "task"}}, *schema).stdout)
    assert [next(iter(event)) for event in events] == ["started", "partial", "partial", "partial", "summary"]


def test_buf_curl_shows_the_details_of_a_failure(buf_curl):
    output = buf_curl("Route", {"instances": ["Z"]}, *BY_SCHEMA)
    assert output.returncode != 0, output
    status = json.loads(output.stderr)
    assert status["code"] == "not_found"
    assert status["details"][0]["type"] == "google.rpc.ErrorInfo"


def test_buf_curl_without_the_key_is_unauthenticated(buf_curl):
    output = buf_curl("Route", {"instances": ["A"]}, *BY_SCHEMA, header="x-nothing: 1")
    assert json.loads(output.stderr)["code"] == "unauthenticated"


def breaking(run, folder):
    return run("buf", "breaking", "--against", REPOSITORY / "proto/baseline.binpb", cwd=folder)


def copied(folder, change):
    """The contract in a folder of its own, with one change."""
    shutil.copy(REPOSITORY / "buf.yaml", folder)
    shutil.copytree(REPOSITORY / "proto", folder / "proto")
    file = folder / "proto/openclaw/orchestrator/v1/orchestrator.proto"
    before = file.read_text()
    after = change(before)
    file.write_text(after)
    return before != after


def test_the_contract_as_it_stands_breaks_nobody(run, tmp_path):
    copied(tmp_path, lambda text: text)
    output = breaking(run, tmp_path)
    assert output.returncode == 0, output


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  bool aggregate = 3;\n", "", '"aggregate"'),
        ("  bool aggregate = 3;\n", "  string aggregate = 3;\n", '"aggregate"'),
        ("rpc Fanout(", "rpc Spread(", '"Fanout"'),
        ("OUTCOME_SKIPPED = 5;", "OUTCOME_SKIPPED = 6;", '"5"'),
    ],
)
def test_a_change_that_breaks_callers_is_caught(run, tmp_path, old, new, told):
    assert copied(tmp_path, lambda text: text.replace(old, new)), "there is something to change"
    output = breaking(run, tmp_path)
    assert output.returncode != 0, output
    assert told in output.stdout, output
