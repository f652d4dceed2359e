import os
import time
from concurrent import futures

import grpc
from google.protobuf import struct_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from openclaw.instance.v1 import instance_pb2, instance_pb2_grpc
from openclaw.orchestrator.v1 import orchestrator_pb2 as pb, orchestrator_pb2_grpc as rpc


class Instance(instance_pb2_grpc.InstanceServiceServicer):
    def Execute(self, request, context):
        if not request.payload.HasField("string_value"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the payload is not a text")
        answer = struct_pb2.Value(string_value=request.payload.string_value.upper())
        return instance_pb2.ExecuteResponse(payload=answer)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
instance_pb2_grpc.add_InstanceServiceServicer_to_server(Instance(), server)
health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()

cluster = rpc.ClusterServiceStub(grpc.insecure_channel("127.0.0.1:7070"))
key = [("authorization", f"Bearer {os.environ['ORCHESTRATOR_API_KEY']}")]
myself = pb.RegisterRequest(
    instance=pb.Instance(id="upper", address=f"127.0.0.1:{port}"),
    incarnation=time.time_ns() // 1_000_000,
)
while True:  # the lease lasts 30 s
    cluster.Register(myself, metadata=key, timeout=5)
    time.sleep(10)
