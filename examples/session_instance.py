import asyncio
import os
import time
from collections import defaultdict

import grpc
from google.protobuf import struct_pb2
from grpc_health.v1 import health, health_pb2_grpc
from openclaw.instance.v1 import instance_pb2, instance_pb2_grpc
from openclaw.orchestrator.v1 import orchestrator_pb2 as pb, orchestrator_pb2_grpc as rpc

from conversation import Conversation, Gap, Stale


class Counter(instance_pb2_grpc.InstanceServiceServicer):
    """Adds up the numbers that it is sent, each of them once."""

    def __init__(self):
        self.conversations = defaultdict(Conversation)
        self.sums = defaultdict(float)

    async def Session(self, requests, context):
        first = (await anext(requests)).open
        conversation = self.conversations[first.session]
        try:
            for response in conversation.open(first):
                yield response
            async for request in requests:
                conversation.check(first.epoch)
                match request.WhichOneof("frame"):
                    case "data" if conversation.is_next(request.data):
                        self.sums[first.session] += request.data.payload.number_value
                        answer = struct_pb2.Value(number_value=self.sums[first.session])
                        for response in conversation.say(answer, in_reply_to=request.data.seq):
                            yield response
                    case "ack":
                        conversation.taken(request.ack.through)
                    case "close":
                        if request.close.reason != instance_pb2.SESSION_CLOSE_REASON_SUSPENDED:
                            del self.conversations[first.session], self.sums[first.session]
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
