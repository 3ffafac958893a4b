"""Workers on this machine: a private directory of sockets, and one supervisor for each worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from vllama_balancer.fleet.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.process import Launcher
    from vllama_balancer.fleet.restarts import RestartSettings

_PREFIX = "vllama-"


class LocalFleet:
    """Starts, watches, restarts and ends local workers: a FleetSource and a FleetControl.

    `close` must be awaited at the end; after it nothing that a worker has started is left.
    """

    def __init__(
        self,
        launcher: Launcher,
        settings: RestartSettings,
        *,
        drain_seconds: float,
        runtime_directory: Path,
    ) -> None:
        self._launcher = launcher
        self._settings = settings
        self._drain_seconds = drain_seconds
        self._directory = private_directory(runtime_directory)
        self._outbox: asyncio.Queue[FleetEvent] = asyncio.Queue()
        self._supervisors: dict[str, tuple[Supervisor, asyncio.Task[None]]] = {}

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields what happens to the workers, for one reader."""
        while True:
            yield await self._outbox.get()

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        """Starts a worker, of a name that is not in use; one that gives up soon does not try a failed start again."""
        if spec.name in self._supervisors:
            raise ValueError(f"{spec.name} runs already")
        socket = self._directory / f"{spec.name}.sock"
        settings = replace(self._settings, most_failed_starts=1) if fail_fast else self._settings
        supervisor = Supervisor(spec, socket, self._outbox, self._launcher, settings)
        task = asyncio.create_task(supervisor.run(), name=f"supervisor of {spec.name}")
        self._supervisors[spec.name] = (supervisor, task)

    def specs(self) -> Sequence[WorkerSpec]:
        """Lists the workers that are kept alive."""
        return [supervisor.spec for supervisor, _ in self._supervisors.values()]

    def owns(self, name: str) -> bool:
        """Tells whether this fleet keeps that worker."""
        return name in self._supervisors

    async def restart(self, name: str) -> None:
        """Ends the worker's process and starts it again; returns when the new process runs."""
        await self._supervisors[name][0].restart(self._drain_seconds)

    async def retire(self, name: str) -> None:
        """Ends the worker for good; returns when nothing of it is left. One that has left already is no error."""
        if name not in self._supervisors:
            return
        supervisor, task = self._supervisors[name]
        await supervisor.stop(self._drain_seconds)
        await task
        # Only now: until it has ended, `close` has to end it as well.
        self._supervisors.pop(name, None)

    async def close(self, drain_seconds: float | None = None) -> None:
        """Drains and ends all workers at once."""
        seconds = self._drain_seconds if drain_seconds is None else drain_seconds
        leaving = [supervisor.stop(seconds) for supervisor, _ in self._supervisors.values()]
        tasks = [task for _, task in self._supervisors.values()]
        try:
            await asyncio.gather(*leaving)
            await asyncio.gather(*tasks)
        finally:
            self.kill()
            self.clear()

    def clear(self) -> None:
        """Removes the directory of sockets, for a fleet that never started a worker or has ended them all."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """Kills all workers now; `close` is still due."""
        for supervisor, _ in self._supervisors.values():
            supervisor.kill()


def private_directory(parent: Path) -> Path:
    """Makes a directory that only this user can enter, and clears those of processes that were killed."""
    for old in parent.glob(f"{_PREFIX}[0-9]*-*"):
        owner = old.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)) and old.stat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)
    # mkdtemp creates it with mode 0700.
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
