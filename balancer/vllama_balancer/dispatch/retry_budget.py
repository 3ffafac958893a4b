"""Bounds how many retries run at once, so that failing workers do not multiply the load on the others.

It counts retries of requests that a worker answered with an error, until their first token. A
retry that finds the budget used up waits its turn instead of failing. Requests of a worker that
died or left are not counted: each of them leaves a place as well, and admission bounds the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET_SHARE = 0.10
"""Share of the requests in flight that may be retries."""
LEAST_BUDGET = 3
"""Retries allowed however little is in flight."""


class RetryBudget:
    """Counts running retries."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """Takes the number of requests in flight from the given function."""
        self._in_flight = in_flight
        self.running = 0
        """Retries that have no first token yet."""

    @property
    def limit(self) -> int:
        """Retries that may run now."""
        return max(int(BUDGET_SHARE * self._in_flight()), LEAST_BUDGET)

    @property
    def has_room(self) -> bool:
        """Whether one more may start."""
        return self.running < self.limit

    def take(self) -> None:
        """Counts a retry that starts."""
        self.running += 1

    def give_back(self) -> None:
        """Counts a retry that has its first token or has ended."""
        self.running -= 1
