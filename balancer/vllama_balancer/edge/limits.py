"""Bounds how many generations one client runs at once.

The balancer's queue is fair between clients but bounded for all of them together: without a bound
of its own one client could fill it and make everybody else be refused.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vllama_balancer.edge.statuses import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterator


class StreamLimit:
    """Counts the running generations of each client."""

    def __init__(self, most_per_client: int) -> None:
        self._most_per_client = most_per_client
        self._running: Counter[str] = Counter()

    @contextmanager
    def hold(self, client: str, *, draining: bool = False) -> Iterator[None]:
        """Counts one generation while the block runs.

        Raises HttpError 429 when the client has too many, 503 when the process is about to end.
        """
        if draining:
            raise HttpError(503, "the server is shutting down", retry_after_seconds=1)
        if self._running[client] >= self._most_per_client:
            message = f"too many requests at once: {self._most_per_client} of this client are running"
            raise HttpError(429, message, retry_after_seconds=1)
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]

    def running(self, client: str) -> int:
        """How many generations a client has now."""
        return self._running.get(client, 0)
