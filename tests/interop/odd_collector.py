"""A collector of traces in the test's own process, which takes spans, does not want them, refuses them or hangs."""

import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class OddCollector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.does = "takes"
        self.goes_on = threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def Export(self, request, context):
        answer = trace_service_pb2.ExportTraceServiceResponse()
        match self.does:
            case "takes":
                pass
            case "rejects":
                answer.partial_success.rejected_spans = 1
            case "refuses":
                # Of those that are not to be repeated.
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "it wants nothing from here")
            case "hangs":
                self.goes_on.wait()
        return answer

    def end(self):
        self.goes_on.set()
        self.server.stop(None)
