"""Keeps one local worker alive: starts it, waits for its end, starts it again or gives it up."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from vllama_balancer.fleet.cause import cause_of
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.revival import Revival

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.process import Launcher, WorkerProcess
    from vllama_balancer.fleet.restarts import RestartSettings

KILL_GRACE_SECONDS = 5.0
"""How much longer than its drain a worker may take to end."""


class Supervisor:
    """Owns one worker through all its lives. `run` it in a task, and `stop` it at the end."""

    def __init__(
        self,
        spec: WorkerSpec,
        socket: Path,
        outbox: asyncio.Queue[FleetEvent],
        launcher: Launcher,
        settings: RestartSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._socket = socket
        self._address = f"unix:{socket}"
        self._outbox = outbox
        self._launcher = launcher
        self._revival = Revival(spec.name, settings, self._change)
        self._clock = clock
        self._process: WorkerProcess | None = None
        self._leaving = False
        self._alive = asyncio.Event()

    async def run(self) -> None:
        """Lives until `stop`. The worker is announced at once and removed at the end."""
        self._tell(Added(self.spec.name, self._address, self.spec.model.names))
        try:
            while not self._leaving:
                await self._live()
        finally:
            if self._process is not None:  # cancelled in the middle
                self._process.kill()
                await self._process.ended()
            self._socket.unlink(missing_ok=True)
            self._tell(Removed(self.spec.name, "was stopped"))

    async def restart(self, drain_seconds: float) -> None:
        """Ends the present life and begins a new one; returns when the new process runs."""
        self._alive.clear()
        self._revival.ask_anew()
        if (process := self._process) is not None:
            await process.stop(drain_seconds + KILL_GRACE_SECONDS)
        await self._alive.wait()

    async def stop(self, drain_seconds: float) -> None:
        """Drains and ends the worker for good; returns when nothing of it is left."""
        self._leaving = True
        self._revival.ask()
        if (process := self._process) is not None:
            self._change(ProcessState.STOPPED, "is being stopped")
            await process.stop(drain_seconds + KILL_GRACE_SECONDS)

    def kill(self) -> None:
        """Ends the worker for good, at once."""
        self._leaving = True
        self._revival.ask()
        if self._process is not None:
            self._process.kill()

    async def _live(self) -> None:
        self._revival.begin()
        self._socket.unlink(missing_ok=True)
        born = self._clock()
        try:
            self._process = await self._launcher.start(self.spec, self._address)
        except OSError as error:
            await self._died(1, 0.0, f"it could not be started: {error}")
            return
        self._change(ProcessState.RUNNING)
        self._alive.set()
        if self._leaving:  # asked to stop while the process was being made
            self._process.kill()
        status = await self._process.ended()
        tail, self._process = self._process.tail, None
        await self._died(status, self._clock() - born, cause_of(tail, status))

    async def _died(self, status: int, lived_seconds: float, cause: str) -> None:
        if not self._leaving:
            await self._revival.after_death(status, lived_seconds, cause)

    def _change(self, state: ProcessState, reason: str = "", delay_seconds: float | None = None) -> None:
        pid = self._process.pid if self._process is not None else 0
        self._tell(Changed(self.spec.name, state, reason, pid, self._revival.restarts, delay_seconds))

    def _tell(self, event: FleetEvent) -> None:
        self._outbox.put_nowait(event)
