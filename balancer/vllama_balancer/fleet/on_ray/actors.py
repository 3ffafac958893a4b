"""Seats on a real Ray cluster: one actor for each worker, which holds its GPUs and may be moved for ever.

The only module beside the driver that imports Ray. Calls of the actor carry orders and the news of a worker's end;
requests and tokens go straight from the balancer to the worker's gRPC server on its node.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, ActorPlacementGroupRemoved, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vllama_balancer.fleet.on_ray.host import WorkerHost
from vllama_balancer.fleet.on_ray.seat import Placed, SeatLost
from vllama_balancer.fleet.sources import worker_environment

if TYPE_CHECKING:
    from collections.abc import Awaitable

GROUP_VARIABLE = "VLLAMA_RAY_PLACEMENT_GROUP"
"""Tells the worker in which placement group its engine may put the processes of its other GPUs."""
CALLS_AT_ONCE = 8
"""Calls of one actor that may wait side by side: one for the end, others for orders."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one worker needs."""

    gpus: int
    """GPUs of one worker; 0 on a cluster that computes on processors."""

    @property
    def words(self) -> str:
        """For people."""
        if not self.gpus:
            return "a node with 1 free CPU"
        return f"{self.gpus} free GPUs" if self.gpus > 1 else "a node with 1 free GPU"


class HostActor(WorkerHost):
    """A WorkerHost that knows its node."""

    def __init__(self, extra_environment: dict[str, str]) -> None:
        environment = worker_environment(os.environ) | extra_environment
        if GROUP_VARIABLE in extra_environment:
            # The engine asks Ray for its GPUs itself: that this actor holds none must not hide the node's.
            environment.pop("CUDA_VISIBLE_DEVICES", None)
            environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        super().__init__(ray.util.get_node_ip_address(), environment)


class ActorSeat:
    """One actor, and the placement group that holds the GPUs of a worker with several."""

    def __init__(self, demand: Demand) -> None:
        """Asks Ray for the resources; returns at once, also when no node has them."""
        self.needs = demand.words
        self._demand = demand
        self._group: Any = None
        self._actor: Any = None
        self._may_be_dead = False
        self._reserve()

    async def start(self, spec: dict[str, object]) -> Placed:
        """Starts the worker where Ray has put the actor."""
        await self._renew_if_dead()
        address, node = await self._answer(self._actor.start.remote(spec))
        return Placed(address, node)

    async def ended(self) -> tuple[int, str]:
        """Waits for the worker's end."""
        status, cause = await self._answer(self._actor.ended.remote())
        return status, cause

    async def stop(self, timeout_seconds: float) -> None:
        """Lets the worker drain and end."""
        await self._answer(self._actor.stop.remote(timeout_seconds))

    async def leave(self) -> None:
        """Gives actor and resources back."""
        with contextlib.suppress(RayError, ValueError):
            ray.kill(self._actor, no_restart=True)
        if self._group is not None:
            with contextlib.suppress(RayError, ValueError):
                remove_placement_group(self._group)

    def _reserve(self) -> None:
        options: dict[str, Any] = {
            "max_restarts": -1, "max_task_retries": 0, "max_concurrency": CALLS_AT_ONCE, "num_cpus": 0
        }  # fmt: skip
        environment: dict[str, str] = {}
        if self._demand.gpus > 1:
            self._group = placement_group([{"GPU": 1}] * self._demand.gpus, strategy="PACK")
            # The actor itself takes none of the group's GPUs: they are for the engine's own processes.
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
            environment[GROUP_VARIABLE] = self._group.id.hex()
        else:
            options["num_gpus" if self._demand.gpus else "num_cpus"] = 1
            # The fewer replicas a lost node takes with it, the better.
            options["scheduling_strategy"] = "SPREAD"
        self._actor = ray.remote(HostActor).options(**options).remote(environment)

    async def _renew_if_dead(self) -> None:
        """Asks anew when Ray will not bring the actor back: when somebody killed it, or removed its group."""
        if not self._may_be_dead:
            return
        try:
            # Of an actor that is being moved this waits for the new node.
            await self._answer(self._actor.__ray_ready__.remote())
        except SeatLost:
            await self.leave()
            self._reserve()
        self._may_be_dead = False

    async def _answer(self, call: Awaitable[Any]) -> Any:
        """Awaits a call of the actor. Raises SeatLost when it has gone, OSError for what the actor itself raised."""
        try:
            return await call
        except RayTaskError as error:
            raise OSError(f"{error.cause}") from error
        except RayError as error:
            self._may_be_dead = isinstance(error, ActorDiedError | ActorPlacementGroupRemoved)
            raise SeatLost(str(error).partition("\n")[0]) from error
