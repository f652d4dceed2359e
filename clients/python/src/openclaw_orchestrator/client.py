"""The synchronous client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from weakref import WeakSet

import grpc

from . import _models as models
from . import _read, _service, _write
from ._errors import from_rpc
from ._json import Json, to_value
from ._service import Method, Request, Response
from ._stubs.openclaw.orchestrator.v1 import orchestrator_pb2 as pb
from ._write import Targets
from .session import Session


class Orchestrator:
    """An orchestrator. Safe to use from several threads.

    Every call raises an `OrchestratorError` when it fails. `timeout` is in seconds and holds for the whole call,
    tries elsewhere included; without one the orchestrator's default holds.

    Args:
        address: `host:port`.
        key: The API key, or the token of a session; `$ORCHESTRATOR_API_KEY` when left out.
        tls: True for TLS with the machine's roots, or credentials of grpcio.
    """

    def __init__(
        self,
        address: str = _service.ADDRESS_DEFAULT,
        key: str | None = None,
        tls: bool | grpc.ChannelCredentials = False,
    ) -> None:
        self._bearer = _service.bearer(_service.key_or_environment(key))
        self._attached: WeakSet[Session] = WeakSet()
        credentials = _service.credentials(tls)
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=_service.OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=_service.OPTIONS)

    def close(self) -> None:
        """Ends every call that still runs, and leaves every session that is attached."""
        for session in list(self._attached):
            session.detach()
        self._channel.close()

    def __enter__(self) -> Orchestrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def route(
        self,
        instances: Targets,
        payload: Json = None,
        *,
        timeout: float | None = None,
        policy: models.Policy | None = None,
        idempotency_key: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> models.Answer:
        """Hands one task to the one instance, out of those named, that should have it."""
        request = _write.route(instances, payload, timeout, policy, idempotency_key, metadata)
        return _read.answer(self._call(_service.ROUTE, request, timeout))

    def fanout(
        self,
        targets: Targets,
        payload: Json = None,
        *,
        timeout: float | None = None,
        aggregate: bool = False,
        first: int | None = None,
        quorum: int | None = None,
        majority: bool = False,
        failures_max: int | None = None,
        policy: models.Policy | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[models.Event]:
        """Hands one task to every target and yields what comes back, as it comes: `Started`, a `Partial` for each
        target, `Summary`. An unmet rule raises `CompletionUnmetError` after the summary. Leaving the loop cancels
        what still runs."""
        completion = _write.completion(first, quorum, majority, failures_max)
        request = _write.fanout(targets, payload, timeout, aggregate, completion, policy, metadata)
        return self._events(request, timeout)

    def _events(self, request: pb.FanoutRequest, timeout: float | None) -> Iterator[models.Event]:
        for message in self._stream(_service.FANOUT, request, timeout):
            event = _read.event(message)
            if event is not None:
                yield event

    def explain_route(
        self, instances: Targets, *, timeout: float | None = None, policy: models.Policy | None = None
    ) -> pb.ExplainResponse:
        """Tells what `route` would do now, without doing it."""
        request = pb.ExplainRequest(route=_write.route(instances, None, timeout, policy, "", None))
        return self._call(_service.EXPLAIN, request, None)

    def explain_fanout(
        self, targets: Targets, *, timeout: float | None = None, policy: models.Policy | None = None
    ) -> pb.ExplainResponse:
        """Tells what `fanout` would do now, without doing it."""
        request = pb.ExplainRequest(fanout=_write.fanout(targets, None, timeout, False, None, policy, None))
        return self._call(_service.EXPLAIN, request, None)

    def health(self, instances: Targets = (), *, timeout: float | None = None) -> dict[str, models.Health]:
        """Tells who is well, and why; the whole fleet unless some are named."""
        request = pb.HealthRequest(instances=_write.expressions(instances))
        found = self._call(_service.HEALTH, request, timeout).instances
        return {one.instance: _read.health(one) for one in found}

    def health_watch(self, instances: Targets = ()) -> Iterator[models.HealthChange]:
        """Yields first the health of all instances, then each change as it happens, until the loop is left."""
        request = pb.HealthWatchRequest(instances=_write.expressions(instances))
        for message in self._stream(_service.HEALTH_WATCH, request, None):
            yield _read.health_change(message)

    def register(
        self,
        id: str,
        address: str,
        *,
        incarnation: int,
        labels: Mapping[str, str] | None = None,
        weight: int = 0,
        lease: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """Adds an instance to the fleet, or renews its lease (seconds)."""
        instance = pb.Instance(id=id, address=address, labels=labels, weight=weight)
        request = pb.RegisterRequest(instance=instance, incarnation=incarnation, lease=_write.duration(lease))
        self._call(_service.REGISTER, request, timeout)

    def deregister(self, id: str, *, incarnation: int, timeout: float | None = None) -> None:
        """Removes a registered instance."""
        self._call(_service.DEREGISTER, pb.DeregisterRequest(id=id, incarnation=incarnation), timeout)

    def instances(self, *, timeout: float | None = None) -> Iterator[models.InstanceInfo]:
        """Yields the fleet, in order of id."""
        token = ""
        while True:
            page = self._call(_service.LIST_INSTANCES, pb.ListInstancesRequest(page_token=token), timeout)
            yield from (_read.listed(one) for one in page.instances)
            token = page.next_page_token
            if not token:
                return

    def drain(self, instances: Targets, *, timeout: float | None = None) -> dict[str, models.Health]:
        """Gives instances nothing new; they keep what they have. `drained` tells when they have nothing left."""
        request = pb.DrainRequest(instances=_write.expressions(instances))
        found = self._call(_service.DRAIN, request, timeout).instances
        return {one.instance: _read.health(one) for one in found}

    def undrain(self, instances: Targets, *, timeout: float | None = None) -> dict[str, models.Health]:
        """Gives instances work again."""
        request = pb.UndrainRequest(instances=_write.expressions(instances))
        found = self._call(_service.UNDRAIN, request, timeout).instances
        return {one.instance: _read.health(one) for one in found}

    def session_spawn(
        self,
        session_id: str = "",
        *,
        instances: Targets = (),
        selection: models.Selection | None = None,
        hash_key: str = "",
        idle_ttl: float | None = None,
        lifetime: float | None = None,
        loss_policy: models.LossPolicy | None = None,
        durability: models.Durability | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        timeout: float | None = None,
    ) -> models.Spawned:
        """Begins a session. Times are in seconds."""
        request = _write.session_spawn(
            session_id, instances, selection, hash_key, idle_ttl, lifetime, loss_policy, durability, labels,
            idempotency_key,
        )  # fmt: skip
        return _read.spawned(self._call(_service.SESSION_SPAWN, request, timeout))

    def session(self, session_id: str, *, token: str | None = None) -> Session:
        """Attaches to a session: messages both ways, over as many connections as it takes. Somebody else who is
        attached is cut off.

        Args:
            session_id: The session.
            token: Its token, instead of the API key.
        """
        bearer = self._bearer if token is None else _service.bearer(token)
        session = Session(self._channel, bearer, session_id)
        self._attached.add(session)
        return session

    def session_post(
        self,
        session_id: str,
        payload: Json = None,
        *,
        idempotency_key: str = "",
        in_reply_to: int = 0,
        wait: bool = True,
        timeout: float | None = None,
    ) -> models.Reply:
        """Sends one message of a session without attaching, and waits for the reply unless told not to.

        `in_reply_to` is the number of the message of the instance that it answers; 0 for none.
        """
        request = pb.SessionPostRequest(
            session_id=session_id,
            payload=to_value(payload),
            idempotency_key=idempotency_key,
            in_reply_to=in_reply_to,
            no_wait=not wait,
            timeout=_write.duration(timeout),
        )
        return _read.reply(self._call(_service.SESSION_POST, request, timeout))

    def session_get(self, session_id: str, *, timeout: float | None = None) -> models.SessionInfo:
        """Tells how a session is."""
        request = pb.SessionGetRequest(session_id=session_id)
        return _read.session(self._call(_service.SESSION_GET, request, timeout).session)

    def sessions(
        self,
        *,
        state: str | None = None,
        instance: str = "",
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Iterator[models.SessionInfo]:
        """Yields sessions, in order of id: those in a state (`open` or `closed`), at an instance, with labels."""
        token = ""
        wanted = _write.enum("SESSION_STATE", state)
        while True:
            request = pb.SessionListRequest(page_token=token, state=wanted, instance=instance, labels=labels)
            page = self._call(_service.SESSION_LIST, request, timeout)
            yield from (_read.session(one) for one in page.sessions)
            token = page.next_page_token
            if not token:
                return

    def session_close(self, session_id: str, *, timeout: float | None = None) -> models.SessionInfo:
        """Ends a session for both sides."""
        request = pb.SessionCloseRequest(session_id=session_id)
        return _read.session(self._call(_service.SESSION_CLOSE, request, timeout).session)

    def _call(self, method: Method[Request, Response], request: Request, timeout: float | None) -> Response:
        call = self._channel.unary_unary(method.path, _service.encoded, method.response.FromString)  # type: ignore[attr-defined]
        try:
            response: Response = call(request, timeout=timeout, metadata=(self._bearer,))
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return response

    def _stream(
        self, method: Method[Request, Response], request: Request, timeout: float | None
    ) -> Iterator[Response]:
        open_ = self._channel.unary_stream(method.path, _service.encoded, method.response.FromString)  # type: ignore[attr-defined]
        call = open_(request, timeout=timeout, metadata=(self._bearer,))
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        finally:
            # Whoever leaves the loop early wants no more of it.
            call.cancel()
