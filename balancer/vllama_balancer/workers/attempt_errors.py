"""Reads what a worker's failed call means: whose fault it was, and whether another worker may try.

The one boundary where gRPC statuses of workers become the balancer's own terms. Workers name a
stable reason in google.rpc.ErrorInfo; a status without one comes from the transport itself.
"""

from __future__ import annotations

from enum import Enum
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from vllama_balancer.errors import (
    BalancerError,
    CapabilityMissing,
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    WorkerLost,
)


class FailureKind(Enum):
    """What a failure asks for."""

    REJECTED = "rejected"
    """The request itself is wrong; every worker would say so."""
    DEADLINE = "deadline"
    """The caller's deadline passed."""
    REFUSED = "refused"
    """The worker leaves or starts: it has not touched the request, and is not to blame."""
    BUSY = "busy"
    """The worker's own queue is full; others may have room."""
    FAULT = "fault"
    """The worker answered with an error of its own."""
    LOST = "lost"
    """The worker died or hangs with the request aboard."""
    UNREACHABLE = "unreachable"
    """The worker was gone before the request reached it, so the request has nothing to do with it."""


class AttemptFailed(Exception):
    """One try of a request on one worker has failed; not an answer to the client yet."""

    def __init__(self, kind: FailureKind, error: BalancerError) -> None:
        super().__init__(str(error))
        self.kind = kind
        """What the failure asks for."""
        self.error = error
        """What the client is told when nothing else can be done."""


_REJECTIONS: dict[grpc.StatusCode, type[BalancerError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: CapabilityMissing,
    grpc.StatusCode.UNIMPLEMENTED: CapabilityMissing,
}

_REFUSALS = frozenset({"WORKER_DRAINING", "WORKER_STARTING"})

_NOT_CONNECTED = "failed to connect to all addresses"
"""How gRPC's own message begins when a call never left this process."""

_LOSSES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


def classify_failure(error: grpc.aio.AioRpcError, worker: str) -> AttemptFailed:
    """Classifies a failed call to a worker."""
    code, message = error.code(), error.details() or error.code().name
    info, retry_after = _details(error)
    reason, field = info.reason, info.metadata.get("field", "")
    if code in _REJECTIONS:
        return AttemptFailed(FailureKind.REJECTED, _REJECTIONS[code](message, reason=reason, field=field))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return AttemptFailed(
            FailureKind.DEADLINE, DeadlineExceeded("the deadline passed while the answer was generated")
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(message, reason, retry_after)
    if code in _LOSSES or (code is grpc.StatusCode.INTERNAL and not reason):
        # A worker gives a reason with its own INTERNAL; gRPC gives none when a write finds the connection broken.
        return AttemptFailed(_kind_of_loss(message, reason), WorkerLost(f"worker {worker} was lost: {message}"))
    return AttemptFailed(FailureKind.FAULT, EngineFault(f"worker {worker} failed: {message}", reason=reason))


def unreachable(worker: str, error: grpc.aio.AioRpcError) -> AttemptFailed:
    """Makes the failure of a worker that did not even answer whether it lives."""
    message = f"worker {worker} cannot be reached: {error.details() or error.code().name}"
    return AttemptFailed(FailureKind.UNREACHABLE, WorkerLost(message))


def _kind_of_loss(message: str, reason: str) -> FailureKind:
    if reason in _REFUSALS:
        return FailureKind.REFUSED
    return FailureKind.UNREACHABLE if message.startswith(_NOT_CONNECTED) else FailureKind.LOST


def _exhausted(message: str, reason: str, retry_after: float | None) -> AttemptFailed:
    """Without a reason of the worker it is gRPC's own size limit, which no other worker would lift."""
    if not reason:
        return AttemptFailed(FailureKind.REJECTED, InvalidRequest(message, reason="MESSAGE_TOO_LARGE"))
    return AttemptFailed(FailureKind.BUSY, QueueFull(message, retry_after_seconds=retry_after))


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, float | None]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_after = None
    for detail in _rich_status(error).details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return info, retry_after


def _rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Reads the details trailer; a contradictory one from a foreign peer counts as none."""
    try:
        rich = rpc_status.from_call(cast("grpc.Call", error))
    except ValueError:
        rich = None
    return rich if rich is not None else _NO_DETAILS


_NO_DETAILS = status_pb2.Status()
