"""A property-based tester reads the OpenAPI document and tries what it describes, and what it rules out.

It must find no server error, no status that is not documented, and no answer that is not as documented.
"""

import subprocess
import sys
from pathlib import Path

from processes import KEY

CHECKS = ",".join(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
        "ignored_auth",
    ]
)


# Time that runs out is 504, and no error of the server: callers may ask for as little time as they like.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "504"]
"""


def test_nothing_is_answered_that_is_not_documented(orchestrator, tmp_path):
    url = f"http://{orchestrator.address}"
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [
        Path(sys.executable).parent / "schemathesis",
        f"--config-file={config}",
        "run",
        f"{url}/openapi.json",
        f"--url={url}/api",
        f"--header=Authorization: Bearer {KEY}",
        f"--checks={CHECKS}",
        # They have no end. tests/it reads them event by event.
        "--exclude-operation-id=sessionEvents",
        "--exclude-operation-id=healthWatch",
        "--max-examples=10",
        "--workers=2",
        "--seed=1",
        "--request-timeout=20",
        "--no-color",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    # Not because nothing was tried.
    assert "Tested: 17" in done.stdout, done.stdout
