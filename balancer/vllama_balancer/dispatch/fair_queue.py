"""A queue in which clients take turns: each one's requests in their order, one client after the other.

One client that sends a hundred requests delays another's first one by one turn, not by a hundred.
Items that were served before and come back (a retry, a stream that moves) go ahead of all turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Ordered by turns; every operation but iteration takes constant time."""

    def __init__(self) -> None:
        self._ahead: dict[T, None] = {}
        # Clients in the order of their turns, each with its items in order.
        self._turns: dict[str, dict[T, None]] = {}
        self._length = 0

    def __len__(self) -> int:
        """Counts the items."""
        return self._length

    def push(self, client: str, item: T) -> None:
        """Adds an item behind the client's others."""
        self._turns.setdefault(client, {})[item] = None
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
        for items in self._turns.values():
            return next(iter(items))
        return None

    def take(self, client: str, item: T) -> None:
        """Removes an item that was served; its client's next turn comes after everybody else's."""
        if self.discard(client, item) and client in self._turns:
            self._turns[client] = self._turns.pop(client)

    def discard(self, client: str, item: T) -> bool:
        """Removes an item that gave up, wherever it is; tells whether it was there."""
        items = self._ahead if item in self._ahead else self._turns.get(client, {})
        if item not in items:
            return False
        del items[item]
        self._length -= 1
        if items is not self._ahead and not items:
            del self._turns[client]
        return True
