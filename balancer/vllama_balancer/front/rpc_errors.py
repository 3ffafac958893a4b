"""Turns the balancer's exceptions into rich gRPC statuses."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

if TYPE_CHECKING:
    import grpc
    from google.protobuf.message import Message

    from vllama_balancer.errors import BalancerError

ERROR_DOMAIN = "vllama"
"""Domain of every ErrorInfo."""


def rich_status(error: BalancerError) -> grpc.Status:
    """Makes the status of an error: its sentence, an ErrorInfo with its reason and field, and when to come back."""
    return _status(error.status, str(error), error.reason, error.field, error.retry_after_seconds)


# A full queue refuses hundreds at once, with the same words.
@lru_cache(maxsize=64)
def _status(
    code: grpc.StatusCode, message: str, reason: str, field: str, retry_after_seconds: float | None
) -> grpc.Status:
    metadata = {"field": field} if field else {}
    details = [_packed(error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata))]
    if retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after_seconds * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=details))


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
