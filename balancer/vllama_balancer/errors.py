"""The balancer's exceptions, and the one table from them to gRPC statuses.

BalancerError
|-- InvalidRequest        a field is wrong; the message names it and the fix
|-- ModelNotFound         no such model
|-- CapabilityMissing     the model cannot do what is asked
|-- QueueFull             too many requests wait; carries the time of a retry
|-- TooManyStreams        this client has too many requests running
|-- BytesExhausted        the requests of all clients, or of this one, have too many bytes
|-- NoWorker              no worker can take the request now
|-- ShuttingDown          the balancer ends and takes no new requests
|-- DeadlineExceeded      the caller's deadline passed
|-- WorkerLost            the worker ended in the middle and nothing could take over
|-- Quarantined           the request has killed workers and is not tried again
|-- Unauthenticated       no key, or a wrong one
|-- PermissionDenied      the caller lacks the scope named in `field`
|-- EngineFault           the engine failed on this request
`-- ConfigError           flags or environment are wrong; refused at start
"""

from __future__ import annotations

import grpc

from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

LONGEST_MESSAGE = 1_000
"""Characters of an error's message: parts of it may be a client's own text."""


class BalancerError(Exception):
    """Root of the balancer's own exceptions; `str()` is a sentence for people."""

    status = grpc.StatusCode.INTERNAL
    """The gRPC status it becomes."""
    reason = reason_text(ErrorReason.ERROR_REASON_BALANCER_ERROR)
    """Stable, machine-readable: travels in google.rpc.ErrorInfo."""

    def __init__(
        self, message: str, *, reason: str = "", field: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(_cut(message))
        self.reason = reason or self.reason
        self.field = field
        """The wrong field or the missing capability; empty when there is none."""
        self.retry_after_seconds = retry_after_seconds
        """When a retry makes sense; None when that is not known."""


def outcome_of(error: BaseException) -> str:
    """Returns how a request has ended, for the metrics: an error's reason, "internal" for a bug, or "cancelled"."""
    if isinstance(error, BalancerError):
        return error.reason
    return "internal" if isinstance(error, Exception) else "cancelled"


class InvalidRequest(BalancerError):
    """A field of the request is wrong."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = reason_text(ErrorReason.ERROR_REASON_INVALID_REQUEST)


class ModelNotFound(BalancerError):
    """No model of that name can be served."""

    status = grpc.StatusCode.NOT_FOUND
    reason = reason_text(ErrorReason.ERROR_REASON_MODEL_NOT_FOUND)


class CapabilityMissing(BalancerError):
    """The model lacks the capability named in `field`."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = reason_text(ErrorReason.ERROR_REASON_CAPABILITY_MISSING)


class QueueFull(BalancerError):
    """Too many requests wait already."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = reason_text(ErrorReason.ERROR_REASON_QUEUE_FULL)


class TooManyStreams(BalancerError):
    """This client has too many requests running."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = reason_text(ErrorReason.ERROR_REASON_QUEUE_FULL)


class BytesExhausted(BalancerError):
    """The requests of all clients, or of this one, have too many bytes."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = reason_text(ErrorReason.ERROR_REASON_QUEUE_FULL)


class NoWorker(BalancerError):
    """No worker can take the request now."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = reason_text(ErrorReason.ERROR_REASON_NO_WORKER)


class ShuttingDown(BalancerError):
    """The balancer ends: it finishes what runs and takes no new requests."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = reason_text(ErrorReason.ERROR_REASON_BALANCER_DRAINING)

    def __init__(self) -> None:
        super().__init__("the server is shutting down", retry_after_seconds=1)


class DeadlineExceeded(BalancerError):
    """The caller's deadline passed."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = reason_text(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED)


class WorkerLost(BalancerError):
    """The worker ended in the middle and nothing could take over."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = reason_text(ErrorReason.ERROR_REASON_WORKER_LOST)


class Quarantined(BalancerError):
    """The request has killed workers and is not tried again."""

    status = grpc.StatusCode.INTERNAL
    reason = reason_text(ErrorReason.ERROR_REASON_QUARANTINED)


class Unauthenticated(BalancerError):
    """No key, or a wrong one."""

    status = grpc.StatusCode.UNAUTHENTICATED
    reason = reason_text(ErrorReason.ERROR_REASON_UNAUTHENTICATED)


class PermissionDenied(BalancerError):
    """The caller lacks a right; the message has the way to get it."""

    status = grpc.StatusCode.PERMISSION_DENIED
    reason = reason_text(ErrorReason.ERROR_REASON_PERMISSION_DENIED)


class EngineFault(BalancerError):
    """The engine failed on this request."""

    status = grpc.StatusCode.INTERNAL
    reason = reason_text(ErrorReason.ERROR_REASON_ENGINE_FAULT)


class ConfigError(BalancerError):
    """Flags or environment are wrong; the process does not start."""

    reason = reason_text(ErrorReason.ERROR_REASON_CONFIG)


def _cut(message: str) -> str:
    """Returns a message with at most LONGEST_MESSAGE characters, its beginning and its end."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    half = LONGEST_MESSAGE // 2
    return f"{message[: half - 2]} … {message[-half + 1 :]}"
