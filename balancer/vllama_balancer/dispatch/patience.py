"""How long a request waits for a worker: to its deadline, and without one for as long as there is reason to.

A queue in front of workers that serve moves on, so it needs no bound in time. While none serves it does not move:
then a request is told so after a while, soon when nobody can be expected, later when somebody may come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.errors import DeadlineExceeded, NoWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.dispatch.admission import AdmissionSettings
    from vllama_balancer.workers.pool import Pool

COME_BACK_SECONDS = 5.0
"""When a fleet without any worker is worth another try."""


class Patience:
    """One request's wait. `look` whenever `seconds` have passed."""

    def __init__(
        self,
        pool: Pool,
        key: str,
        deadline: float | None,
        settings: AdmissionSettings,
        clock: Callable[[], float],
    ) -> None:
        """Waits for a worker of the model with that key."""
        self._pool = pool
        self._key = key
        self._deadline = deadline
        self._settings = settings
        self._clock = clock
        self._hopeless_since: float | None = None
        self._absent_since: float | None = None
        self._notice()

    def seconds(self) -> float:
        """Time until the next look."""
        now = self._clock()
        if self._deadline is not None:
            return max(self._deadline - now, 0.0)
        return max(min([now + self._settings.no_worker_patience_seconds, *self._ends()]) - now, 0.0)

    def look(self) -> None:
        """Raises NoWorker or DeadlineExceeded when there is no more reason to wait."""
        self._notice()
        now = self._clock()
        if self._deadline is None:
            if any(now >= end for end in self._ends()):
                raise _no_worker()
        elif now >= self._deadline:
            if self._absent_since is not None:
                raise _no_worker()
            raise DeadlineExceeded("the deadline passed while the request waited for a worker")

    def _ends(self) -> list[float]:
        """When a wait without a deadline is over, as things stand."""
        settings, ends = self._settings, []
        if self._hopeless_since is not None:
            ends.append(self._hopeless_since + settings.no_worker_patience_seconds)
        if self._absent_since is not None:
            ends.append(self._absent_since + settings.absence_patience_seconds)
        return ends

    def _notice(self) -> None:
        self._absent_since = self._since(self._absent_since, not self._pool.is_served(self._key))
        self._hopeless_since = self._since(self._hopeless_since, self._pool.is_hopeless(self._key))

    def _since(self, before: float | None, holds: bool) -> float | None:
        """Tells since when something holds, as far as it was looked at."""
        if not holds:
            return None
        return self._clock() if before is None else before


def _no_worker() -> NoWorker:
    return NoWorker("no worker serves the model now; try again later", retry_after_seconds=COME_BACK_SECONDS)
