"""The reporter: samples the worker once for all watchers, and publishes on change and as a heartbeat.

A watcher always gets the newest report and never a backlog, so a stalled one costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from vllama_protos.v1 import worker_pb2
from vllama_server.engine.protocol import EngineLoad
from vllama_server.errors import WorkerError
from vllama_server.wire.responses import report

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from vllama_server.engine.protocol import Engine
    from vllama_server.identity import WorkerIdentity
    from vllama_server.lifecycle import Lifecycle
    from vllama_server.metrics import WorkerMetrics

INTERVAL_SECONDS = 0.1
"""Least time between two reports."""
HEARTBEAT_SECONDS = 1.0
"""Most time between two reports."""


class Reporter:
    """Samples the worker while `run` runs, for any number of watchers."""

    def __init__(
        self,
        identity: WorkerIdentity,
        lifecycle: Lifecycle,
        engine: Engine,
        metrics: WorkerMetrics,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._lifecycle = lifecycle
        self._engine = engine
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._started_at = clock()
        self._published_at = -heartbeat_seconds
        self._key: tuple[object, ...] = ()
        self._latest: worker_pb2.WorkerReport | None = None
        self._next_report = asyncio.Event()
        self._over = False

    async def run(self) -> None:
        """Publishes until the lifecycle closes; the last report has the state at that moment."""
        while True:
            change = self._lifecycle.next_change
            closing = self._lifecycle.closing
            self._over = closing
            self._sample(publish=closing)
            if closing:
                return
            try:
                async with asyncio.timeout(self._interval_seconds):
                    await change.wait()
            except TimeoutError:
                continue
            if not self._lifecycle.closing:
                # Progress can change a thousand times a second; reports are limited.
                await asyncio.sleep(max(0.0, self._published_at + self._interval_seconds - self._clock()))

    async def watch(self) -> AsyncGenerator[worker_pb2.WorkerReport, None]:
        """Yields the newest report at once and every later one; ends with the last one of `run`."""
        seen = None
        while True:
            following, over = self._next_report, self._over
            if self._latest is not None and self._latest is not seen:
                seen = self._latest
                yield seen
            elif over:
                return
            else:
                await following.wait()

    def _measure(self) -> EngineLoad:
        """Returns the engine's load; zeros before it serves and after it died."""
        if self._lifecycle.state not in (worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_DRAINING):
            return EngineLoad()
        try:
            return self._engine.load()
        except WorkerError:
            return EngineLoad()

    def _sample(self, *, publish: bool) -> None:
        load = self._measure()
        self._metrics.record_load(self._lifecycle.state, load)
        now = self._clock()
        life = self._lifecycle
        # Averages and ages change all the time: they travel with the next report that is due.
        key = (life.state, life.phase, life.progress, load.running, load.waiting, load.queued_prompt_tokens)
        if (
            publish
            or key != self._key
            or now - self._published_at >= self._heartbeat_seconds - self._interval_seconds / 2
        ):
            self._key, self._published_at = key, now
            self._latest = report(self._identity, life, load, now - self._started_at)
            published, self._next_report = self._next_report, asyncio.Event()
            published.set()
