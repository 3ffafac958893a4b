"""Keeps one local worker alive: starts it, waits for its end, starts it again or gives it up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from vllama_balancer.fleet.cause import cause_of
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.restarts import GiveUp, RestartJudge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.process import Launcher, WorkerProcess
    from vllama_balancer.fleet.restarts import RestartSettings

logger = logging.getLogger(__name__)

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
        self._judge = RestartJudge(settings)
        self._clock = clock
        self._process: WorkerProcess | None = None
        self._restarts = 0
        self._leaving = False
        self._asked = asyncio.Event()
        """Somebody wants a new life, or the end, without waiting for the pause."""
        self._alive = asyncio.Event()
        self._drain_seconds = 0.0

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
        self._judge.reset()
        self._alive.clear()
        self._asked.set()
        if (process := self._process) is not None:
            await process.stop(drain_seconds + KILL_GRACE_SECONDS)
        await self._alive.wait()

    async def stop(self, drain_seconds: float) -> None:
        """Drains and ends the worker for good; returns when nothing of it is left."""
        self._leaving = True
        self._asked.set()
        if (process := self._process) is not None:
            self._tell(self._news(ProcessState.STOPPED, "is being stopped"))
            await process.stop(drain_seconds + KILL_GRACE_SECONDS)

    def kill(self) -> None:
        """Ends the worker for good, at once."""
        self._leaving = True
        self._asked.set()
        if self._process is not None:
            self._process.kill()

    async def _live(self) -> None:
        self._asked.clear()
        self._socket.unlink(missing_ok=True)
        born = self._clock()
        try:
            self._process = await self._launcher.start(self.spec, self._address)
        except OSError as error:
            await self._died(1, 0.0, f"it could not be started: {error}")
            return
        self._tell(self._news(ProcessState.RUNNING))
        self._alive.set()
        if self._leaving:  # asked to stop while the process was being made
            self._process.kill()
        status = await self._process.ended()
        tail, self._process = self._process.tail, None
        await self._died(status, self._clock() - born, cause_of(tail, status))

    async def _died(self, status: int, lived_seconds: float, cause: str) -> None:
        if self._leaving:
            return
        self._restarts += 1
        if self._asked.is_set():
            self._tell(self._news(ProcessState.RESTARTING, "is being restarted"))
            return
        verdict = self._judge.after_death(status, lived_seconds)
        if isinstance(verdict, GiveUp):
            self._restarts -= 1
            reason = f"{verdict.verdict}: {cause}"
            logger.error("%s is given up: it %s", self.spec.name, reason)
            self._tell(self._news(ProcessState.FAILED, reason))
            await self._asked.wait()
            return
        delay = verdict.delay_seconds
        logger.warning("%s died after %.1f s, starts again in %g s: %s", self.spec.name, lived_seconds, delay, cause)
        self._tell(self._news(ProcessState.RESTARTING, cause, delay))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), delay)

    def _news(self, state: ProcessState, reason: str = "", delay: float | None = None) -> Changed:
        pid = self._process.pid if self._process is not None else 0
        return Changed(self.spec.name, state, reason, pid, self._restarts, delay)

    def _tell(self, event: FleetEvent) -> None:
        self._outbox.put_nowait(event)
