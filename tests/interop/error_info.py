"""The google.rpc.ErrorInfo of a failed call, as grpcio-status reads it."""

from google.rpc import error_details_pb2
from grpc_status import rpc_status


def error_info(error) -> error_details_pb2.ErrorInfo:
    """The one ErrorInfo among the details."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    assert status.code == error.code().value[0] and status.message == error.details()
    [info] = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    unpacked = error_details_pb2.ErrorInfo()
    info.Unpack(unpacked)
    assert unpacked.domain == "orchestrator.openclaw"
    return unpacked
