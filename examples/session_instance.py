import asyncio
import os
import time
from collections import OrderedDict

import grpc
from google.protobuf import struct_pb2
from grpc_health.v1 import health, health_pb2_grpc
from openclaw.instance.v1 import instance_pb2, instance_pb2_grpc
from openclaw.orchestrator.v1 import orchestrator_pb2 as pb, orchestrator_pb2_grpc as rpc

from conversation import Conversation, Gap, Stale

SESSIONS_MAX = 10_000  # remembered at most; the one that was opened longest ago goes first


class Counter(instance_pb2_grpc.InstanceServiceServicer):
    """Adds up the numbers that it is sent, each of them once."""

    def __init__(self):
        self.conversations = OrderedDict()

    def conversation(self, session):
        """What is remembered of a session. Some end while nobody listens here, so there is a bound."""
        conversation = self.conversations.setdefault(session, Conversation())
        self.conversations.move_to_end(session)
        if SESSIONS_MAX < len(self.conversations):
            self.conversations.popitem(last=False)
        return conversation

    async def Session(self, requests, context):
        first = (await anext(requests)).open
        conversation = self.conversation(first.session)
        try:
            for response in conversation.open(first):
                yield response
            async for request in requests:
                conversation.check(first.epoch)
                match request.WhichOneof("frame"):
                    case "data" if conversation.is_next(request.data):
                        conversation.state = (conversation.state or 0) + request.data.payload.number_value
                        answer = struct_pb2.Value(number_value=conversation.state)
                        for response in conversation.say(answer, in_reply_to=request.data.seq):
                            yield response
                    case "ack":
                        conversation.taken(request.ack.through)
                    case "close":
                        if request.close.reason != instance_pb2.SESSION_CLOSE_REASON_SUSPENDED:
                            self.conversations.pop(first.session, None)
                        return
                for response in conversation.due():
                    yield response
        except Stale as stale:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(stale))
        except Gap as gap:
            await context.abort(grpc.StatusCode.DATA_LOSS, str(gap))


async def main():
    server = grpc.aio.server()
    instance_pb2_grpc.add_InstanceServiceServicer_to_server(Counter(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    cluster = rpc.ClusterServiceStub(grpc.aio.insecure_channel("127.0.0.1:7070"))
    key = [("authorization", f"Bearer {os.environ['ORCHESTRATOR_API_KEY']}")]
    myself = pb.RegisterRequest(
        instance=pb.Instance(id="counter", address=f"127.0.0.1:{port}"),
        incarnation=time.time_ns() // 1_000_000,
    )
    while True:  # the lease lasts 30 s
        await cluster.Register(myself, metadata=key, timeout=5)
        await asyncio.sleep(10)


if __name__ == "__main__":
    asyncio.run(main())
