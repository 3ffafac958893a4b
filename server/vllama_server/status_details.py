"""From an error to what travels beside its gRPC status: google.rpc.ErrorInfo and RetryInfo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from vllama_server.errors import CapabilityMissing, InvalidRequest, status_of

if TYPE_CHECKING:
    from vllama_server.errors import WorkerError

DOMAIN = "vllama"
TRAILER = "grpc-status-details-bin"
"""The trailer in which gRPC carries a google.rpc.Status."""


def details_of(error: WorkerError) -> bytes:
    """Encodes the google.rpc.Status of an error: its stable reason, what it is about, when to come back."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if isinstance(error, InvalidRequest) and error.field:
        info.metadata["field"] = error.field
    if isinstance(error, CapabilityMissing) and error.capability:
        info.metadata["capability"] = error.capability
    code: int = status_of(error).value[0]
    status = status_pb2.Status(code=code, message=str(error))
    status.details.add().Pack(info)
    if error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
        status.details.add().Pack(retry)
    encoded: bytes = status.SerializeToString()
    return encoded
