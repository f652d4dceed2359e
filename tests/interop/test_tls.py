"""TLS at the front door, as clients in other languages see it; the certificates are openssl's."""

import calendar
import json
import time
from types import SimpleNamespace

import grpc
import pytest
import requests
from google.protobuf import json_format, struct_pb2

from certificates import authority, openssl, revocation_list, signed
from conftest import BEARER
from operators import Operators
from processes import KEY, Orchestrator
from waiting import LONG, until

SERVICE = "openclaw.orchestrator.v1.OrchestratorService"


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """An orchestrator that speaks TLS, and the folder with everybody's certificates."""
    folder = tmp_path_factory.mktemp("tls")
    authority(folder, "ca")
    authority(folder, "other")
    signed(folder, "ca", "door", "DNS:localhost,IP:127.0.0.1")
    signed(folder, "ca", "app", "URI:spiffe://td/ns/apps/sa/one")
    signed(folder, "other", "stranger", "URI:spiffe://td/ns/apps/sa/one")
    config = {
        "instances": [{"id": id, "builtin": {}} for id in "ABCDEFGH"],
        "tls": {
            "certificate_file": "door.pem",
            "key_file": "door.key",
            "client_ca_file": "ca.pem",
            "client_certificate": "optional",
        },
        "identities": [{"name": "apps", "spiffe": "spiffe://td/ns/apps/*", "scopes": ["route"]}],
    }
    orchestrator = Orchestrator(folder, config)
    yield SimpleNamespace(
        address=orchestrator.address,
        folder=folder,
        read=lambda name: (folder / name).read_bytes(),
    )
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()


@pytest.fixture
def channel(door):
    """Channels of grpcio, which speaks HTTP/2 over TLS only where ALPN says so."""
    opened = []

    def channel(ca="ca.pem", shown=None):
        chain = door.read(f"{shown}.pem") if shown else None
        key = door.read(f"{shown}.key") if shown else None
        credentials = grpc.ssl_channel_credentials(door.read(ca), key, chain)
        opened.append(grpc.secure_channel(door.address, credentials))
        return opened[-1]

    yield channel
    for one in opened:
        one.close()


def route(stubs, channel, metadata=BEARER):
    payload = json_format.ParseDict({"data": "task"}, struct_pb2.Value())
    request = stubs.messages.RouteRequest(instances=["A-H"], payload=payload)
    return stubs.Orchestrator(channel).Route(request, timeout=LONG, metadata=metadata)


def test_grpcio_calls_over_tls(stubs, channel):
    answer = route(stubs, channel())
    assert json_format.MessageToDict(answer.payload) == {"data": "task"}
    request = stubs.messages.FanoutRequest(targets=["A-C"])
    events = stubs.Orchestrator(channel()).Fanout(request, timeout=LONG, metadata=BEARER)
    assert [event.WhichOneof("event") for event in events] == ["started"] + ["partial"] * 3 + ["summary"]


def test_a_certificate_stands_for_a_key(stubs, channel):
    assert route(stubs, channel(shown="app"), metadata=()).instance in "ABCDEFGH"
    health = stubs.messages.HealthRequest()
    with pytest.raises(grpc.RpcError) as refused:
        stubs.Orchestrator(channel(shown="app")).Health(health, timeout=LONG)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.RpcError) as refused:
        route(stubs, channel(), metadata=())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("ca, shown", [("other.pem", None), ("ca.pem", "stranger")])
def test_who_is_not_trusted_is_not_spoken_to(stubs, channel, ca, shown):
    with pytest.raises(grpc.RpcError) as refused:
        route(stubs, channel(ca, shown))
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_grpcurl_with_cacert(run, door):
    ca = ["-cacert", door.folder / "ca.pem"]
    bearer = ["-H", f"authorization: Bearer {KEY}"]
    listed = run("grpcurl", *ca, *bearer, door.address, "list")
    assert SERVICE in listed.stdout.split(), listed
    data = '{"instances": ["A"], "payload": {"data": "task"}}'
    routed = run("grpcurl", *ca, *bearer, "-d", data, door.address, f"{SERVICE}/Route")
    assert json.loads(routed.stdout)["payload"] == {"data": "task"}
    # A certificate instead of the key.
    shown = ["-cert", door.folder / "app.pem", "-key", door.folder / "app.key"]
    routed = run("grpcurl", *ca, *shown, "-d", data, door.address, f"{SERVICE}/Route")
    assert json.loads(routed.stdout)["instance"] == "A", routed
    for wrong in [["-plaintext"], [], ["-cacert", door.folder / "other.pem"]]:
        output = run("grpcurl", "-connect-timeout", "5", *wrong, *bearer, door.address, "list")
        assert output.returncode != 0, output


def test_rest_over_tls(door):
    url = f"https://{door.address}"
    health = requests.get(f"{url}/health/check", verify=door.folder / "ca.pem", timeout=LONG)
    assert health.status_code == 200
    shown = (door.folder / "app.pem", door.folder / "app.key")
    body = {"instances": ["A"], "payload": {"data": "task"}}
    routed = requests.post(
        f"{url}/orchestrator/route", json=body, verify=door.folder / "ca.pem", cert=shown, timeout=LONG
    )
    assert routed.json()["payload"] == {"data": "task"}


def test_a_list_of_openssl_takes_a_certificate_out(tmp_path):
    authority(tmp_path, "ca")
    signed(tmp_path, "ca", "door", "DNS:localhost,IP:127.0.0.1")
    for name in ["one", "two"]:
        signed(tmp_path, "ca", name, f"URI:spiffe://td/ns/apps/sa/{name}")
    revocation_list(tmp_path, "ca")
    config = {
        "instances": [{"id": "A", "builtin": {}}],
        "tls": {
            "certificate_file": "door.pem",
            "key_file": "door.key",
            "client_ca_file": "ca.pem",
            "client_crl_file": "ca.crl",
        },
        "identities": [{"name": "apps", "spiffe": "spiffe://td/ns/apps/*", "scopes": ["route"]}],
        "operators": {"listen": "127.0.0.1:0"},
    }
    orchestrator = Orchestrator(tmp_path, config, instances=1)
    url = f"https://{orchestrator.address}/orchestrator/route"

    def served(name):
        shown = (tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        try:
            answer = requests.post(
                url, json={"instances": ["A"]}, verify=tmp_path / "ca.pem", cert=shown, timeout=LONG
            )
        except requests.ConnectionError:
            return False
        return answer.status_code == 200

    assert served("one") and served("two")
    revocation_list(tmp_path, "ca", "one")
    until(lambda: served("one"), lambda seen: not seen)
    assert served("two")
    operators = Operators(orchestrator)
    for file, words in [
        ("certificate_file", ["x509", "-in", "door.pem", "-enddate"]),
        ("client_crl_file", ["crl", "-in", "ca.crl", "-nextupdate"]),
    ]:
        said = openssl(tmp_path, *words, "-noout").split("=")[1].strip()
        ends = calendar.timegm(time.strptime(said, "%b %d %H:%M:%S %Y %Z"))
        # The second of a certificate's end belongs to it.
        told = operators.sum("orchestrator_tls_end_seconds", file=file)
        assert told - ends == (file == "certificate_file"), file
    code = orchestrator.terminate()
    orchestrator.end()
    assert code == 0, orchestrator.log.read_text()
