"""Limits how many retries run at once, so that failing workers do not multiply the load on the others.

Counts retries of requests that a worker answered with an error, until their first token. A retry that finds the budget
used up waits in the queue instead of failing. Requests of a worker that crashed or left are not counted: each of them
frees a slot as well, and admission limits the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET_SHARE = 0.10
"""Share of the requests in flight that may be retries."""
MIN_BUDGET = 3
"""Retries allowed however little is in flight."""


class RetryBudget:
    """Counts running retries."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        """`in_flight` returns the number of requests in flight."""
        self._in_flight = in_flight
        self.running = 0
        """Retries that have no first token yet."""

    @property
    def limit(self) -> int:
        """Retries that may run now."""
        return max(int(BUDGET_SHARE * self._in_flight()), MIN_BUDGET)

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
