"""The shape of Ollama's errors: one key, also in the last line of a failed stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge import http_errors
from vllama_balancer.edge.body import encode_line

if TYPE_CHECKING:
    from vllama_balancer.errors import BalancerError


def error_body(status: int, message: str, request_id: str) -> dict[str, str]:
    """Returns the body of an error."""
    return {"error": message}


def error_line(error: BalancerError) -> bytes:
    """Returns the last line of a failed stream."""
    return encode_line({"error": http_errors.message(error)})
