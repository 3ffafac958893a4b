"""The fleet as both front doors show it: workers, the queue, and the state of the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.workers.status import status_of
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.scheduler.scheduler import ModelScheduler
    from vllama_balancer.workers.pool import Pool


class PoolView:
    """The FleetView of a pool. Takes the number of waiting requests from a function.

    `models` is there where this process loads them.
    """

    def __init__(self, pool: Pool, waiting: Callable[[], int], models: ModelScheduler | None = None) -> None:
        self._pool = pool
        self._waiting = waiting
        self._models = models

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        fleet = fleet_pb2.ListWorkersResponse(
            workers=[status_of(worker) for worker in self._pool.workers()], queued_requests=self._waiting()
        )
        if self._models is not None:
            fleet.models.extend(self._models.statuses())
            fleet.loads_on_demand = self._models.loads_on_demand
        return fleet
