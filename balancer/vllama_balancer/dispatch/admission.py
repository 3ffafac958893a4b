"""Lets a request in when a worker has room, and keeps it in one bounded, fair queue until then.

A place is granted and reserved in the same synchronous step, so a place that falls free cannot be
promised twice; a waiter that is cancelled at the very moment of its grant gives the place back.

How long a request waits for a worker: to its deadline, and without one for as long as there is reason to.

A queue in front of workers that serve moves on, so it needs no bound in time. While none serves it does not move:
then a request is told so after a while, soon when nobody can be expected, later when somebody may come back.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.dispatch.fair_queue import FairQueue
from vllama_balancer.errors import DeadlineExceeded, NoWorker, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.dispatch.placer import PlacementRequest, Placer
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool


RATE_WINDOW_SECONDS = 30.0
"""Time over which the service rate is averaged."""
SHORTEST_RETRY_SECONDS = 1.0
"""Retry-After is whole seconds in HTTP."""
LONGEST_RETRY_SECONDS = 60.0
"""Nobody knows the load later than that."""


class AdmissionSettings(NamedTuple):
    """Bounds of the queue."""

    max_queue: int = 512
    """Requests that may wait; more are refused at once."""
    no_worker_timeout_seconds: float = 30.0
    """How long a request without a deadline waits while no worker serves or starts."""
    recovery_timeout_seconds: float = 600.0
    """How long it waits while none serves but one may come back: longer than a model takes to load."""


class ServiceRate:
    """Requests that end per second, averaged over a sliding window with exponential weights."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._count = 0.0
        self._at = clock()
        self._began = self._at

    def ended(self) -> None:
        """Counts a request that has ended."""
        self._decay()
        self._count += 1.0

    def per_second(self) -> float:
        """The rate; 0 before anything has ended."""
        self._decay()
        # Before a window's length has passed, the weights add up to less than a window.
        elapsed = max(self._at - self._began, 1.0)
        return self._count / (RATE_WINDOW_SECONDS * (1.0 - math.exp(-elapsed / RATE_WINDOW_SECONDS)))

    def _decay(self) -> None:
        now = self._clock()
        self._count *= math.exp((self._at - now) / RATE_WINDOW_SECONDS)
        self._at = now


@dataclass(slots=True, eq=False)
class _Waiter:
    request: PlacementRequest
    grant: asyncio.Future[Lease] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """The queue in front of the workers."""

    def __init__(
        self,
        pool: Pool,
        placer: Placer,
        metrics: Metrics,
        settings: AdmissionSettings,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._placer = placer
        self._metrics = metrics
        self._settings = settings
        self._clock = clock
        self._rate = ServiceRate(clock)
        self._lines: dict[str, FairQueue[_Waiter]] = {}
        self._waiting_first = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a place, returning ones included."""
        return sum(len(line) for line in self._lines.values())

    def expect_room(self, key: str) -> None:
        """Raises QueueFull when a new request for a model would meet it now."""
        if self._waiting_first < self._settings.max_queue:
            return
        line = self._lines.get(key)
        if self._pool.has_room(key) and (line is None or line.next_turn() is None):
            return
        raise self._full()

    async def admit(self, request: PlacementRequest, deadline: float | None) -> Lease:
        """Waits for a place; the caller must `release` it.

        Raises QueueFull at once when too many wait, DeadlineExceeded or NoWorker at the deadline,
        and NoWorker after some patience while nobody could serve. Cancelling it leaves the queue.
        """
        if deadline is not None and self._clock() >= deadline:
            raise DeadlineExceeded("the deadline had passed before the request was placed")
        if not self._is_anybody_before(request) and (lease := self._placer.place(request)) is not None:
            return lease
        return await self._wait(self._join(request), deadline)

    def place_unmetered(self, request: PlacementRequest) -> Lease | None:
        """Takes a worker for a call that computes nothing, with or without room; None when none is available."""
        return self._placer.place_unmetered(request)

    def release(self, lease: Lease) -> None:
        """Takes a place back and grants it to whoever is next."""
        self._placer.release(lease)
        if not lease.is_unmetered:
            self._rate.ended()
        self.grant_places()

    def first_token(self, lease: Lease) -> None:
        """Notes the first token of a lease; a retry or a suspect that waits for just this may start now."""
        somebody_waited = lease.uses_retry_budget or lease.is_suspect
        self._placer.first_token(lease)
        if somebody_waited:
            self.grant_places()

    def grant_places(self) -> None:
        """Grants every place that is free, in the order of the queue."""
        for key in tuple(self._lines):
            line = self._lines[key]
            self._grant_ahead(line)
            self._grant_turns(line)
            if not line:
                del self._lines[key]

    def retry_after_seconds(self) -> float:
        """Estimates when the present queue will have been served."""
        rate = self._rate.per_second()
        wait = self.waiting / rate if rate > 0 else SHORTEST_RETRY_SECONDS
        return min(max(math.ceil(wait), SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)

    def _is_anybody_before(self, request: PlacementRequest) -> bool:
        """Tells whether someone waits for a turn; those ahead of all turns wait for something of their own."""
        line = self._lines.get(request.key)
        return line is not None and not request.is_retry and line.next_turn() is not None

    def _join(self, request: PlacementRequest) -> _Waiter:
        if not request.is_retry and self._waiting_first >= self._settings.max_queue:
            raise self._full()
        waiter = _Waiter(request)
        line = self._lines.setdefault(request.key, FairQueue())
        if request.is_retry:
            line.push_ahead(waiter)
        else:
            line.push(request.client, waiter, request.priority)
            self._waiting_first += 1
        return waiter

    def _full(self) -> QueueFull:
        self._metrics.queue_full()
        return QueueFull(
            f"the queue is full: {self._waiting_first} requests wait already",
            retry_after_seconds=self.retry_after_seconds(),
        )

    async def _wait(self, waiter: _Waiter, deadline: float | None) -> Lease:
        patience = QueueTimeout(self._pool, waiter.request.key, deadline, self._settings, self._clock)
        try:
            while not waiter.grant.done():
                await asyncio.wait({waiter.grant}, timeout=patience.seconds())
                if not waiter.grant.done():
                    patience.look()
        except BaseException:
            if waiter.grant.done() and waiter.grant.exception() is None:
                self.release(waiter.grant.result())
            raise
        finally:
            self._leave(waiter)
        return waiter.grant.result()

    def _leave(self, waiter: _Waiter) -> None:
        """Removes a waiter that was not granted; one that was has left the queue by then."""
        waiter.grant.cancel()
        line = self._lines.get(waiter.request.key)
        if line is not None and line.discard(waiter.request.client, waiter):
            self._left(waiter)
            if not line:
                del self._lines[waiter.request.key]

    def _left(self, waiter: _Waiter) -> None:
        if not waiter.request.is_retry:
            self._waiting_first -= 1

    def _grant_ahead(self, line: FairQueue[_Waiter]) -> None:
        """Tries every one ahead: they differ in whom they exclude and whether they need the budget."""
        for waiter in line.ahead():
            self._grant(line, waiter)

    def _grant_turns(self, line: FairQueue[_Waiter]) -> None:
        while (waiter := line.next_turn()) is not None and self._grant(line, waiter):
            pass

    def _place(self, waiter: _Waiter) -> bool:
        """Gives a waiter a place, or the error that its own placement met: it is nobody else's."""
        try:
            lease = self._placer.place(waiter.request)
        except Exception as error:
            waiter.grant.set_exception(error)
            return True
        if lease is not None:
            waiter.grant.set_result(lease)
        return lease is not None

    def _grant(self, line: FairQueue[_Waiter], waiter: _Waiter) -> bool:
        """Serves a waiter if there is room; tells whether it is out of the way."""
        if not waiter.grant.done() and not self._place(waiter):
            return False
        line.take(waiter.request.client, waiter)
        self._left(waiter)
        return True


NO_WORKER_RETRY_SECONDS = 5.0
"""When a fleet without any worker is worth another try."""


class QueueTimeout:
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
        return max(min([now + self._settings.no_worker_timeout_seconds, *self._ends()]) - now, 0.0)

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
            ends.append(self._hopeless_since + settings.no_worker_timeout_seconds)
        if self._absent_since is not None:
            ends.append(self._absent_since + settings.recovery_timeout_seconds)
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
    return NoWorker("no worker serves the model now; try again later", retry_after_seconds=NO_WORKER_RETRY_SECONDS)
