"""What a worker is doing - starting, serving, sleeping, draining, failed - and who is told when that changes.

Health, reports and admission all follow this one object, so they cannot disagree.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING

from vllama_server.engine.protocol import StartPhase
from vllama_server.errors import Asleep, Draining, EngineDead, NotReady

if TYPE_CHECKING:
    from vllama_server.errors import WorkerError

logger = logging.getLogger(__name__)


class State(Enum):
    """What a worker is doing; the names are those of the wire's WorkerState."""

    STARTING = "starting"
    READY = "ready"
    SLEEPING = "sleeping"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """A state that moves forward: starting, ready (at times sleeping), draining; failed from anywhere, for good."""

    def __init__(self) -> None:
        self.state = State.STARTING
        """What the worker is doing."""
        self.phase = StartPhase.RESOLVE
        """While starting: what it is busy with."""
        self.progress = 0.0
        """While starting: how far the phase is, 0 to 1."""
        self.failure = ""
        """Once failed: the root cause and what to do about it."""
        self.closing = False
        """Whether the process is about to end: whoever watches shall stop watching."""
        self._next_change = asyncio.Event()

    def progressed(self, phase: StartPhase, progress: float) -> None:
        """Notes how far the start is."""
        if self.state is not State.STARTING:
            return
        if phase is not self.phase:
            logger.info("starting: %s", phase.value)
        self.phase, self.progress = phase, min(max(progress, 0.0), 1.0)
        self._announce()

    def ready(self) -> None:
        """Notes that the engine serves; without effect unless the worker was starting."""
        if self.state is State.STARTING:
            self._move(State.READY)

    def asleep(self) -> None:
        """Notes that the engine sleeps, or is about to; without effect unless the worker was ready."""
        if self.state is State.READY:
            self._move(State.SLEEPING)

    def awake(self) -> None:
        """Notes that the engine serves again; without effect unless the worker was sleeping."""
        if self.state is State.SLEEPING:
            self._move(State.READY)

    def draining(self) -> None:
        """Notes that no new requests are taken; without effect on a failed worker."""
        if self.state is not State.FAILED:
            self._move(State.DRAINING)

    def failed(self, cause: str) -> None:
        """Notes why the worker can serve no more; the first cause stays."""
        if self.state is not State.FAILED:
            self.failure = cause
            self._move(State.FAILED)

    def close(self) -> None:
        """Tells everyone who watches that nothing will follow."""
        self.closing = True
        self._announce()

    async def closed(self) -> None:
        """Returns once the process is about to end."""
        while not self.closing:
            await self._next_change.wait()

    @property
    def next_change(self) -> asyncio.Event:
        """Is set at the next change of anything here; take it before you look, then wait for it."""
        return self._next_change

    def refusal(self) -> WorkerError | None:
        """Why a new request cannot be taken; None when it can."""
        match self.state:
            case State.READY:
                return None
            case State.STARTING:
                return NotReady(f"the worker is still starting ({self.phase.value}); come back when it is ready.")
            case State.SLEEPING:
                return Asleep("the worker sleeps; wake it, or use another worker.")
            case State.DRAINING:
                return Draining("the worker is draining and takes no new requests; use another worker.")
            case State.FAILED:
                return EngineDead(f"the engine has failed: {self.failure}")

    def _move(self, state: State) -> None:
        self.state = state
        self._announce()

    def _announce(self) -> None:
        # Whoever waits holds the old event; whoever comes next waits for the next change.
        announced, self._next_change = self._next_change, asyncio.Event()
        announced.set()
