"""Admission: grants leases when workers have room, and keeps requests in one bounded, fair queue until then.

A lease is granted and counted in the same synchronous step, so free capacity cannot be promised twice. A waiter that is
cancelled at the moment of its grant gives the lease back.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.dispatch.fair_queue import FairQueue, Lane
from vllama_balancer.dispatch.trials import CALM_SECONDS
from vllama_balancer.errors import DeadlineExceeded, NoWorker, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.dispatch.placement_request import PlacementRequest
    from vllama_balancer.dispatch.placer import Placer
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool

RATE_WINDOW_SECONDS = 30.0
"""Time over which the service rate is averaged."""
MIN_RETRY_SECONDS = 1.0
"""Retry-After is whole seconds in HTTP."""
MAX_RETRY_SECONDS = 60.0
"""The load cannot be predicted further ahead."""
NO_WORKER_RETRY_SECONDS = 5.0
"""Retry-After while no worker serves the model."""


class AdmissionSettings(NamedTuple):
    """Limits of the queue."""

    max_queue: int = 512
    """Requests that may wait; more are refused at once."""
    no_worker_timeout_seconds: float = 30.0
    """How long a request without a deadline waits while no worker serves or starts."""
    recovery_timeout_seconds: float = 600.0
    """How long it waits while none serves but one may come back: longer than a model takes to load."""
    calm_seconds: float = CALM_SECONDS
    """How long no worker may have crashed before a request that was blamed for crashes is tried alone."""


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
        """Returns the rate; 0 before any request has ended."""
        self._decay()
        # Before a window's length has passed, the weights add up to less than a window.
        elapsed = max(self._at - self._began, 1.0)
        return self._count / (RATE_WINDOW_SECONDS * (1.0 - math.exp(-elapsed / RATE_WINDOW_SECONDS)))

    def _decay(self) -> None:
        now = self._clock()
        self._count *= math.exp((self._at - now) / RATE_WINDOW_SECONDS)
        self._at = now


class QueueTimeout:
    """How long one request waits for a worker; call `check` whenever `seconds` have passed.

    With a deadline, it waits until then. Without one, a queue in front of workers that serve needs no limit, because it
    moves. While no worker serves, it waits for `no_worker_timeout_seconds`, or for `recovery_timeout_seconds` if one
    may come back.
    """

    def __init__(
        self,
        pool: Pool,
        key: str,
        deadline: float | None,
        settings: AdmissionSettings,
        clock: Callable[[], float],
    ) -> None:
        """`key` is the model's."""
        self._pool = pool
        self._key = key
        self._deadline = deadline
        self._settings = settings
        self._clock = clock
        self._hopeless_since: float | None = None
        self._absent_since: float | None = None
        self._observe()

    def seconds(self) -> float:
        """Returns the time until the next check."""
        now = self._clock()
        if self._deadline is not None:
            return max(self._deadline - now, 0.0)
        return max(min([now + self._settings.no_worker_timeout_seconds, *self._ends()]) - now, 0.0)

    def check(self) -> None:
        """Raises NoWorker or DeadlineExceeded when the wait is over."""
        self._observe()
        now = self._clock()
        if self._deadline is None:
            if any(now >= end for end in self._ends()):
                raise _no_worker()
        elif now >= self._deadline:
            if self._absent_since is not None:
                raise _no_worker()
            raise DeadlineExceeded("the deadline passed while the request waited for a worker")

    def _ends(self) -> list[float]:
        """Returns when a wait without a deadline is over, in the present state of the pool."""
        settings, ends = self._settings, []
        if self._hopeless_since is not None:
            ends.append(self._hopeless_since + settings.no_worker_timeout_seconds)
        if self._absent_since is not None:
            ends.append(self._absent_since + settings.recovery_timeout_seconds)
        return ends

    def _observe(self) -> None:
        self._absent_since = self._since(self._absent_since, not self._pool.is_served(self._key))
        self._hopeless_since = self._since(self._hopeless_since, self._pool.is_hopeless(self._key))

    def _since(self, before: float | None, holds: bool) -> float | None:
        if not holds:
            return None
        return self._clock() if before is None else before


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
        self._queues: dict[str, FairQueue[_Waiter]] = {}
        self._waiting_first = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for a lease, retries included."""
        return sum(len(queue) for queue in self._queues.values())

    def raise_if_full(self, key: str) -> None:
        """Raises QueueFull if a new request for a model would meet it now."""
        if self._waiting_first < self._settings.max_queue:
            return
        queue = self._queues.get(key)
        if self._pool.has_room(key) and (queue is None or queue.next_turn() is None):
            return
        raise self._full()

    async def admit(self, request: PlacementRequest, deadline: float | None) -> Lease:
        """Waits for a lease; the caller must `release` it.

        Raises QueueFull at once when too many wait, DeadlineExceeded or NoWorker at the deadline, and NoWorker after
        the settings' timeouts while no worker serves. Cancelling it leaves the queue.
        """
        if deadline is not None and self._clock() >= deadline:
            raise DeadlineExceeded("the deadline had passed before the request was placed")
        if not self._must_queue(request) and (lease := self._placer.place(request)) is not None:
            return lease
        return await self._wait(self._join(request), deadline)

    def place_unmetered(self, request: PlacementRequest) -> Lease | None:
        """Takes a worker for a call that computes nothing, with or without room; None when none is available."""
        return self._placer.place_unmetered(request)

    def release(self, lease: Lease) -> None:
        """Releases a lease and grants the capacity to the next in the queue."""
        self._placer.release(lease)
        if not lease.is_unmetered:
            self._rate.ended()
        self.grant()

    def first_token(self, lease: Lease) -> None:
        """Records the first token of a lease; a retry, suspect or trial that waits for it may start now."""
        may_unblock = lease.uses_retry_budget or lease.is_suspect or self._placer.trials.is_any_waiting
        self._placer.first_token(lease)
        if may_unblock:
            self.grant()

    def underway(self, lease: Lease) -> None:
        """Records that a stream is far into its output; a trial ends with that."""
        if lease.is_trial:
            self._placer.trials.end(lease)
            self.grant()

    def grant(self) -> None:
        """Grants all free capacity, in the order of the queue."""
        for key in tuple(self._queues):
            queue = self._queues[key]
            self._grant_ahead(key, queue)
            self._grant_turns(queue)
            if not queue:
                del self._queues[key]

    def retry_after_seconds(self) -> float:
        """Estimates when the present queue will have been served."""
        rate = self._rate.per_second()
        wait = self.waiting / rate if rate > 0 else MIN_RETRY_SECONDS
        return min(max(math.ceil(wait), MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)

    def _must_queue(self, request: PlacementRequest) -> bool:
        """Returns whether another request waits for its turn; those ahead of all turns wait for other conditions."""
        queue = self._queues.get(request.key)
        return queue is not None and not request.is_retry and queue.next_turn() is not None

    def _join(self, request: PlacementRequest) -> _Waiter:
        if not request.is_retry and self._waiting_first >= self._settings.max_queue:
            raise self._full()
        waiter = _Waiter(request)
        queue = self._queues.setdefault(request.key, FairQueue())
        if request.is_retry:
            queue.push_ahead(waiter, _lane_of(request))
        else:
            queue.push(request.client, waiter, request.priority)
            self._waiting_first += 1
        return waiter

    def _full(self) -> QueueFull:
        self._metrics.queue_full()
        return QueueFull(
            f"the queue is full: {self._waiting_first} requests wait already",
            retry_after_seconds=self.retry_after_seconds(),
        )

    async def _wait(self, waiter: _Waiter, deadline: float | None) -> Lease:
        timeout = QueueTimeout(self._pool, waiter.request.key, deadline, self._settings, self._clock)
        try:
            while not waiter.grant.done():
                until_calm = self._seconds_to_calm(waiter.request)
                await asyncio.wait({waiter.grant}, timeout=min(timeout.seconds(), until_calm))
                if until_calm < math.inf:
                    self.grant()
                if not waiter.grant.done():
                    timeout.check()
        except BaseException:
            if waiter.grant.done() and waiter.grant.exception() is None:
                self.release(waiter.grant.result())
            raise
        finally:
            self._leave(waiter)
        return waiter.grant.result()

    def _seconds_to_calm(self, request: PlacementRequest) -> float:
        """Returns when a trial has to be granted without another event; infinite for other requests."""
        seconds = self._placer.trials.seconds_to_calm(request) if request.needs_trial else 0.0
        return seconds or math.inf

    def _leave(self, waiter: _Waiter) -> None:
        """Removes a waiter that was not granted; one that was has left the queue by then."""
        waiter.grant.cancel()
        queue = self._queues.get(waiter.request.key)
        if queue is not None and queue.discard(waiter.request.client, waiter):
            self._left(waiter)
            if not queue:
                del self._queues[waiter.request.key]
        if self._placer.trials.holds(waiter.request):
            self._placer.trials.give_up(waiter.request)
            self.grant()

    def _left(self, waiter: _Waiter) -> None:
        if not waiter.request.is_retry:
            self._waiting_first -= 1

    def _grant_ahead(self, key: str, queue: FairQueue[_Waiter]) -> None:
        """Tries those ahead: retries differ in what they exclude and whether they need the budget."""
        for waiter in queue.ahead():
            self._grant(queue, waiter)
        if queue.first_ahead(Lane.SUSPECTS) is not None:
            self._grant_suspects(key, queue)
        if queue.first_ahead(Lane.TRIALS) is not None:
            self._grant_trials(queue)

    def _grant_suspects(self, key: str, queue: FairQueue[_Waiter]) -> None:
        for waiter in queue.ahead(Lane.SUSPECTS):
            if not self._placer.has_room_for_suspect(key):
                return
            self._grant(queue, waiter)

    def _grant_trials(self, queue: FairQueue[_Waiter]) -> None:
        for waiter in queue.ahead(Lane.TRIALS):
            if not self._grant(queue, waiter) and not self._placer.trials.holds(waiter.request):
                return  # it could reserve no worker, and neither can those behind it

    def _grant_turns(self, queue: FairQueue[_Waiter]) -> None:
        while (waiter := queue.next_turn()) is not None and self._grant(queue, waiter):
            pass

    def _place(self, waiter: _Waiter) -> bool:
        """Sets a waiter's lease, or the error of its own placement, which must not reach the caller."""
        try:
            lease = self._placer.place(waiter.request)
        except Exception as error:
            waiter.grant.set_exception(error)
            return True
        if lease is not None:
            waiter.grant.set_result(lease)
        return lease is not None

    def _grant(self, queue: FairQueue[_Waiter], waiter: _Waiter) -> bool:
        """Serves a waiter if there is room; returns whether it has left the queue."""
        if not waiter.grant.done() and not self._place(waiter):
            return False
        queue.take(waiter.request.client, waiter)
        self._left(waiter)
        return True


def _lane_of(request: PlacementRequest) -> Lane:
    if request.needs_trial:
        return Lane.TRIALS
    return Lane.SUSPECTS if request.is_suspect else Lane.RETRIES


def _no_worker() -> NoWorker:
    return NoWorker("no worker serves the model now; try again later", retry_after_seconds=NO_WORKER_RETRY_SECONDS)
