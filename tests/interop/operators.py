"""An orchestrator with an operator's port, and that port as a test reads it."""

import hashlib
import json
import re
import urllib.error
import urllib.request

import grpc
import pytest
from google.protobuf import json_format, struct_pb2

from processes import Orchestrator
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
ROUTE = "/openclaw.orchestrator.v1.OrchestratorService/Route"
SEND = "/openclaw.orchestrator.v1.OrchestratorService/SessionSend"
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


def refused(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


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
