"""A queue in which clients take turns: each one's requests in their order, one client after the other.

One client that sends a hundred requests delays another's first one by one turn, not by a hundred.
A priority orders a client's own requests only: nobody gets ahead of others by asking for it.
Items that were served before and come back (a retry, a stream that moves) go ahead of all turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class _Line(Generic[T]):
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
        self._ahead: dict[T, None] = {}
        # Clients in the order of their turns.
        self._turns: dict[str, _Line[T]] = {}
        self._length = 0

    def __len__(self) -> int:
        """Counts the items."""
        return self._length

    def push(self, client: str, item: T, priority: int = 0) -> None:
        """Adds an item behind the client's others of its priority; lower priorities come first."""
        self._turns.setdefault(client, _Line()).push(item, priority)
        self._length += 1

    def push_ahead(self, item: T) -> None:
        """Adds an item ahead of all turns, behind those that are there."""
        self._ahead[item] = None
        self._length += 1

    def ahead(self) -> Iterator[T]:
        """Iterates over a copy of the items ahead of all turns."""
        return iter(tuple(self._ahead))

    def next_turn(self) -> T | None:
        """Shows the item whose turn it is, leaving it there; None when no client has any."""
        for line in self._turns.values():
            return line.first()
        return None

    def take(self, client: str, item: T) -> None:
        """Removes an item that was served; its client's next turn comes after everybody else's."""
        if self.discard(client, item) and client in self._turns:
            self._turns[client] = self._turns.pop(client)

    def discard(self, client: str, item: T) -> bool:
        """Removes an item that gave up, wherever it is; tells whether it was there."""
        if item in self._ahead:
            del self._ahead[item]
        elif client not in self._turns or not self._turns[client].discard(item):
            return False
        elif not self._turns[client]:
            del self._turns[client]
        self._length -= 1
        return True
