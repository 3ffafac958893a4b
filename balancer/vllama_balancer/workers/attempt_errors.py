"""Classifies failed calls to workers: what caused the failure, and whether another worker may try.

gRPC statuses of workers become the balancer's own terms here and nowhere else. A worker's status carries an ErrorReason
in its details; a status without one comes from the transport.
"""

from __future__ import annotations

from enum import Enum

import grpc

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
from vllama_protos.errors import read_trailers, reason_of, reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason


class FailureKind(Enum):
    """The cause of a failed attempt, which decides what follows."""

    REJECTED = "rejected"
    """The request itself is wrong; every worker would reject it."""
    DEADLINE = "deadline"
    """The caller's deadline passed."""
    REFUSED = "refused"
    """The worker drains, starts or sleeps: it has not touched the request, and is not to blame."""
    LEFT = "left"
    """The worker ended the stream in order to leave: it is not to blame, but the attempt counts."""
    BUSY = "busy"
    """The worker's own queue is full; others may have room."""
    FAULT = "fault"
    """The worker answered with an error of its own."""
    LOST = "lost"
    """The worker crashed or hangs while it had the request."""
    UNREACHABLE = "unreachable"
    """The worker was gone before the request reached it, so the request is not the cause."""


class AttemptFailed(Exception):
    """One attempt of a request on one worker has failed; not yet an answer to the client."""

    def __init__(self, kind: FailureKind, error: BalancerError) -> None:
        super().__init__(str(error))
        self.kind = kind
        self.error = error
        """The client's error if no other attempt follows."""


_REJECTIONS: dict[grpc.StatusCode, type[BalancerError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: CapabilityMissing,
    grpc.StatusCode.UNIMPLEMENTED: CapabilityMissing,
}

_REFUSALS = frozenset(
    {
        ErrorReason.ERROR_REASON_WORKER_DRAINING,
        ErrorReason.ERROR_REASON_WORKER_STARTING,
        ErrorReason.ERROR_REASON_WORKER_ASLEEP,
    }
)

NOT_CONNECTED = "failed to connect to all addresses"
"""The beginning of gRPC's own message for a call that never left this process."""

_LOSSES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


def classify_failure(error: grpc.aio.AioRpcError, worker: str) -> AttemptFailed:
    """Returns the failure that a failed call to a worker stands for."""
    code, message = error.code(), error.details() or error.code().name
    details = read_trailers(error.trailing_metadata() or (), code.value[0])
    reason = details.reason
    if code in _REJECTIONS:
        return AttemptFailed(FailureKind.REJECTED, _REJECTIONS[code](message, reason=reason, field=details.field))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return AttemptFailed(
            FailureKind.DEADLINE, DeadlineExceeded("the deadline passed while the answer was generated")
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(message, reason, details.retry_after_seconds)
    if reason_of(reason) == ErrorReason.ERROR_REASON_CANNOT_CONTINUE:
        # The worker has done nothing wrong, and another one would find the same.
        return AttemptFailed(FailureKind.REJECTED, EngineFault(message, reason=reason))
    if code in _LOSSES or (code is grpc.StatusCode.INTERNAL and not reason):
        # A worker gives a reason with its own INTERNAL; gRPC gives none when a write finds the connection broken.
        return AttemptFailed(_kind_of_loss(message, reason), WorkerLost(f"worker {worker} was lost: {message}"))
    return AttemptFailed(FailureKind.FAULT, EngineFault(f"worker {worker} failed: {message}", reason=reason))


def unreachable(worker: str, error: grpc.aio.AioRpcError) -> AttemptFailed:
    """Returns the failure of a worker that did not answer a liveness check."""
    message = f"worker {worker} cannot be reached: {error.details() or error.code().name}"
    return AttemptFailed(FailureKind.UNREACHABLE, WorkerLost(message))


def _kind_of_loss(message: str, reason: str) -> FailureKind:
    if reason_of(reason) in _REFUSALS:
        return FailureKind.REFUSED
    return FailureKind.UNREACHABLE if message.startswith(NOT_CONNECTED) else FailureKind.LOST


def _exhausted(message: str, reason: str, retry_after: float | None) -> AttemptFailed:
    """Without a reason it is gRPC's own size limit, which is the same on every worker."""
    if not reason:
        too_large = reason_text(ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE)
        return AttemptFailed(FailureKind.REJECTED, InvalidRequest(message, reason=too_large))
    return AttemptFailed(FailureKind.BUSY, QueueFull(message, retry_after_seconds=retry_after))
