"""Writes the stubs into the package when it is built, from the contract beside it.

They live inside the package, so that no other package's `openclaw` is in the way; the file names in their descriptors
are the canonical ones. Run it as a program to write them for work on the package itself.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONTRACT = ROOT.parents[1] / "proto"
STUBS = ROOT / "src" / "openclaw_orchestrator" / "_stubs"
PROTOS = ["openclaw/orchestrator/v1/orchestrator.proto", "openclaw/instance/v1/instance.proto"]


def generate() -> None:
    if not CONTRACT.is_dir():
        # A source distribution carries the stubs and not the contract.
        assert STUBS.is_dir(), f"neither {CONTRACT} nor {STUBS} is there"
        return
    STUBS.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={CONTRACT}", f"--python_out={STUBS}"]
    subprocess.run([*command, f"--pyi_out={STUBS}", *PROTOS], check=True)
    for path in STUBS.rglob("*_pb2.py*"):
        text = path.read_text()
        text = re.sub(r"^from openclaw\.", "from openclaw_orchestrator._stubs.openclaw.", text, flags=re.M)
        # The generator writes a bare generic, which strict checkers of the code that uses the package refuse.
        path.write_text(re.sub(r", _Mapping\]", ", _Mapping[str, object]]", text))
    for folder in [STUBS, *(path for path in STUBS.rglob("*") if path.is_dir() and path.name != "__pycache__")]:
        (folder / "__init__.py").touch()


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    # Run as a program.
    pass
else:

    class Stubs(BuildHookInterface):  # type: ignore[misc, type-arg]
        def initialize(self, version: str, build_data: dict[str, object]) -> None:
            generate()


if __name__ == "__main__":
    generate()
