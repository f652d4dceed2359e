"""The files that it is run with are what those who read them expect, and it runs and stops as they say."""

import json
import re
import shlex
import shutil

import pytest
import yaml

from deployed import Deployed, Deployment, Folder
from processes import binary
from stubs import REPOSITORY

DOCKERFILE = REPOSITORY / "packaging/Dockerfile"
MANIFEST = REPOSITORY / "packaging/kubernetes/orchestrator.yaml"
UNIT = REPOSITORY / "packaging/systemd/orchestrator.service"
CONFIG = json.dumps({"instances": [{"id": "A", "builtin": {}}]})
SHIPPED = REPOSITORY / "packaging/kubernetes/orchestrator.json"
BESIDES_SECONDS = 10
"""How long a stop may take beside what the config says, as docs/operations.md has it."""


@pytest.mark.parametrize("manifest", sorted(REPOSITORY.glob("packaging/kubernetes/*.yaml")), ids=lambda path: path.name)
def test_kubernetes_knows_every_field(run, manifest):
    output = run("kubernetes-validate", "--strict", str(manifest))
    assert output.returncode == 0, output
    assert "passed for resource deployment/orchestrator" in output.stdout + output.stderr


def test_kubernetes_would_refuse_an_unknown_field(run, tmp_path):
    text = MANIFEST.read_text()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("replicas:", "replika:"))
    assert run("kubernetes-validate", "--strict", str(wrong)).returncode != 0


def stop_seconds(config) -> float:
    """How long the program takes for a stop at most, by its config."""
    readme = (REPOSITORY / "README.md").read_text()
    shutdown = json.loads(config).get("shutdown", {})

    def seconds(name):
        usual = re.search(rf"^\| `shutdown\.{name}` \| (\w+) \|", readme, re.MULTILINE)[1]
        return float(str(shutdown.get(name, usual)).removesuffix("s"))

    return seconds("not_ready_for") + seconds("grace") + BESIDES_SECONDS


def test_a_stop_fits_into_the_time_that_whoever_stops_it_gives():
    assert "at most and 10 s more" in (REPOSITORY / "docs/operations.md").read_text()
    shown = (REPOSITORY / "examples/orchestrator.json").read_text()
    pod = pod_of(MANIFEST)
    [container] = pod["containers"]
    hook = container["lifecycle"]["preStop"]
    # There is nothing in the image that another kind of hook could run.
    assert list(hook) == ["sleep"] and hook["sleep"]["seconds"] >= 2
    shipped = SHIPPED.read_text()
    assert json.loads(shipped)["shutdown"]["not_ready_for"] != "0s"
    for config in (shipped, CONFIG, shown):
        assert hook["sleep"]["seconds"] + stop_seconds(config) < pod["terminationGracePeriodSeconds"], config
        said = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"[A-Za-z]+=", line))
        assert stop_seconds(config) < float(said["TimeoutStopSec"]), config
        options = Image().shown_options
        assert stop_seconds(config) < float(options[options.index("--stop-timeout") + 1]), config


def pod_of(manifest):
    kinds = {document["kind"]: document for document in yaml.safe_load_all(manifest.read_text())}
    return kinds["Deployment"]["spec"]["template"]["spec"]


def test_the_probe_of_readiness_has_seen_it_before_calls_are_turned_away():
    [container] = pod_of(MANIFEST)["containers"]
    probe = container["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"] + probe.get("timeoutSeconds", 1)
    not_ready_for = json.loads(SHIPPED.read_text())["shutdown"]["not_ready_for"]
    assert noticed < float(not_ready_for.removesuffix("s"))


class Image:
    """What the last stage of the Dockerfile says, and the command that its header shows."""

    def __init__(self):
        text = DOCKERFILE.read_text()
        header = re.search(r"^#\s+docker run (.*?) orchestrator (.*)$", text, re.MULTILINE)
        self.shown_options, self.shown_arguments = map(shlex.split, header.groups())
        stage = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
        said = re.findall(r"^([A-Z]+) (.*)$", stage, re.MULTILINE)
        of = lambda word: [rest for found, rest in said if found == word]
        self.user, self.group = map(int, of("USER")[-1].split(":"))
        self.entry = json.loads(of("ENTRYPOINT")[-1])
        self.usual = json.loads(of("CMD")[-1])
        self.check = json.loads(of("HEALTHCHECK")[-1].partition("CMD ")[2])
        # Docker sets the home of a user who is in no passwd file to the root.
        self.environment = {"HOME": "/"} | dict(pair.split("=", 1) for rest in of("ENV") for pair in shlex.split(rest))
        owners = {rest.split()[-1]: re.search(r"--chown=(\d+):(\d+)", rest) for rest in of("COPY")}
        # A new volume is as the image has its folder; made by the engine, where there is none.
        self.volumes = {
            path: Folder(*map(int, owners[path].groups())) if owners.get(path) else Folder() for path in of("VOLUME")
        }


def docker():
    image = Image()
    named = [mount.split(":")[1] for flag, mount in zip(image.shown_options, image.shown_options[1:]) if flag == "-v"]
    assert named == list(image.volumes), "what is kept outlives the container that the header shows"
    command = image.entry + image.shown_arguments
    assert image.check[:1] == image.entry
    return Deployment(
        command, image.environment, image.user, image.group, True, image.volumes, instances=8, check=image.check[1:]
    )


def kubernetes():
    image = Image()
    kinds = {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}
    deployment = kinds["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    may, here = pod["securityContext"], container["securityContext"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    # A volume belongs to root, and to the group that the pod asks for.
    kept = Folder(0, may["fsGroup"], 0o2775) if "fsGroup" in may else Folder()
    mounts = {}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "secret" in volume:
            # As the header makes the Secret: of the config that is shipped beside it.
            [item] = volume["secret"]["items"]
            assert f"--from-file={SHIPPED.relative_to(REPOSITORY)}" in MANIFEST.read_text()
            assert item["key"] == SHIPPED.name
            # There is no routing here that would have to hear of a stop.
            shipped = json.loads(SHIPPED.read_text())
            shipped["shutdown"]["not_ready_for"] = 0
            mounts[mount["mountPath"]] = Folder(writable=False, files={item["path"]: json.dumps(shipped)})
        else:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert kinds["PersistentVolumeClaim"]["metadata"]["name"] == claim
            mounts[mount["mountPath"]] = kept
            # One process has a journal: a new pod beside the old one would wait for it, and the old one for the new.
            assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    group = may.get("fsGroup", may["runAsUser"])
    # Its key is what `Deployed` gives to each.
    [key] = container["env"]
    reference = key["valueFrom"]["secretKeyRef"]
    assert (key["name"], reference["name"]) == ("ORCHESTRATOR_API_KEY", volumes["config"]["secret"]["secretName"])
    assert f"--from-literal={reference['key']}=" in MANIFEST.read_text()
    operators = json.loads(SHIPPED.read_text())["operators"]["listen"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert operators == f"0.0.0.0:{ports['operators']}"
    environment = image.environment
    command = image.entry + container["args"]
    return Deployment(command, environment, may["runAsUser"], group, not here["readOnlyRootFilesystem"], mounts)


def systemd():
    lines = (line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"[A-Za-z]+=", line))
    said = dict(lines)
    assert (said["DynamicUser"], said["ProtectSystem"]) == ("yes", "strict")
    # systemd.unit(5) and systemd.exec(5), for a system service; a dynamic user has no home.
    state = f"/var/lib/{said['StateDirectory']}"
    command = shlex.split(said["ExecStart"].replace("%S", "/var/lib"))
    environment = {"HOME": "/", "STATE_DIRECTORY": state}
    user = 61184
    mounts = {
        state: Folder(user, user, int(said["StateDirectoryMode"], 8)),
        f"/run/{said['RuntimeDirectory']}": Folder(user, user),
        "/etc/orchestrator": Folder(writable=False, files={"orchestrator.json": CONFIG}),
    }
    return Deployment(command, environment, user, user, False, mounts)


def unit_of_this_machine(run, folder, text):
    """The unit with the program as it was built; for an older systemd as its comment says."""
    version = int(re.search(r"systemd (\d+)", run("systemd-analyze", "--version").stdout)[1])
    if version < 253:
        said = re.search(r"Before systemd 253: (Type=\w+), and (ExecReload=.*)\.$", text, re.MULTILINE)
        text = text.replace("Type=notify-reload", said[1]).replace("ReloadSignal=SIGHUP", said[2])
    unit = folder / "orchestrator.service"
    unit.write_text(text.replace("/usr/local/bin/orchestrator", str(binary())))
    return unit


def test_systemd_knows_every_line_of_the_unit(run, tmp_path):
    text = UNIT.read_text()
    judge = lambda text: run("systemd-analyze", "verify", "--man=no", str(unit_of_this_machine(run, tmp_path, text)))
    output = judge(text)
    assert (output.returncode, output.stdout + output.stderr) == (0, "")
    for line, wrong in [
        ("SystemCallFilter=@system-service", "SystemCallFilter=@system-servise"),
        ("RestrictRealtime=yes", "RestrictRealTime=yes"),
        ("ProtectSystem=strict", "ProtectSystem=strickt"),
    ]:
        assert line in text
        output = judge(text.replace(line, wrong))
        assert re.search("Unknown|Failed to parse|ignoring", output.stdout + output.stderr), wrong


def test_systemd_finds_the_unit_hardened(run, tmp_path):
    """From 0, the best, to 100: the program needs the network and its folder, and nothing else."""

    def judge(text):
        unit = unit_of_this_machine(run, tmp_path, text)
        return run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit))

    text = UNIT.read_text()
    output = judge(text)
    assert output.returncode == 0, output.stdout + output.stderr
    # The judge does see what is left out.
    assert judge(re.sub(r"^(Protect|Private|Restrict|SystemCall)\w+=.*\n", "", text, flags=re.MULTILINE)).returncode != 0


@pytest.mark.parametrize("read", [docker, kubernetes, systemd])
def test_it_starts_as_the_file_says_and_keeps_its_sessions(read, tmp_path):
    deployment = read()
    spawn = ["sessions_spawn", "--id", "kept", "--instances", "A", "--output", "json"]
    for command in [spawn, ["sessions", "show", "--id", "kept", "--output", "json"]]:
        deployed = Deployed(tmp_path, deployment)
        try:
            deployed.lines.wait_for(instances=deployment.instances)
            output = deployed.run(*command)
            assert output.returncode == 0, output
            if deployment.check:
                output = deployed.run(*deployment.check)
                assert (output.returncode, output.stdout) == (0, "ready\n"), output
            assert deployed.terminate() == 0
        finally:
            deployed.end()
            print(deployed.log.read_text())


def test_the_health_check_of_the_image_fails_where_nobody_listens(run):
    output = run(str(binary()), *Image().check[1:], "--server", "127.0.0.1:1")
    assert output.returncode == 4, output


def test_the_image_is_built_of_what_the_build_needs(run, tmp_path):
    """Without an engine: what is copied into the first stage is a package that cargo takes, settings included."""
    text = DOCKERFILE.read_text()
    first = re.split(r"^FROM ", text, flags=re.MULTILINE)[1]
    copied = [line.split() for line in re.findall(r"^COPY (.*)$", first, re.MULTILINE)]
    sources = [source for *found, _ in copied for source in found]
    for source in sources:
        target = tmp_path / source
        path = REPOSITORY / source
        shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    metadata = run("cargo", "metadata", "--locked", "--no-deps", "--format-version=1", cwd=tmp_path)
    assert metadata.returncode == 0, metadata.stderr
    [package] = json.loads(metadata.stdout)["packages"]
    assert (tmp_path / ".cargo/config.toml").exists(), "SQLite would be built with other settings"
    # The engine is handed these and no other.
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert [line[1:] for line in ignored if line.startswith("!")] == sources
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text))
    said = {"title": "orchestrator", "description": package["description"]}
    assert labels == said | {"version": package["version"], "licenses": package["license"]}
    # The toolchain is no older than the package asks for.
    version = lambda words: tuple(map(int, words.split(".")[:2]))
    assert version(package["rust_version"]) <= version(re.search(r"rust:([\d.]+)-alpine", text)[1])


def test_the_judge_of_static_binaries_refuses_what_needs_a_library_and_what_does_not_play_its_demo(run, tmp_path):
    """Building the static one takes minutes: packaging/static.sh does it, and judges it as these."""
    source, program = tmp_path / "program.c", tmp_path / "program"

    def judged(code, *options):
        # It gets one word, as a demo does.
        source.write_text(f"int main(int count, char **words) {{ return count == 2 && words[1][0] == 'd' ? {code} : 9; }}")
        assert run("cc", *options, "-o", str(program), str(source)).returncode == 0
        return run(str(REPOSITORY / "packaging/static.sh"), str(program))

    output = judged(0)
    assert output.returncode == 1 and "is not static" in output.stdout, output
    output = judged(3, "-static")
    assert output.returncode == 3, output
    output = judged(0, "-static")
    assert output.returncode == 0 and "has played its demo in an empty root" in output.stdout, output
