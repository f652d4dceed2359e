import os

import grpc
from google.protobuf import json_format, struct_pb2
from openclaw.orchestrator.v1 import orchestrator_pb2 as pb, orchestrator_pb2_grpc as rpc

channel = grpc.insecure_channel("127.0.0.1:7070")
orchestrator = rpc.OrchestratorServiceStub(channel)
key = [("authorization", f"Bearer {os.environ['ORCHESTRATOR_API_KEY']}")]
payload = json_format.ParseDict({"data": "task"}, struct_pb2.Value())

answer = orchestrator.Route(pb.RouteRequest(instances=["A", "B"], payload=payload), metadata=key, timeout=5)
print(answer.instance, json_format.MessageToDict(answer.payload))

for event in orchestrator.Fanout(pb.FanoutRequest(targets=["A-C"], payload=payload), metadata=key, timeout=5):
    match event.WhichOneof("event"):
        case "partial":
            print(event.partial.instance, pb.Outcome.Name(event.partial.outcome))
        case "summary":
            print(event.summary.counts.answered, "answered")
