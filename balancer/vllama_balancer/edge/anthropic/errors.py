"""The shape of errors under /v1/messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_balancer.edge import http_errors
from vllama_balancer.edge.body import encode_sse

if TYPE_CHECKING:
    from vllama_balancer.errors import BalancerError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The body of an error, whatever its status."""
    error = {"type": _TYPES.get(status, "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": f"req_{request_id}"}


def error_event(error: BalancerError, request_id: str) -> bytes:
    """The last event of a stream that failed."""
    return encode_sse(error_body(http_errors.http_status(error), http_errors.message(error), request_id), "error")
