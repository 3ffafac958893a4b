"""Workers on this machine: a private directory of sockets, and one supervisor for each worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.restart_policy import RestartBackoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.process import Launcher, WorkerProcess
    from vllama_balancer.fleet.restart_policy import RestartSettings

KILL_GRACE_SECONDS = 5.0
"""How much longer than its drain a worker may take to end."""
_PREFIX = "vllama-"


class Supervisor:
    """Starts one local worker, and starts it again when it has ended. `run` it in a task, and `stop` it at the end."""

    def __init__(
        self,
        spec: WorkerSpec,
        socket: Path,
        events: asyncio.Queue[FleetEvent],
        launcher: Launcher,
        settings: RestartSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._socket = socket
        self._address = f"unix:{socket}"
        self._events = events
        self._launcher = launcher
        self._backoff = RestartBackoff(spec.name, settings, self._report)
        self._clock = clock
        self._process: WorkerProcess | None = None
        self._is_stopping = False
        self._has_started = asyncio.Event()

    async def run(self) -> None:
        """Runs until `stop` or `kill`. Emits Added at once and Removed at the end."""
        self._emit(Added(self.spec.name, self._address, self.spec.model.names))
        try:
            while not self._is_stopping:
                await self._run_process()
        finally:
            if self._process is not None:  # cancelled in the middle
                self._process.kill()
                await self._process.ended()
            self._socket.unlink(missing_ok=True)
            self._emit(Removed(self.spec.name, "was stopped"))

    async def restart(self, drain_seconds: float) -> None:
        """Ends the process and starts another; returns when that runs."""
        self._has_started.clear()
        self._backoff.restart_now()
        if (process := self._process) is not None:
            await process.stop(drain_seconds + KILL_GRACE_SECONDS)
        await self._has_started.wait()

    async def stop(self, drain_seconds: float) -> None:
        """Drains and ends the worker for good; returns when its process group has ended."""
        self._is_stopping = True
        self._backoff.skip_wait()
        if (process := self._process) is not None:
            self._report(ProcessState.STOPPED, "is being stopped")
            await process.stop(drain_seconds + KILL_GRACE_SECONDS)

    def kill(self) -> None:
        """Ends the worker for good, at once."""
        self._is_stopping = True
        self._backoff.skip_wait()
        if self._process is not None:
            self._process.kill()

    async def _run_process(self) -> None:
        self._backoff.begin()
        start = self._clock()
        try:
            self._socket.unlink(missing_ok=True)
            self._process = await self._launcher.start(self.spec, self._address)
        except Exception as error:
            if not self._is_stopping:
                await self._backoff.after_failed_launch(error)
            return
        self._report(ProcessState.RUNNING)
        self._has_started.set()
        if self._is_stopping:  # asked to stop while the process was being made
            self._process.kill()
        end = await self._process.exited()
        self._process = None
        if not self._is_stopping:
            await self._backoff.after_exit(end, self._clock() - start)

    def _report(self, state: ProcessState, reason: str = "", delay_seconds: float | None = None) -> None:
        pid = self._process.pid if self._process is not None else 0
        backoff = self._backoff
        self._emit(Changed(self.spec.name, state, reason, pid, backoff.restarts, delay_seconds, backoff.deaths))

    def _emit(self, event: FleetEvent) -> None:
        self._events.put_nowait(event)


class LocalFleet:
    """Starts, restarts and ends local workers: a FleetSource and a FleetControl.

    `close` must be awaited at the end; after it, no process that a worker has started is left.
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
        self._events: asyncio.Queue[FleetEvent] = asyncio.Queue()
        self._supervisors: dict[str, tuple[Supervisor, asyncio.Task[None]]] = {}

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields the events of the workers, for one reader."""
        while True:
            yield await self._events.get()

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        """Starts a worker whose name is not in use; with `fail_fast`, a failed start is not retried."""
        if spec.name in self._supervisors:
            raise ValueError(f"{spec.name} runs already")
        socket = self._directory / f"{spec.name}.sock"
        settings = replace(self._settings, fail_fast=fail_fast)
        supervisor = Supervisor(spec, socket, self._events, self._launcher, settings)
        task = asyncio.create_task(supervisor.run(), name=f"supervisor of {spec.name}")
        self._supervisors[spec.name] = (supervisor, task)

    def owns(self, name: str) -> bool:
        return name in self._supervisors

    async def restart(self, name: str) -> None:
        """Ends the worker's process and starts it again; returns when the new process runs."""
        await self._supervisors[name][0].restart(self._drain_seconds)

    async def retire(self, name: str) -> None:
        """Ends the worker for good; returns when its process group has ended. An unknown name is no error."""
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
        stopping = [supervisor.stop(seconds) for supervisor, _ in self._supervisors.values()]
        tasks = [task for _, task in self._supervisors.values()]
        try:
            await asyncio.gather(*stopping)
            await asyncio.gather(*tasks)
        finally:
            self.kill()
            self.clear()

    def clear(self) -> None:
        """Removes the directory of sockets; no worker may run."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """Kills all workers now; `close` is still due."""
        for supervisor, _ in self._supervisors.values():
            supervisor.kill()


def private_directory(parent: Path) -> Path:
    """Makes a directory that only this user can enter, and deletes those of killed balancers."""
    for old in parent.glob(f"{_PREFIX}[0-9]*-*"):
        owner = old.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)) and old.stat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)
    # mkdtemp creates it with mode 0700.
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
