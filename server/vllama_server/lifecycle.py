"""The worker's state - starting, ready, sleeping, draining, failed - and an event for each change of it.

Health, reports and admission all read this one object, so they cannot disagree.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_protos.enums import value_name
from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.errors import Asleep, Draining, EngineDead, NotReady

if TYPE_CHECKING:
    from vllama_server.errors import WorkerError

logger = logging.getLogger(__name__)


class Lifecycle:
    """The worker's state: starting, ready (at times sleeping or draining), in the end draining; failed for good."""

    def __init__(self) -> None:
        self.state = pb.WORKER_STATE_STARTING
        """What the worker is doing."""
        self.phase = pb.START_PHASE_RESOLVE
        """While starting: the phase of the start."""
        self.progress = 0.0
        """While starting: the share of the phase that is done, 0 to 1."""
        self.failure = ""
        """Once failed: the root cause and what to do about it."""
        self.closing = False
        """True once the process is about to end; watchers then stop."""
        self._before_drain = self.state
        self._drains_for_good = False
        self._next_change = asyncio.Event()

    def set_progress(self, phase: pb.StartPhase, progress: float) -> None:
        """Sets how far the start is; without effect afterwards."""
        if self.state != pb.WORKER_STATE_STARTING:
            return
        if phase != self.phase:
            logger.info("starting: %s", phase_text(phase))
        self.phase, self.progress = phase, min(max(progress, 0.0), 1.0)
        self._announce()

    def mark_ready(self) -> None:
        """Without effect unless the worker was starting; one that drains is ready once the drain is taken back."""
        if self.state == pb.WORKER_STATE_STARTING:
            self._move(pb.WORKER_STATE_READY)
        elif self.state == pb.WORKER_STATE_DRAINING and self._before_drain == pb.WORKER_STATE_STARTING:
            self._before_drain = pb.WORKER_STATE_READY

    def mark_asleep(self) -> None:
        """Without effect unless the worker was ready. The engine may still be on its way."""
        if self.state == pb.WORKER_STATE_READY:
            self._move(pb.WORKER_STATE_SLEEPING)

    def mark_awake(self) -> None:
        """Without effect unless the worker was sleeping."""
        if self.state == pb.WORKER_STATE_SLEEPING:
            self._move(pb.WORKER_STATE_READY)

    def mark_draining(self, *, for_good: bool = False) -> None:
        """Without effect on a failed worker. With `for_good` it cannot be taken back: the process is about to end."""
        self._drains_for_good |= for_good
        if self.state not in (pb.WORKER_STATE_FAILED, pb.WORKER_STATE_DRAINING):
            self._before_drain = self.state
            self._move(pb.WORKER_STATE_DRAINING)

    def mark_undrained(self) -> bool:
        """Takes a drain back, and returns whether that is possible; without effect on a worker that does not drain."""
        if self._drains_for_good or self.state == pb.WORKER_STATE_FAILED:
            return False
        if self.state == pb.WORKER_STATE_DRAINING:
            self._move(self._before_drain)
        return True

    def mark_failed(self, cause: str) -> None:
        """Keeps the first cause."""
        if self.state != pb.WORKER_STATE_FAILED:
            self.failure = cause
            self._move(pb.WORKER_STATE_FAILED)

    def close(self) -> None:
        """Ends all watches after the changes so far."""
        self.closing = True
        self._announce()

    async def closed(self) -> None:
        """Waits until the process is about to end."""
        while not self.closing:
            await self._next_change.wait()

    @property
    def next_change(self) -> asyncio.Event:
        """The event of the next change. Take it before you read the state, then wait for it."""
        return self._next_change

    def refusal(self) -> WorkerError | None:
        """Returns the error for a new request; None when the worker takes it."""
        match self.state:
            case pb.WORKER_STATE_READY:
                return None
            case pb.WORKER_STATE_STARTING:
                return NotReady(f"the worker is still starting ({phase_text(self.phase)}); come back when it is ready.")
            case pb.WORKER_STATE_SLEEPING:
                return Asleep("the worker sleeps; wake it, or use another worker.")
            case pb.WORKER_STATE_DRAINING:
                return Draining("the worker is draining and takes no new requests; use another worker.")
            case _:
                return EngineDead(f"the engine has failed: {self.failure}")

    def _move(self, state: pb.WorkerState) -> None:
        self.state = state
        self._announce()

    def _announce(self) -> None:
        # Waiting tasks hold the old event; later ones wait for the next change.
        announced, self._next_change = self._next_change, asyncio.Event()
        announced.set()


def phase_text(phase: pb.StartPhase) -> str:
    """Returns the phase in words: "warm up"."""
    return value_name(pb.StartPhase, phase).replace("_", " ").lower()
