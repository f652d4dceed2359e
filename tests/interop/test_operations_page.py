"""docs/operations.md holds: Prometheus can be asked what it says, and whoever runs its commands gets what they expect."""

import json
import os
import re
import subprocess

import pytest

import promql
from conftest import BEARER, Client
from operators import PAGE, labels_of_the_page, started
from processes import KEY, binary
from stubs import REPOSITORY
from test_metrics import drains, fans_out, routes_well, spawns_a_session
from waiting import LONG, until


def queries() -> dict[str, str]:
    """All that a Prometheus is to be asked, by where it stands: the dashboard and the rules of the alerts."""
    dashboard = json.loads((REPOSITORY / "packaging" / "grafana" / "orchestrator.json").read_text())
    asked = {
        f"panel {panel['title']!r} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    assert len(asked) > 20
    alerts = PAGE.split("\n## Alerts\n")[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in alerts.splitlines() if line.startswith("| ")]
    for name, rule, _, what_to_do in rows[1:]:
        asked[f"alert {name!r}"] = re.match("`(.*?)`", rule)[1].replace("\\|", "|")
        for at, query in enumerate(re.findall(r"`((?:sum|rate|orchestrator)[^`]*[(}][^`]*)`", what_to_do)):
            asked[f"alert {name!r}, what to do {at}"] = query
    assert sum(where.startswith("alert") for where in asked) >= 15
    return asked


def test_prometheus_can_be_asked_all_this():
    page = labels_of_the_page()
    wrong = {where: found for where, query in queries().items() if (found := promql.complaints(query, page))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("sum(rate(orchestrator_calls_total[5m])", "unclosed left parenthesis"),
        ("rate(orchestrator_calls_total)", "expected type"),
        ("orchestrator_call_total", "there is no orchestrator_call_total"),
        ("orchestrator_call_seconds", "orchestrator_call_seconds is a histogram"),
        ("orchestrator_sessions_bucket", "there is no orchestrator_sessions_bucket"),
        ('orchestrator_calls_total{kode="OK"}', "orchestrator_calls_total has no label kode"),
        ('orchestrator_calls_total{code="OKAY"}', "code is never OKAY"),
        ('orchestrator_calls_total{code!="OKAY"}', "code is never OKAY"),
        ('orchestrator_calls_total{code=~"OK|NONE|50[03]"}', "code is never NONE"),
        ('orchestrator_instances{state="gone"}', "state is never gone"),
        ("sum by (path) (orchestrator_legs_total)", "nothing here has the label path"),
        ("sum without (path) (orchestrator_legs_total)", "nothing here has the label path"),
        ("sum by (le) (orchestrator_legs_total)", "nothing here has the label le"),
        ("histogram_quantile(0.5, sum by (le) (rate(orchestrator_call_seconds_bucket[5m])))", None),
        ('sum by (code) (rate(orchestrator_calls_total{code=~"OK|50[03]",path!="other"}[5m])) > 0', None),
    ],
)
def test_a_query_that_is_wrong_is_noticed(query, complaint):
    found = promql.complaints(query, labels_of_the_page())
    assert found == [] if complaint is None else complaint in " ".join(found), found


def test_every_query_finds_what_it_asks_for(operators, caller):
    """A metric that nothing has moved yet has no series."""
    for act in (routes_well, fans_out, spawns_a_session, drains):
        act(caller)
    until(lambda: operators.sum("orchestrator_spans_total"), lambda spans: spans > 0)
    names = {re.split(r"[{ ]", one)[0] for one in operators.series()}
    for where, query in queries().items():
        for name in promql.metrics(query):
            # What Prometheus says itself, and what takes TLS.
            if name not in ("up", "orchestrator_tls_end_seconds"):
                assert name in names, f"{where}: there is no {name}"


def commands_of(page) -> list[tuple[str, str]]:
    """All that it tells to run, in its order, with where it stands: blocks of the shell, and what stands in its text
    and tables. A switch alone is one of the command before it.
    """
    found = []
    for at, part in enumerate(re.split(r"^```", page, flags=re.MULTILINE)):
        if at % 2 == 1:
            language, _, block = part.partition("\n")
            if language == "sh":
                found += [(line.split("#")[0].strip(), line) for line in block.splitlines()]
            continue
        # A row of a table stands alone, and so does what stands between empty lines.
        for said in re.split(r"\n(?=\|)|\n\n", part):
            command = None
            for code in re.findall(r"`([^`]+)`", said.replace("\n", " ")):
                if code.startswith("orchestrator "):
                    command = code
                    found.append((command, said))
                elif code.startswith("--") and command is not None:
                    found.append((f"{command} {code}", said))
    return found


def test_the_commands_of_a_page_are_found_wherever_they_stand():
    page = """
`orchestrator one` and `else`, or `orchestrator
two` with `--all`.

`--lost`

```sh
curl three # why
```

```json
{"not": "`orchestrator this`"}
```
| it | so |
| `orchestrator four ID` | `--switch` |
| `--lost` | |
"""
    assert [command for command, _ in commands_of(page)] == [
        *("orchestrator one", "orchestrator two", "orchestrator two --all", "curl three"),
        *("orchestrator four ID", "orchestrator four ID --switch"),
    ]


class Desk:
    """Where an operator sits: a fleet of which something is amiss, its data and its config, and a shell."""

    def __init__(self, folder, stubs):
        self.folder = folder
        self.orchestrator = started(folder)
        self.client = Client(stubs, self.orchestrator.address)
        until(lambda: self.client.state("gone"), lambda state: state == "HEALTH_STATE_DOWN")
        spawns = stubs.messages.SessionSpawnRequest(session_id="kept", instances=["B"])
        self.client.api.SessionSpawn(spawns, metadata=BEARER, timeout=LONG)
        self.client.route(["A"])

    def run(self, command) -> subprocess.CompletedProcess:
        """As it stands on the page, but for the places that are others here."""
        (self.folder / "copy").unlink(missing_ok=True)
        for theirs, ours in {
            "/var/lib/orchestrator": self.folder / "data",
            "/tmp/journal-copy.db": self.folder / "copy",
            "127.0.0.1:7070": self.orchestrator.address,
            " ID": " A",
        }.items():
            command = command.replace(theirs, str(ours))
        here = {"ORCHESTRATOR_API_KEY": KEY, "ORCHESTRATOR_SERVER": self.orchestrator.address, "HOME": str(self.folder)}
        path = os.pathsep.join([str(binary().parent), os.environ["PATH"]])
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env={**os.environ, **here, "PATH": path},
            capture_output=True,
            text=True,
            timeout=LONG,
        )

    def checks(self, command, line):
        of(BEFORE, command, lambda desk: None)(self)
        done = self.run(command)
        told = f"{command}, in {line}: {done.stdout}{done.stderr}"
        assert done.returncode == 0, told
        assert of(SAYS, command, lambda desk, said: True)(self, done.stdout), told

    def state(self):
        return self.client.state("A").removeprefix("HEALTH_STATE_")

    def end(self):
        self.client.channel.close()
        self.orchestrator.end()


def of_instance(entries, id):
    return next(entry for entry in entries if entry["instance"] == id)


def drained(desk):
    assert desk.run("orchestrator drain A").returncode == 0


BEFORE = {"orchestrator undrain": drained}
"""What has happened before somebody runs such a command. Whatever stands on the page is run, also what is not here."""
SAYS = {
    "orchestrator health": lambda desk, said: "Connection refused" in of_instance(json.loads(said), "gone")["reason"],
    "orchestrator route": lambda desk, said: of_instance(json.loads(said)["instances"], "A")["latency"],
    "orchestrator drain": lambda desk, said: desk.state() == "DRAINING",
    "orchestrator undrain": lambda desk, said: desk.state() == "HEALTHY",
    "orchestrator journal check": lambda desk, said: re.search(r"sessions +1 open.*state +whole", said, re.DOTALL),
    "orchestrator journal backup": lambda desk, said: (desk.folder / "copy").stat().st_size > 0,
    "orchestrator ready": lambda desk, said: said == "ready\n",
    "grpcurl": lambda desk, said: json.loads(said) == {"status": "SERVING"},
}
"""What it says or does then."""


def of(table, command, usual):
    return next((entry for begins, entry in table.items() if command.startswith(begins)), usual)


def test_every_command_of_the_page_runs(tmp_path, stubs):
    commands = commands_of(PAGE)
    assert {"orchestrator", "grpcurl"} <= {command.split()[0] for command, _ in commands}
    assert len({command for command, line in commands if line.startswith("| ")}) >= 6
    desk = Desk(tmp_path / "page", stubs)
    try:
        for command, line in commands:
            desk.checks(command, line)
            if desk.state() == "DRAINING":
                desk.run("orchestrator undrain A")
        # At night, when it does not start.
        desk.client.channel.close()
        assert desk.orchestrator.terminate() == 0
        for command, line in dict(commands).items():
            if command.startswith(("orchestrator journal", "orchestrator config")):
                desk.checks(command, line)
    finally:
        desk.end()
