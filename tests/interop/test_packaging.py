"""The files that it is run with are what those who read them expect."""

import pytest

from stubs import REPOSITORY


@pytest.mark.parametrize("manifest", sorted(REPOSITORY.glob("packaging/kubernetes/*.yaml")), ids=lambda path: path.name)
def test_kubernetes_knows_every_field(run, manifest):
    output = run("kubernetes-validate", "--strict", str(manifest))
    assert output.returncode == 0, output
    assert "passed for resource deployment/orchestrator" in output.stdout + output.stderr


def test_kubernetes_would_refuse_an_unknown_field(run, tmp_path):
    text = (REPOSITORY / "packaging/kubernetes/orchestrator.yaml").read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("replicas:", "replika:"))
    assert run("kubernetes-validate", "--strict", str(wrong)).returncode != 0
