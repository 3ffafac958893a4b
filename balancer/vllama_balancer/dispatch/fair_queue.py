"""A queue with round-robin turns between clients: each client's requests in order, one client after the other.

A client that sends a hundred requests delays another client's first one by one turn, not by a hundred. A priority
orders a client's own requests only. Items that were served before (a retry, a stream that moves) go ahead of all turns,
in lanes that wait for different conditions.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class Lane(Enum):
    """A lane ahead of all turns."""

    RETRIES = "retries"
    """Requests that any worker may take."""
    SUSPECTS = "suspects"
    """Requests that are placed apart from each other."""
    TRIALS = "trials"
    """Requests that are tried alone."""


class _ClientQueue(Generic[T]):
    """One client's items: lower priorities first, those of the same one in order."""

    def __init__(self) -> None:
        self._by_priority: dict[int, dict[T, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_priority)

    def push(self, item: T, priority: int) -> None:
        self._by_priority.setdefault(priority, {})[item] = None

    def first(self) -> T:
        return next(iter(self._by_priority[min(self._by_priority)]))

    def discard(self, item: T) -> bool:
        for priority, items in self._by_priority.items():
            if item in items:
                del items[item]
                if not items:
                    del self._by_priority[priority]
                return True
        return False


class FairQueue(Generic[T]):
    """Ordered by turns; the time of every operation but iteration depends on the number of priorities alone."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, dict[T, None]] = {lane: {} for lane in Lane}
        # Clients in the order of their turns.
        self._turns: dict[str, _ClientQueue[T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, client: str, item: T, priority: int = 0) -> None:
        """Adds an item behind the client's others of its priority; lower priorities come first."""
        self._turns.setdefault(client, _ClientQueue()).push(item, priority)
        self._length += 1

    def push_ahead(self, item: T, lane: Lane = Lane.RETRIES) -> None:
        """Adds an item ahead of all turns, behind the others of its lane."""
        self._lanes[lane][item] = None
        self._length += 1

    def ahead(self, lane: Lane = Lane.RETRIES) -> Iterator[T]:
        """Iterates over a copy of the items of a lane."""
        return iter(tuple(self._lanes[lane]))

    def first_ahead(self, lane: Lane) -> T | None:
        """Returns the first item of a lane; None when it is empty."""
        return next(iter(self._lanes[lane]), None)

    def next_turn(self) -> T | None:
        """Returns the item whose turn it is, without removing it; None when no client has any."""
        for queue in self._turns.values():
            return queue.first()
        return None

    def take(self, client: str, item: T) -> None:
        """Removes an item that was served; its client's next turn comes after all others'."""
        if self.discard(client, item) and client in self._turns:
            self._turns[client] = self._turns.pop(client)

    def discard(self, client: str, item: T) -> bool:
        """Removes an item that gave up, wherever it is; returns whether it was there."""
        lane = next((lane for lane in self._lanes.values() if item in lane), None)
        if lane is not None:
            del lane[item]
        elif client not in self._turns or not self._turns[client].discard(item):
            return False
        elif not self._turns[client]:
            del self._turns[client]
        self._length -= 1
        return True
