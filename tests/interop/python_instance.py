"""An instance that shares no code with the orchestrator: grpcio, the stubs of the contract, grpc.health.v1.

It registers itself and renews its lease, echoes tasks and the messages of sessions, and says on standard output,
one JSON object a line, what happens to it: `applied` for each message of a session that it applies. A payload {"task": NAME} gives a task a name in what is said; with "hold": true it is kept
until the order `release NAME` or until the call ends.
Orders come on standard input: `release NAME`, `serving yes|no`, `stop GRACE_SECONDS`.
"""

import argparse
import json
import os
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import json_format
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from openclaw.instance.v1 import instance_pb2, instance_pb2_grpc
from openclaw.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc

from conversation import Conversation, Gap, Stale

SAYING = threading.Lock()


def say(event, **fields):
    with SAYING:
        print(json.dumps({"event": event, **fields}), flush=True)


class Instance(instance_pb2_grpc.InstanceServiceServicer):
    def __init__(self):
        self.released = set()
        self.changed = threading.Condition()
        self.conversations = {}
        self.conversing = threading.Lock()

    def release(self, name):
        with self.changed:
            self.released.add(name)
            self.changed.notify_all()

    def Execute(self, request, context):
        payload = json_format.MessageToDict(request.payload)
        asked = payload if isinstance(payload, dict) else {}
        name = asked.get("task")
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        say("begun", task=name, time_remaining=context.time_remaining(), metadata=metadata)
        if asked.get("hold") and not self.held_to_the_end(name, context):
            return instance_pb2.ExecuteResponse()
        say("answered", task=name)
        return instance_pb2.ExecuteResponse(payload=request.payload)

    def Session(self, requests, context):
        first = next(requests).open
        with self.conversing:
            conversation = self.conversations.setdefault(first.session, Conversation())
        say("opened", session=first.session, epoch=first.epoch)
        try:
            with self.conversing:
                responses = conversation.open(first)
            yield from responses
            for request in requests:
                with self.conversing:
                    conversation.check(first.epoch)
                    responses = self.heard(first, conversation, request)
                yield from responses
                if request.WhichOneof("frame") == "close":
                    return
        except Stale as stale:
            say("stale", session=first.session, epoch=first.epoch)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(stale))
        except Gap as gap:
            context.abort(grpc.StatusCode.DATA_LOSS, str(gap))

    def heard(self, first, conversation, request):
        """What there is to say to one frame; the lock is held."""
        responses = []
        match request.WhichOneof("frame"):
            case "data" if conversation.is_next(request.data):
                data = request.data
                say(
                    "applied",
                    session=first.session,
                    epoch=first.epoch,
                    seq=data.seq,
                    redelivered=data.redelivered,
                    payload=json_format.MessageToDict(data.payload),
                )
                responses += conversation.say(data.payload, in_reply_to=data.seq)
            case "ack":
                conversation.taken(request.ack.through)
            case "close":
                say("closed", session=first.session, reason=request.close.reason)
                if request.close.reason != instance_pb2.SESSION_CLOSE_REASON_SUSPENDED:
                    self.conversations.pop(first.session, None)
                return responses
        return responses + conversation.due()

    def held_to_the_end(self, name, context):
        """False when the call ended first: nobody waits for an answer any more."""
        ended = threading.Event()

        def note_end():
            ended.set()
            with self.changed:
                self.changed.notify_all()

        if not context.add_callback(note_end):
            ended.set()
        with self.changed:
            self.changed.wait_for(lambda: ended.is_set() or name in self.released)
            released = name in self.released
        if not released:
            say("cancelled", task=name, before_its_deadline=context.time_remaining() > 0)
        return released


def keep_registered(arguments, address, stopping):
    """Registers, and renews well before the lease ends."""
    channel = grpc.insecure_channel(arguments.orchestrator)
    cluster = orchestrator_pb2_grpc.ClusterServiceStub(channel)
    request = orchestrator_pb2.RegisterRequest(
        instance=orchestrator_pb2.Instance(id=arguments.id, address=address),
        incarnation=arguments.incarnation,
    )
    request.lease.FromSeconds(arguments.lease)
    bearer = [("authorization", f"Bearer {os.environ['ORCHESTRATOR_API_KEY']}")]
    registered = False
    while True:
        try:
            cluster.Register(request, metadata=bearer, timeout=5)
        except grpc.RpcError as error:
            say("refused", code=error.code().name, detail=error.details())
        else:
            if not registered:
                say("registered", address=address)
            registered = True
        if stopping.wait(arguments.lease / 5):
            return


def obey(server, instance, health_service, stopping):
    for order in sys.stdin:
        match order.split():
            case ["release", name]:
                instance.release(name)
            case ["serving", word]:
                status = health_pb2.HealthCheckResponse.SERVING if word == "yes" else health_pb2.HealthCheckResponse.NOT_SERVING
                health_service.set("", status)
                say("serving", word=word)
            case ["stop", grace]:
                stopping.set()
                # Takes no new calls from here on: GOAWAY on every connection, and nobody listens.
                stopped = server.stop(float(grace))
                say("stopping")
                threading.Thread(target=lambda: stopped.wait() and say("stopped"), daemon=True).start()
            case _:
                raise SystemExit(f"no such order: {order!r}")


def recording(collector):
    """Records each Execute, as a child of what its caller says."""
    # Only here: most instances do without.
    import tracing
    from opentelemetry.instrumentation.grpc import filters, server_interceptor

    return server_interceptor(tracing.provider("instance", collector), filter_=filters.method_name("Execute"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--orchestrator", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--incarnation", type=int, required=True)
    parser.add_argument("--lease", type=int, required=True, help="seconds")
    parser.add_argument("--collector", help="where it sends its spans; nowhere unless given")
    arguments = parser.parse_args()

    interceptors = [] if arguments.collector is None else [recording(arguments.collector)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=128), interceptors=interceptors)
    instance, health_service = Instance(), health.HealthServicer()
    instance_pb2_grpc.add_InstanceServiceServicer_to_server(instance, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    health_service.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stopping = threading.Event()
    registering = threading.Thread(
        target=keep_registered, args=(arguments, f"127.0.0.1:{port}", stopping), daemon=True
    )
    registering.start()
    obey(server, instance, health_service, stopping)
    server.stop(None)


if __name__ == "__main__":
    main()
