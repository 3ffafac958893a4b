"""HTTP status, message and headers of the balancer's errors.

All dialects share this table: they reply with the same status and message, in different shapes.
"""

from __future__ import annotations

import math

from vllama_balancer.errors import (
    BalancerError,
    BytesExhausted,
    CapabilityMissing,
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    PermissionDenied,
    Quarantined,
    QueueFull,
    ShuttingDown,
    TooManyStreams,
    Unauthenticated,
    WorkerLost,
)
from vllama_balancer.models.errors import (
    AccessRefused,
    DownloadDamaged,
    ModelInUse,
    ModelUnknown,
    PullsFull,
    SourceUnavailable,
)
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

STATUS: dict[type[BalancerError], int] = {
    InvalidRequest: 400,
    CapabilityMissing: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    ModelNotFound: 404,
    TooManyStreams: 429,
    QueueFull: 503,
    BytesExhausted: 503,
    NoWorker: 503,
    ShuttingDown: 503,
    WorkerLost: 503,
    DeadlineExceeded: 504,
    EngineFault: 500,
    Quarantined: 500,
    ModelUnknown: 404,
    ModelInUse: 403,
    AccessRefused: 403,
    SourceUnavailable: 503,
    PullsFull: 503,
    DownloadDamaged: 502,
}
"""HTTP status by error; a subclass has that of its nearest ancestor, any other error 500."""

SERVER_BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's message, two blanks included: clients match it to decide about a retry."""

CONTEXT_TOO_LONG = reason_text(ErrorReason.ERROR_REASON_CONTEXT_TOO_LONG)
"""Reason of the error for an input beyond the context."""

_TOO_LONG = "the prompt is longer than the context length currently available to the model"


class HttpError(BalancerError):
    """An error of HTTP alone, such as a wrong method."""

    def __init__(self, http_status: int, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, reason=f"HTTP_{http_status}", retry_after_seconds=retry_after_seconds)
        self.http_status = http_status
        """Status of the reply."""


def http_status(error: BalancerError) -> int:
    if isinstance(error, HttpError):
        return error.http_status
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def message(error: BalancerError) -> str:
    """Returns the message that clients of every dialect expect."""
    text = str(error)
    if isinstance(error, QueueFull):
        return SERVER_BUSY
    if error.reason == CONTEXT_TOO_LONG and "context length" not in text:
        return f"{_TOO_LONG}; {text}"
    return text


def headers(error: BalancerError) -> dict[str, str]:
    """Returns Retry-After in whole seconds and WWW-Authenticate, where they apply."""
    found = {}
    if error.retry_after_seconds is not None:
        found["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, Unauthenticated):
        found["WWW-Authenticate"] = "Bearer"
    return found
