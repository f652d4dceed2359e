"""Starts the binary as a file of packaging/ says: its arguments, its environment, its user, and what it can write.

systemd, Kubernetes and Docker are not here. Their part is played by a root of its own, which holds the binary and the
libraries that a debug build needs, in namespaces of its own: what is mounted goes with the process, and every port is
free. Needs root.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from processes import KEY, Process, binary
from waiting import LONG


@dataclass
class Folder:
    """What is mounted at a path."""

    user: int = 0
    group: int = 0
    mode: int = 0o755
    writable: bool = True
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class Deployment:
    """What a file says of how the program is run."""

    command: list[str]
    environment: dict[str, str]
    user: int
    group: int
    root_is_writable: bool
    mounts: dict[str, Folder]
    instances: int = 1
    """What it says it has: the config that is mounted has one."""
    check: list[str] = field(default_factory=list)
    """The command, without the program, by which an engine asks whether it is well."""


class Deployed(Process):
    """The program, run so. Folders are kept beside the root, and are there for the next start too."""

    def __init__(self, folder: Path, deployment: Deployment):
        root = folder / "root"
        sources = {path: folder / f"mount{path.replace('/', '-')}" for path in deployment.mounts}
        for path, mount in deployment.mounts.items():
            _fill(sources[path], mount)
        file = {"/proc": "proc", deployment.command[0]: str(binary())}
        file |= {library: library for library in _libraries(binary())}
        _mount_points(root, [*sources, "/proc"], file.keys() - {"/proc"})
        plan = asdict(deployment) | {
            "root": str(root),
            "files": file,
            "sources": {path: str(source) for path, source in sources.items()},
        }
        self.command = deployment.command[0]
        super().__init__(
            ["unshare", "--mount", "--net", sys.executable, __file__, json.dumps(plan)], folder / "orchestrator.log"
        )

    def run(self, *arguments) -> subprocess.CompletedProcess:
        """A command of the program, from within the same place."""
        enter = ["nsenter", f"--target={self.child.pid}", "--mount", "--net", "--root", "--"]
        environment = {"ORCHESTRATOR_API_KEY": KEY}
        command = [*enter, self.command, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=LONG, env=environment)


def _fill(source: Path, mount: Folder):
    if source.exists():
        return
    source.mkdir()
    for name, text in mount.files.items():
        (source / name).write_text(text)
    shutil.chown(source, mount.user, mount.group)
    # After the owner, whose change clears some bits.
    source.chmod(mount.mode)


def _libraries(program: Path) -> list[str]:
    """What the loader needs, which a binary that is linked statically does without."""
    output = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return [word for word in output.split() if word.startswith("/")]


def _mount_points(root: Path, folders, files):
    for path in folders:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for path in files:
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def _become(plan):
    """Within the new namespaces: builds the root, and becomes the program."""
    root = plan["root"]
    mount = lambda *words: subprocess.run(["mount", *words], check=True)
    mount("--bind", root, root)
    for path, source in plan["files"].items():
        kind = ["-t", "proc"] if source == "proc" else ["--bind"]
        mount(*kind, source, root + path)
    for path, source in plan["sources"].items():
        mount("--bind", source, root + path)
        if not plan["mounts"][path]["writable"]:
            mount("-o", "remount,bind,ro", root + path)
    if not plan["root_is_writable"]:
        mount("-o", "remount,bind,ro", root)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.chroot(root)
    os.chdir("/")
    os.setgroups([plan["group"]])
    os.setgid(plan["group"])
    os.setuid(plan["user"])
    os.execve(plan["command"][0], plan["command"], plan["environment"] | {"ORCHESTRATOR_API_KEY": KEY})


if __name__ == "__main__":
    _become(json.loads(sys.argv[1]))
