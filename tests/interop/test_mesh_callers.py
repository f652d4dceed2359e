"""callers.yaml of docs/mesh.md: a real Envoy ends mTLS, and the orchestrator knows its callers by what it says."""

import grpc
import pytest

from certificates import authority, signed
from processes import Orchestrator
from real_envoy import Envoy, manager, recipe
from waiting import LONG, until

FORWARDED = "x-forwarded-client-cert"
ADMIN = "spiffe://td/ns/ops/sa/admin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("callers")
    authority(folder, "ca")
    signed(folder, "ca", "door", "DNS:localhost,IP:127.0.0.1")
    signed(folder, "ca", "app", "URI:spiffe://td/ns/apps/sa/one,DNS:app.internal")
    signed(folder, "ca", "admin", f"URI:{ADMIN}")
    signed(folder, "ca", "stranger", "URI:spiffe://td/ns/other/sa/x")
    return folder


@pytest.fixture(scope="module")
def orchestrator(folder):
    config = {
        "instances": [{"id": id, "builtin": {}} for id in "ABCDEFGH"],
        "forwarders": ["127.0.0.1/32"],
        "identities": [
            {"name": "apps", "spiffe": "spiffe://td/ns/apps/*", "scopes": ["route"]},
            {"name": "ops", "spiffe": ADMIN, "scopes": ["admin"]},
        ],
    }
    orchestrator = Orchestrator(folder, config)
    yield orchestrator
    orchestrator.terminate()
    orchestrator.end()


@pytest.fixture(scope="module")
def front(folder, orchestrator):
    config, callers = recipe("front"), recipe("callers")
    manager(config).update(callers["manager"])
    socket = callers["transport_socket"]
    context = socket["typed_config"]["common_tls_context"]
    [pair] = context["tls_certificates"]
    for part in (pair["certificate_chain"], pair["private_key"], context["validation_context"]["trusted_ca"]):
        part["filename"] = part["filename"].replace("/etc/envoy", str(folder))
    config["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = socket
    envoy = Envoy(folder, config, [orchestrator.address])
    until(lambda: envoy.stat("cluster.orchestrator.membership_healthy"), lambda healthy: healthy == 1)
    yield envoy
    envoy.end()


@pytest.fixture
def ask(stubs, folder, front):
    """Route, and then Drain of nobody, which only an admin may ask for; the two codes."""

    def ask(name, metadata=()):
        read = lambda end: (folder / end).read_bytes()
        shown = grpc.ssl_channel_credentials(read("ca.pem"), read(f"{name}.key"), read(f"{name}.pem"))
        with grpc.secure_channel(front.address, shown) as channel:
            route = stubs.messages.RouteRequest(instances=["A"])
            drain = stubs.messages.DrainRequest(instances=["no-such-instance"])
            calls = [
                lambda: stubs.Orchestrator(channel).Route(route, timeout=LONG, metadata=metadata),
                lambda: stubs.Cluster(channel).Drain(drain, timeout=LONG, metadata=metadata),
            ]
            return [code(call) for call in calls]

    def code(call):
        try:
            call()
        except grpc.RpcError as failed:
            return failed.code()
        return grpc.StatusCode.OK

    return ask


OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


def test_each_caller_is_who_its_certificate_says(ask):
    assert ask("app") == [OK, DENIED]
    assert ask("admin") == [OK, NOT_FOUND]
    assert ask("stranger") == [UNKNOWN, UNKNOWN]


def test_what_a_caller_says_of_itself_changes_nothing(ask):
    claim = [(FORWARDED, f'By=x;Hash=1;Subject="";URI={ADMIN}')]
    assert ask("app", claim) == [OK, DENIED]
    assert ask("stranger", claim) == [UNKNOWN, UNKNOWN]
    assert ask("stranger", [(FORWARDED, 'x="')]) == [UNKNOWN, UNKNOWN]
