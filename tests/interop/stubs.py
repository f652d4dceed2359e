"""Python stubs, generated from the contract that is checked in, under its canonical file names."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROTOS = [
    "openclaw/orchestrator/v1/orchestrator.proto",
    "openclaw/instance/v1/instance.proto",
]


def generate(folder: Path):
    """Writes the stubs into a folder, as any user of the contract would."""
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={REPOSITORY / 'proto'}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        *PROTOS,
    ]
    subprocess.run(command, check=True)
