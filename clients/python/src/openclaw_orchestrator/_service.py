"""The methods of the contract by path, with what reads and writes their messages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb

Request = TypeVar("Request")
Response = TypeVar("Response")

ORCHESTRATOR = "/openclaw.orchestrator.v1.OrchestratorService"
CLUSTER = "/openclaw.orchestrator.v1.ClusterService"

ADDRESS_DEFAULT = "127.0.0.1:7070"
OPTIONS: list[tuple[str, Any]] = [
    # An orchestrator takes 4 MiB and an instance behind it may answer as much.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # Notices a peer that is gone without a word; no more often than the orchestrator's door allows.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # An orchestrator that comes back is found at once: otherwise calls fail for up to two minutes more.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


@dataclass(frozen=True)
class Method(Generic[Request, Response]):
    """One method."""

    path: str
    request: type[Request]
    response: type[Response]


ROUTE = Method(f"{ORCHESTRATOR}/Route", pb.RouteRequest, pb.RouteResponse)
FANOUT = Method(f"{ORCHESTRATOR}/Fanout", pb.FanoutRequest, pb.FanoutResponse)
EXPLAIN = Method(f"{ORCHESTRATOR}/Explain", pb.ExplainRequest, pb.ExplainResponse)
HEALTH = Method(f"{ORCHESTRATOR}/Health", pb.HealthRequest, pb.HealthResponse)
HEALTH_WATCH = Method(f"{ORCHESTRATOR}/HealthWatch", pb.HealthWatchRequest, pb.HealthWatchResponse)
SESSION_SPAWN = Method(f"{ORCHESTRATOR}/SessionSpawn", pb.SessionSpawnRequest, pb.SessionSpawnResponse)
SESSION_SEND = Method(f"{ORCHESTRATOR}/SessionSend", pb.SessionSendRequest, pb.SessionSendResponse)
SESSION_POST = Method(f"{ORCHESTRATOR}/SessionPost", pb.SessionPostRequest, pb.SessionPostResponse)
SESSION_GET = Method(f"{ORCHESTRATOR}/SessionGet", pb.SessionGetRequest, pb.SessionGetResponse)
SESSION_LIST = Method(f"{ORCHESTRATOR}/SessionList", pb.SessionListRequest, pb.SessionListResponse)
SESSION_CLOSE = Method(f"{ORCHESTRATOR}/SessionClose", pb.SessionCloseRequest, pb.SessionCloseResponse)
REGISTER = Method(f"{CLUSTER}/Register", pb.RegisterRequest, pb.RegisterResponse)
DEREGISTER = Method(f"{CLUSTER}/Deregister", pb.DeregisterRequest, pb.DeregisterResponse)
LIST_INSTANCES = Method(f"{CLUSTER}/ListInstances", pb.ListInstancesRequest, pb.ListInstancesResponse)
DRAIN = Method(f"{CLUSTER}/Drain", pb.DrainRequest, pb.DrainResponse)
UNDRAIN = Method(f"{CLUSTER}/Undrain", pb.UndrainRequest, pb.UndrainResponse)

SESSION_METADATA = "x-orchestrator-session"


def key_or_environment(key: str | None) -> str:
    """The key that was given, or `$ORCHESTRATOR_API_KEY`."""
    found = key or os.environ.get("ORCHESTRATOR_API_KEY")
    if not found:
        raise ValueError("no key: pass key=..., or set ORCHESTRATOR_API_KEY")
    return found


def bearer(key: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {key}")


def encoded(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def credentials(tls: bool | grpc.ChannelCredentials) -> grpc.ChannelCredentials | None:
    """True: TLS with the machine's roots. False: plain text."""
    if tls is True:
        return grpc.ssl_channel_credentials()
    return tls or None
