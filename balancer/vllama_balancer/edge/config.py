"""Settings of the edge, taken from the balancer's configuration: the edge reads neither flags nor environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version

from vllama_protos.budgets import DEFAULT_LIMITS, RequestLimits


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Settings of the HTTP API; the caller has checked them."""

    api_version: str = "0.32.0"
    """Reply of /api/version: a bare MAJOR.MINOR.PATCH, at least 0.6.4, or clients refuse it."""
    product_version: str = field(default_factory=lambda: version("vllama-serve"))
    """Version of this product, in the Server header."""
    loopback_only: bool = True
    """Whether the edge is bound to loopback; then the Host header is checked as well."""
    origins: tuple[str, ...] = ()
    """Origins allowed beside the built-in ones; "*" in one matches anything."""
    max_body_bytes: int = 32 * 1024 * 1024
    """Longest request body, decompressed."""
    request_limits: RequestLimits = DEFAULT_LIMITS
    """The most of each thing that one request may have."""
    max_connections: int = 4096
    """Most connections at once; one address may have half of them, unless it is a trusted proxy."""
    max_line_bytes: int = 16 * 1024
    """Longest request line, and so the longest URL."""
    max_header_bytes: int = 16 * 1024
    """Longest single header."""
    head_timeout_seconds: float = 30.0
    """Longest time from the first byte of a request's head to its last."""
    body_timeout_seconds: float = 60.0
    """Longest pause within a request's body, and the time allowed for a body of any size."""
    slowest_bytes_per_second: int = 1024
    """Rate below which a client that sends a body or reads a whole reply is cut off, after those times."""
    idle_timeout_seconds: float = 300.0
    """How long a connection may stay idle."""
    linger_seconds: float = 10.0
    """How long the rest of a refused body is read and discarded, so that its sender gets the refusal."""
    write_timeout_seconds: float = 60.0
    """Longest time in which a client reads no byte of its reply."""
