"""The shape of the native API's errors: one key, and one line at the end of a stream that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge import http_errors
from vllama_balancer.edge.body import encode_line

if TYPE_CHECKING:
    from vllama_balancer.errors import BalancerError


def error_body(status: int, message: str, request_id: str) -> dict[str, str]:
    """The body of an error, whatever its status."""
    return {"error": message}


def error_line(error: BalancerError) -> bytes:
    """The line that ends a stream which failed."""
    return encode_line({"error": http_errors.message(error)})
