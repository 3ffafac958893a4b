"""Sleep and wake of a worker: the weights move to the host's memory and back within seconds.

An operation that has begun is completed even if its caller disconnects: half a model on the device is of no use.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_protos.v1.worker_pb2 import WORKER_STATE_SLEEPING
from vllama_server.errors import CapabilityMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from vllama_server.engine.protocol import Engine
    from vllama_server.lifecycle import Lifecycle
    from vllama_server.limiter import InFlightLimiter

logger = logging.getLogger(__name__)


class SleepSwitch:
    """Moves a worker between READY and SLEEPING. Close it before the engine stops."""

    def __init__(self, engine: Engine, limiter: InFlightLimiter, lifecycle: Lifecycle) -> None:
        self._engine = engine
        self._limiter = limiter
        self._lifecycle = lifecycle
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def sleep(self) -> None:
        """Refuses new requests, waits for the running ones, and returns when the engine sleeps.

        Raises CapabilityMissing where the engine cannot sleep, and the refusal of a worker that does not serve.
        """
        await self._finish(self._fall_asleep)

    async def wake(self) -> None:
        """Returns when the worker serves again. Raises the refusal of one that neither serves nor sleeps."""
        await self._finish(self._wake_up)

    async def close(self) -> None:
        """Cancels the operation that is running."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _finish(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(self._in_turn(work), name="sleep or wake")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        await asyncio.shield(task)

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with self._one_at_a_time:
            await work()

    async def _fall_asleep(self) -> None:
        if self._lifecycle.state == WORKER_STATE_SLEEPING:
            return
        self._check_serves()
        if not self._engine.describe().can_sleep:
            raise CapabilityMissing("this engine cannot sleep; it needs a GPU and --engine-arg enable_sleep_mode=true.")
        self._lifecycle.mark_asleep()
        try:
            await self._limiter.drained()
            await self._engine.sleep()
        except BaseException:
            self._lifecycle.mark_awake()
            raise
        logger.info("asleep: the weights are in the host's memory")

    async def _wake_up(self) -> None:
        if self._lifecycle.state == WORKER_STATE_SLEEPING:
            await self._engine.wake()
            self._lifecycle.mark_awake()
            logger.info("awake")
        else:
            self._check_serves()

    def _check_serves(self) -> None:
        refusal = self._lifecycle.refusal()
        if refusal is not None:
            raise refusal

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # The caller may have disconnected; then only the log has the error.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("sleeping or waking failed: %s", error)
