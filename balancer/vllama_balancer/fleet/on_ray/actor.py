"""Slots on a real Ray cluster: one actor per worker, which holds its GPUs and runs the worker as a process on its node.

Only this module and the driver import Ray. Calls of the actor carry commands and the end of the worker; requests and
tokens go directly from the balancer to the worker's gRPC server on its node.

The worker is a process of its own, as on one machine: vLLM finds the same conditions everywhere, and a crash in native
code leaves the actor alive to report it. The process holds the read end of the actor's pipe and so ends with the
actor, however that ends: `ray stop`, a killed raylet, a lost node.
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

from vllama_balancer.fleet.on_ray.supervisor import ActorLost, Placed
from vllama_balancer.fleet.process import Exit, Launcher, worker_environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.process import WorkerProcess

GROUP_VARIABLE = "VLLAMA_RAY_PLACEMENT_GROUP"
"""Names, for the worker, the placement group in which its engine puts the processes of its other GPUs."""
CONCURRENT_CALLS = 8
"""Calls of one actor that may wait side by side: one for the end, others for commands."""


class StandardOutput:
    """Puts what the worker prints into the actor's own log, where `ray logs` and the dashboard show it."""

    def line(self, worker: str, text: str) -> None:
        sys.stdout.write(f"[{worker}] {text}\n")
        sys.stdout.flush()


class WorkerHost:
    """Runs one worker process at a time, on the node of the actor."""

    def __init__(self, node_address: str, environment: Mapping[str, str]) -> None:
        """Workers listen on the node's address, which the balancer must be able to reach."""
        self._node_address = node_address
        self._launcher = Launcher(StandardOutput(), environment)
        self._process: WorkerProcess | None = None
        _raise_priority()

    async def start(self, spec: WorkerSpec) -> tuple[str, str]:
        """Starts the worker and returns its address and this node's name. Raises OSError."""
        if self._process is not None:
            # The reply to an earlier start was lost: that worker is not in use.
            self._process.kill()
            await self._process.ended()
        if not _has_weights_here(spec):
            spec = await _with_weights_of_this_node(spec)
        address = f"{_bracketed(self._node_address)}:{free_port(self._node_address)}"
        self._process = await self._launcher.start(spec, address)
        return address, socket.gethostname()

    async def ended(self) -> Exit:
        """Waits for the worker's end and returns it."""
        if self._process is None:
            return Exit(1, "it was not started")
        return await self._process.exited()

    async def stop(self, timeout_seconds: float) -> None:
        """Drains and ends the worker."""
        if self._process is not None:
            await self._process.stop(timeout_seconds)


class HostActor(WorkerHost):
    """The WorkerHost of a Ray actor: with the address and the environment of its node."""

    def __init__(self, extra_environment: dict[str, str]) -> None:
        environment = worker_environment(os.environ) | extra_environment
        if GROUP_VARIABLE in extra_environment:
            # The engine asks Ray for its GPUs itself: that this actor holds none must not hide the node's.
            environment.pop("CUDA_VISIBLE_DEVICES", None)
            environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        super().__init__(ray.util.get_node_ip_address(), environment)


def free_port(host: str) -> int:
    """Returns a free port of an address; a worker that loses the race for it is restarted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _has_weights_here(spec: WorkerSpec) -> bool:
    """Returns True if the weights have the same path as on the balancer's machine (a shared disk), or need no path."""
    given = Path(spec.model.argument)
    return spec.engine == "fake" or not given.is_absolute() or given.exists()


async def _with_weights_of_this_node(spec: WorkerSpec) -> WorkerSpec:
    """Resolves the model by its name on this node, installing it if need be. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllama_balancer.models", "resolve", spec.model.names[0],
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    found = [line for line in out.decode(errors="replace").splitlines() if line.strip()]
    if process.returncode or not found:
        errors = err.decode(errors="replace").strip().splitlines()
        cause = errors[-1] if errors else "the resolver said nothing"
        raise OSError(f"its weights cannot be had on this node: {cause}")
    return replace(spec, model=replace(spec.model, argument=found[-1].strip()))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _raise_priority() -> None:
    """Undoes the low priority that Ray gives its actors, where this user may: a worker serves requests."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """Resources that one worker needs."""

    gpus: int
    """GPUs of one worker; 0 on a cluster that computes on processors."""

    @property
    def words(self) -> str:
        """The request in words, for messages."""
        if not self.gpus:
            return "a node with 1 free CPU"
        return f"{self.gpus} free GPUs" if self.gpus > 1 else "a node with 1 free GPU"


class RayActorSlot:
    """An ActorSlot: one actor, and for a worker with several GPUs the placement group that holds them."""

    def __init__(self, request: ResourceRequest) -> None:
        """Asks Ray for the resources; returns at once, even if no node has them."""
        self.needs = request.words
        self._request = request
        self._group: Any = None
        self._actor: Any = None
        self._may_be_dead = False
        self._reserve()

    async def start(self, spec: WorkerSpec) -> Placed:
        await self._renew_if_dead()
        address, node = await self._answer(self._actor.start.remote(spec))
        return Placed(address, node)

    async def ended(self) -> Exit:
        return Exit(*await self._answer(self._actor.ended.remote()))

    async def stop(self, timeout_seconds: float) -> None:
        await self._answer(self._actor.stop.remote(timeout_seconds))

    async def leave(self) -> None:
        with contextlib.suppress(RayError, ValueError):
            ray.kill(self._actor, no_restart=True)
        if self._group is not None:
            with contextlib.suppress(RayError, ValueError):
                remove_placement_group(self._group)

    def _reserve(self) -> None:
        options: dict[str, Any] = {
            "max_restarts": -1, "max_task_retries": 0, "max_concurrency": CONCURRENT_CALLS, "num_cpus": 0
        }  # fmt: skip
        environment: dict[str, str] = {}
        if self._request.gpus > 1:
            self._group = placement_group([{"GPU": 1}] * self._request.gpus, strategy="PACK")
            # The actor itself takes none of the group's GPUs: they are for the engine's own processes.
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
            environment[GROUP_VARIABLE] = self._group.id.hex()
        else:
            options["num_gpus" if self._request.gpus else "num_cpus"] = 1
            # Spread: a lost node takes fewer replicas with it.
            options["scheduling_strategy"] = "SPREAD"
        self._actor = ray.remote(HostActor).options(**options).remote(environment)

    async def _renew_if_dead(self) -> None:
        """Reserves anew if Ray will not restart the actor: when it was killed, or its group removed."""
        if not self._may_be_dead:
            return
        try:
            # For an actor that is being moved, this waits for the new node.
            await self._answer(self._actor.__ray_ready__.remote())
        except ActorLost:
            await self.leave()
            self._reserve()
        self._may_be_dead = False

    async def _answer(self, call: Awaitable[Any]) -> Any:
        """Awaits a call of the actor. Raises ActorLost if that has gone, OSError for what the actor itself raised."""
        try:
            return await call
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, OSError) else OSError(f"{error.cause}") from error
        except RayError as error:
            self._may_be_dead = isinstance(error, ActorDiedError | ActorPlacementGroupRemoved)
            raise ActorLost(str(error).partition("\n")[0]) from error
