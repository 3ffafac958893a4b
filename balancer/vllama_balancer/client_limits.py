"""What clients may have at once, over both front doors together: streams of one client, and bytes of all requests."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vllama_balancer.errors import BytesExhausted, InvalidRequest, ShuttingDown, TooManyStreams
from vllama_protos.budgets import OverBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20

LEAST_STREAMS = 512
"""Streams of one client that are allowed however small the fleet is: a gateway in front is one client."""
MOST_INFLIGHT_BYTES = 96 * MIB
UNCOUNTED_BYTES = 64 * 1024
"""First bytes of a request that do not count: ordinary requests pass while large ones use the budget up."""
CLIENT_SHARE = 0.5
"""Part of the bytes that one client may have."""


class StreamLimit:
    """Bounds the concurrent generations of each client.

    The balancer's queue is fair between clients, but its bound is shared: one client could fill it for all others.
    """

    def __init__(self, most_per_client: Callable[[], int]) -> None:
        self._most_per_client = most_per_client
        self._running: Counter[str] = Counter()
        self.is_closed = False
        """Whether no client may have a further one, because the process ends."""

    @contextmanager
    def hold(self, client: str, streams: int = 1) -> Iterator[None]:
        """Counts streams while the block runs.

        Raises TooManyStreams when the client would have too many, and ShuttingDown when the process ends.
        """
        if self.is_closed:
            raise ShuttingDown
        most = self._most_per_client()
        running = self._running[client]
        if running + streams > most:
            raise TooManyStreams(
                f"too many requests at once: {running} of this client are running and {most} may be; "
                "--max-streams-per-client sets how many",
                retry_after_seconds=1,
            )
        self._running[client] += streams
        try:
            yield
        finally:
            self._running[client] -= streams
            if not self._running[client]:
                del self._running[client]

    def running(self, client: str) -> int:
        """Returns the number of a client's running generations."""
        return self._running.get(client, 0)


class ByteBudget:
    """Bounds the bytes of all requests that the process holds at once."""

    def __init__(self, most_bytes: int = MOST_INFLIGHT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held: Counter[str] = Counter()
        self.held_bytes = 0
        """Bytes of all requests now, without the first ones of each."""

    @contextmanager
    def request(self, client: str) -> Iterator[HeldBytes]:
        """Holds the bytes of one request while the block runs."""
        held = HeldBytes(self, client)
        try:
            yield held
        finally:
            self._release(client, held.counted_bytes)

    def take(self, client: str, count: int) -> None:
        """Counts bytes of a client. Raises BytesExhausted when all clients, or this one, have too many."""
        is_fair = self._held[client] + count <= self._most_bytes * CLIENT_SHARE
        if self.held_bytes + count > self._most_bytes or not is_fair:
            raise BytesExhausted(
                f"the server holds {self.held_bytes} bytes of requests, too many to take this one; "
                "try again, or raise --max-inflight-bytes",
                retry_after_seconds=1,
            )
        self.held_bytes += count
        self._held[client] += count

    def _release(self, client: str, count: int) -> None:
        self.held_bytes -= count
        self._held[client] -= count
        if not self._held[client]:
            del self._held[client]


class HeldBytes:
    """The bytes of one request, counted as they come."""

    __slots__ = ("_budget", "_client", "_total_bytes", "counted_bytes")

    def __init__(self, budget: ByteBudget, client: str) -> None:
        self._budget = budget
        self._client = client
        self._total_bytes = 0
        self.counted_bytes = 0
        """Those that count."""

    def add(self, count: int) -> None:
        """Counts further bytes. Raises BytesExhausted."""
        self._total_bytes += count
        beyond = max(0, self._total_bytes - UNCOUNTED_BYTES) - self.counted_bytes
        if beyond > 0:
            self._budget.take(self._client, beyond)
            self.counted_bytes += beyond


@contextmanager
def refuses_over_budget() -> Iterator[None]:
    """Raises InvalidRequest, naming the field, in place of OverBudget."""
    try:
        yield
    except OverBudget as error:
        raise InvalidRequest(str(error), field=error.field) from None


class ClientLimits:
    """Both limits. The front doors share one object."""

    def __init__(
        self,
        most_streams_per_client: Callable[[], int] = lambda: LEAST_STREAMS,
        most_inflight_bytes: int = MOST_INFLIGHT_BYTES,
    ) -> None:
        self.streams = StreamLimit(most_streams_per_client)
        self.bytes = ByteBudget(most_inflight_bytes)

    @property
    def draining(self) -> bool:
        """Whether the process ends: /health reports it, and new requests are refused."""
        return self.streams.is_closed

    def drain(self) -> None:
        """Refuses new requests at both front doors; what runs goes on."""
        self.streams.is_closed = True
