"""What the edge is told at its start: frozen, checked by the caller, read by nobody else.

Values come from the balancer's own configuration; the edge reads neither flags nor environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllama_balancer.edge.client_address import Network


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """Settings of the HTTP front door."""

    api_version: str = "0.32.0"
    """What /api/version says: a bare MAJOR.MINOR.PATCH, at least 0.6.4, or clients refuse it."""
    product_version: str = field(default_factory=lambda: version("vllama-serve"))
    """Version of this product, in the Server header."""
    loopback_only: bool = True
    """Whether the edge is bound to loopback, where the Host header is checked as well."""
    origins: tuple[str, ...] = ()
    """Origins allowed beside the built-in ones; "*" in one stands for anything."""
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For is believed; without any, a client is the other end of its connection."""
    max_body_bytes: int = 64 * 1024 * 1024
    """Longest request body."""
    max_line_bytes: int = 16 * 1024
    """Longest request line, and so the longest URL."""
    max_header_bytes: int = 16 * 1024
    """Longest single header."""
    max_streams_per_client: int = 512
    """Generations that one client may have at once; more are refused with 429."""
    head_timeout_seconds: float = 30.0
    """How long a request's line and headers may take from their first byte to their last."""
    body_timeout_seconds: float = 60.0
    """Longest silence within a request's body, and the time it may take however short it is."""
    slowest_bytes_per_second: int = 1024
    """Pace below which a client that sends a body or takes a whole reply is cut off, beyond those times."""
    idle_timeout_seconds: float = 300.0
    """How long a connection may stay open without a request."""
    linger_seconds: float = 10.0
    """How long the rest of a refused body is read and dropped, so that its sender sees the refusal."""
    write_timeout_seconds: float = 60.0
    """How long a client may take no byte of its reply before it is cut off."""
