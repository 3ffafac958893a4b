"""The fleet as both front doors show it: workers, the queue, and the models that come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vllama_balancer.workers.worker_status import status_of
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.workers.pool import Pool


class ModelsView(Protocol):
    """Knows where models stand."""

    @property
    def loads_on_demand(self) -> bool:
        """Whether a request for a model that is not loaded waits while it is being loaded."""
        ...

    def statuses(self) -> Sequence[fleet_pb2.ModelStatus]:
        """Lists the models that are loaded, being loaded, or asleep."""
        ...


class PoolView:
    """Shows the fleet as it is now: a FleetView."""

    def __init__(self, pool: Pool, waiting: Callable[[], int], models: ModelsView | None = None) -> None:
        """Takes the number of waiting requests from a function; `models` where they are loaded by this process."""
        self._pool = pool
        self._waiting = waiting
        self._models = models

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Lists every worker and model."""
        fleet = fleet_pb2.ListWorkersResponse(
            workers=[status_of(worker) for worker in self._pool.workers()], queued_requests=self._waiting()
        )
        if self._models is not None:
            fleet.models.extend(self._models.statuses())
            fleet.loads_on_demand = self._models.loads_on_demand
        return fleet
