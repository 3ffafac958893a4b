"""The body of the Ray actor: starts the worker server as a process on the actor's node and waits for its end.

A process of its own, as on one machine, so that vLLM finds the same conditions everywhere and a crash in native
code leaves the actor alive to tell about it. The process holds the read end of the actor's pipe and so ends with
the actor, however that ends: `ray stop`, a killed raylet, a lost node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama_balancer.fleet.cause import cause_of
from vllama_balancer.fleet.on_ray.wire import spec_of
from vllama_balancer.fleet.process import Launcher

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        spec = spec_of(plain_spec)
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
        return status, cause_of(process.tail, status)

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
