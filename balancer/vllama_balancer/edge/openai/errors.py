"""The shape of OpenAI's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_balancer.edge import http_errors
from vllama_balancer.edge.body import encode_sse

if TYPE_CHECKING:
    from vllama_balancer.errors import BalancerError

_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """Returns the body of an error. The request's id is in its header alone, as in OpenAI's API."""
    return {"error": {"message": message, "type": error_type(status), "param": None, "code": None}}


def error_type(status: int) -> str:
    """Returns OpenAI's type of error for an HTTP status."""
    return _TYPES.get(status, "api_error")


def error_event(error: BalancerError) -> bytes:
    """Returns the last event of a failed stream; no [DONE] follows it."""
    return encode_sse(error_body(http_errors.http_status(error), http_errors.message(error), ""))
