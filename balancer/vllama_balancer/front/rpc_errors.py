"""Errors of the gRPC front door: exceptions as rich gRPC statuses."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from google.rpc import status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from vllama_protos.errors import ErrorDetails, encode_status

if TYPE_CHECKING:
    import grpc

    from vllama_balancer.errors import BalancerError


def rich_status(error: BalancerError) -> grpc.Status:
    """Returns the status of an error: its message, an ErrorInfo with reason and field, and a RetryInfo."""
    return _status(error.status, str(error), error.reason, error.field, error.retry_after_seconds)


# A full queue refuses hundreds at once, with the same words.
@lru_cache(maxsize=64)
def _status(
    code: grpc.StatusCode, message: str, reason: str, field: str, retry_after_seconds: float | None
) -> grpc.Status:
    details = ErrorDetails(reason, field, retry_after_seconds=retry_after_seconds)
    return rpc_status.to_status(status_pb2.Status.FromString(encode_status(code.value[0], message, details)))
