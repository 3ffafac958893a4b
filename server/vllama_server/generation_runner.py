"""Runs generations: from the wire's request through the limiter to the engine, and its events to whoever asked.

`run` is a coroutine that sends, not a generator that yields: a cancellation then lands inside it,
at whatever it awaits, and its one `finally` aborts the request in the engine.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllama_server.engine.events import Chunk, Completed
from vllama_server.errors import EngineFault
from vllama_server.utilization import Utilization
from vllama_server.wire import request_validation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from vllama_protos.v1 import generation_pb2 as pb
    from vllama_server.engine.events import GenerationEvent
    from vllama_server.engine.protocol import Engine
    from vllama_server.identity import WorkerIdentity
    from vllama_server.limiter import InFlightLimiter
    from vllama_server.metrics import WorkerMetrics

    Send = Callable[[GenerationEvent], Awaitable[None]]


class GenerationRunner:
    """The generations of one engine, however they were asked for."""

    def __init__(
        self,
        engine: Engine,
        limiter: InFlightLimiter,
        identity: WorkerIdentity,
        metrics: WorkerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limiter = limiter
        self._identity = identity
        self._metrics = metrics
        self._clock = clock
        self.utilization = Utilization(clock)
        """How full the worker was of late, for the load reports."""

    async def run(self, request: pb.GenerateRequest, send: Send) -> None:
        """Sends every event of one generation, `Completed` last; cancelling it aborts the request.

        Raises what the limiter and the engine raise, and EngineFault when the engine does not say how it ended.
        """
        arrived_at = self._clock()
        self._identity.check_model(request.model)
        with self._limiter.admit(request.request_id) as engine_id, self.utilization.stream():
            stream = self._engine.generate(request_validation.generation_request(request, engine_id))
            try:
                await self._relay(stream, send, arrived_at)
            finally:
                await stream.aclose()

    async def _relay(self, stream: AsyncGenerator[GenerationEvent, None], send: Send, arrived_at: float) -> None:
        """Sends what the engine yields; the ordinary event, a chunk, is looked for first."""
        first = True
        async for event in stream:
            if type(event) is Chunk:
                if first:
                    first = False
                    self._metrics.time_to_first_token_seconds.observe(self._clock() - arrived_at)
            elif type(event) is Completed:
                self._metrics.record_completed(event)
                await send(event)
                return
            await send(event)
        raise EngineFault("the engine ended the generation without saying how; try again.")
