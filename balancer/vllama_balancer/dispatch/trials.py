"""Trials: a request that was blamed for crashes is tried once more, where no other request can be the cause.

A trial reserves a worker: nothing else is placed there, and the trial begins when every other stream there has output.
It ends when the suspect is far into its own. It also waits until no worker of the model has crashed for a while,
because the workers of a dying machine crash one after the other. If the worker crashes all the same, the request is the
cause.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllama_balancer.dispatch.placement_request import PlacementRequest
    from vllama_balancer.workers.incarnation import Incarnation
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

CALM_SECONDS = 10.0
"""How long no worker of the model may have crashed before a trial."""
MAX_CALM_WAIT = 6
"""A fleet that is never calm delays a trial by this many times the calm while at most."""
RESERVED_SHARE = 0.5
"""Share of a model's workers that trials may reserve at once; one in any case."""


class Trials:
    """Reserves workers for suspects."""

    def __init__(self, pool: Pool, calm_seconds: float) -> None:
        self._pool = pool
        self._calm_seconds = calm_seconds
        self._waiting: dict[PlacementRequest, Incarnation] = {}
        self._running: dict[Lease, Incarnation] = {}

    def holds(self, request: PlacementRequest) -> bool:
        """Returns whether a worker is reserved for a request that waits."""
        return request in self._waiting

    @property
    def is_any_waiting(self) -> bool:
        """Whether a reserved worker waits for its other streams."""
        return bool(self._waiting)

    def seconds_to_calm(self, request: PlacementRequest) -> float:
        """Returns how long a trial has to wait for calm; 0 when it may begin."""
        last_crash = max((worker.crashed_at for worker in self._pool.serving(request.key)), default=-math.inf)
        now = self._pool.now()
        ends = min(last_crash, request.blamed_at + (MAX_CALM_WAIT - 1) * self._calm_seconds) + self._calm_seconds
        return max(ends - now, 0.0)

    def worker_for(self, request: PlacementRequest) -> Worker | None:
        """Returns the worker on which a trial can begin now; None while it has to wait."""
        worker = self._reserved(request) or self._reserve(request)
        if worker is None or worker.incarnation.load.is_full:
            return None
        if worker.incarnation.has_rival(had_output=request.has_output):
            return None
        return worker

    def begin(self, request: PlacementRequest, lease: Lease) -> None:
        """Turns a request's reservation into that of its lease."""
        lease.is_trial = True
        self._running[lease] = self._waiting.pop(request)

    def end(self, lease: Lease) -> None:
        """Opens the worker of a trial again; no effect for other leases."""
        if lease.is_trial and (incarnation := self._running.pop(lease, None)) is not None:
            incarnation.load.keep_for_one(False)

    def give_up(self, request: PlacementRequest) -> None:
        """Drops the reservation of a request that waits no longer; harmless without one."""
        if (incarnation := self._waiting.pop(request, None)) is not None:
            incarnation.load.keep_for_one(False)

    def _reserved(self, request: PlacementRequest) -> Worker | None:
        """Returns the worker that is reserved for a request; a reservation ends with its incarnation."""
        incarnation = self._waiting.get(request)
        for worker in self._pool.available(request.key) if incarnation is not None else ():
            if worker.incarnation is incarnation:
                return worker
        self.give_up(request)
        return None

    def _reserve(self, request: PlacementRequest) -> Worker | None:
        workers = self._pool.available(request.key)
        free = [worker for worker in workers if not worker.incarnation.load.is_reserved]
        if len(workers) - len(free) >= max(1, int(RESERVED_SHARE * len(workers))) or self.seconds_to_calm(request):
            return None
        if not free:
            return None
        worker = min(free, key=_disturbance)
        worker.incarnation.load.keep_for_one(True)
        self._waiting[request] = worker.incarnation
        return worker


def _disturbance(worker: Worker) -> tuple[bool, bool, int]:
    """Orders workers by how soon they are free for a trial, and how little else could crash them."""
    load = worker.incarnation.load
    return load.is_full, bool(worker.incarnation.cancelled), load.streams
