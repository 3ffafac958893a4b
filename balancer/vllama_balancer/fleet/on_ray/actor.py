"""The body of the Ray actor: starts the worker server as a process on the actor's node and waits for its end.

A process of its own, as on one machine, so that vLLM finds the same conditions everywhere and a crash in native
code leaves the actor alive to tell about it. The process holds the read end of the actor's pipe and so ends with
the actor, however that ends: `ray stop`, a killed raylet, a lost node.

Seats on a real Ray cluster: one actor for each worker, which holds its GPUs and may be moved for ever.

The only module beside the driver that imports Ray. Calls of the actor carry orders and the news of a worker's end;
requests and tokens go straight from the balancer to the worker's gRPC server on its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, ActorPlacementGroupRemoved, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vllama_balancer.fleet.on_ray.messages import decode_spec
from vllama_balancer.fleet.on_ray.supervisor import ActorLost, Placed
from vllama_balancer.fleet.process import Launcher, crash_reason, worker_environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.process import WorkerProcess


class StandardOutput:
    """Puts what the worker prints into the actor's own log, where `ray logs` and the dashboard show it."""

    def line(self, worker: str, text: str) -> None:
        """Takes one line."""
        sys.stdout.write(f"[{worker}] {text}\n")
        sys.stdout.flush()


class WorkerHost:
    """Hosts one worker process at a time."""

    def __init__(self, node_address: str, environment: Mapping[str, str]) -> None:
        """Listens on the node's address, which the balancer must be able to reach."""
        self._node_address = node_address
        self._launcher = Launcher(StandardOutput(), environment)
        self._process: WorkerProcess | None = None
        _wake_up()

    async def start(self, plain_spec: dict[str, Any]) -> tuple[str, str]:
        """Starts the worker and returns its address and this node's name. Raises OSError."""
        if self._process is not None:
            # The answer of an earlier start never arrived: nobody knows of that worker.
            self._process.kill()
            await self._process.ended()
        spec = decode_spec(plain_spec)
        if not _has_weights_here(spec):
            spec = await _with_weights_of_this_node(spec)
        address = f"{_bracketed(self._node_address)}:{free_port(self._node_address)}"
        self._process = await self._launcher.start(spec, address)
        return address, socket.gethostname()

    async def ended(self) -> tuple[int, str]:
        """Waits for the worker's end; its exit status and what it said last."""
        if self._process is None:
            return 1, "it was not started"
        process = self._process
        status = await process.ended()
        return status, crash_reason(process.tail, status)

    async def stop(self, timeout_seconds: float) -> None:
        """Lets the worker drain and end."""
        if self._process is not None:
            await self._process.stop(timeout_seconds)


def free_port(host: str) -> int:
    """Finds a port of an address that nobody listens on; whoever loses the race for it is simply started again."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _has_weights_here(spec: WorkerSpec) -> bool:
    """Tells whether the weights lie where they do on the balancer's machine, as on a shared disk, or need no place."""
    given = Path(spec.model.argument)
    return spec.engine == "fake" or not given.is_absolute() or given.exists()


async def _with_weights_of_this_node(spec: WorkerSpec) -> WorkerSpec:
    """Finds the model by its name on this node, installing it if need be. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllama_balancer.models", "resolve", spec.model.names[0],
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    found = [line for line in out.decode(errors="replace").splitlines() if line.strip()]
    if process.returncode or not found:
        said = err.decode(errors="replace").strip().splitlines()
        raise OSError(f"its weights cannot be had on this node: {said[-1] if said else 'the resolver said nothing'}")
    return replace(spec, model=replace(spec.model, argument=found[-1].strip()))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wake_up() -> None:
    """Undoes the low priority that Ray gives its actors, where this user may: a worker serves, it does not crunch."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


GROUP_VARIABLE = "VLLAMA_RAY_PLACEMENT_GROUP"
"""Tells the worker in which placement group its engine may put the processes of its other GPUs."""
CALLS_AT_ONCE = 8
"""Calls of one actor that may wait side by side: one for the end, others for orders."""


@dataclass(frozen=True, slots=True)
class ResourceRequest:
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


class RayActorSlot:
    """One actor, and the placement group that holds the GPUs of a worker with several."""

    def __init__(self, demand: ResourceRequest) -> None:
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
        except ActorLost:
            await self.leave()
            self._reserve()
        self._may_be_dead = False

    async def _answer(self, call: Awaitable[Any]) -> Any:
        """Awaits a call of the actor. Raises ActorLost when it has gone, OSError for what the actor itself raised."""
        try:
            return await call
        except RayTaskError as error:
            raise OSError(f"{error.cause}") from error
        except RayError as error:
            self._may_be_dead = isinstance(error, ActorDiedError | ActorPlacementGroupRemoved)
            raise ActorLost(str(error).partition("\n")[0]) from error
