"""From the balancer's errors to HTTP: which status, which sentence, which Retry-After.

A table, so that every dialect answers an error with the same status and the same sentence, and
only the shape around them differs.
"""

from __future__ import annotations

import math

from vllama_balancer.errors import (
    BalancerError,
    CapabilityMissing,
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    Quarantined,
    QueueFull,
    Unauthenticated,
    WorkerLost,
)
from vllama_balancer.models.errors import (
    AccessRefused,
    DownloadDamaged,
    ModelInUse,
    ModelUnknown,
    SourceUnavailable,
)

STATUS: dict[type[BalancerError], int] = {
    InvalidRequest: 400,
    CapabilityMissing: 400,
    Unauthenticated: 401,
    ModelNotFound: 404,
    QueueFull: 503,
    NoWorker: 503,
    WorkerLost: 503,
    DeadlineExceeded: 504,
    EngineFault: 500,
    Quarantined: 500,
    ModelUnknown: 404,
    ModelInUse: 403,
    AccessRefused: 403,
    SourceUnavailable: 503,
    DownloadDamaged: 502,
}
"""Which status each error becomes; a subclass takes its nearest ancestor's, any other is 500."""

SERVER_BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's words, two blanks included: clients look for them before they retry."""

_TOO_LONG = "the prompt is longer than the context length currently available to the model"


class HttpError(BalancerError):
    """An error that only HTTP knows, such as a wrong method, with its status."""

    def __init__(self, http_status: int, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, reason=f"HTTP_{http_status}", retry_after_seconds=retry_after_seconds)
        self.http_status = http_status
        """The status to answer with."""


def http_status(error: BalancerError) -> int:
    """Looks up the HTTP status of an error."""
    if isinstance(error, HttpError):
        return error.http_status
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def message(error: BalancerError) -> str:
    """Phrases an error as clients of every dialect expect it."""
    text = str(error)
    if isinstance(error, QueueFull):
        return SERVER_BUSY
    if error.reason == "CONTEXT_TOO_LONG" and "context length" not in text:
        return f"{_TOO_LONG}; {text}"
    return text


def headers(error: BalancerError) -> dict[str, str]:
    """Headers that go with an error: when to come back, in whole seconds, and how to prove who one is."""
    found = {}
    if error.retry_after_seconds is not None:
        found["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if isinstance(error, Unauthenticated):
        found["WWW-Authenticate"] = "Bearer"
    return found
