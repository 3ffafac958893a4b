"""Runs generations: from a request through the limiter to the engine, and the engine's events back to the caller.

`run` is a coroutine that sends, not a generator that yields. So a cancellation is raised inside it, at whatever it
awaits, and its one `finally` aborts the request in the engine.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllama_server.errors import EngineFault
from vllama_server.utilization import Utilization
from vllama_server.wire.request_validation import check_generate_request, check_template

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from vllama_protos.v1 import generation_pb2 as pb
    from vllama_server.engine.protocol import Engine
    from vllama_server.identity import WorkerIdentity
    from vllama_server.limiter import InFlightLimiter
    from vllama_server.metrics import WorkerMetrics

    Send = Callable[[pb.GenerateResponse, bool], Awaitable[None]]
    """Takes an event, and whether it is a delta."""


class GenerationRunner:
    """Runs the generations of one engine, from calls of their own and from Relay calls."""

    def __init__(
        self,
        engine: Engine,
        limiter: InFlightLimiter,
        identity: WorkerIdentity,
        metrics: WorkerMetrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        trust_client_templates: bool = False,
    ) -> None:
        self._engine = engine
        self._limiter = limiter
        self._identity = identity
        self._metrics = metrics
        self._clock = clock
        self._trust_client_templates = trust_client_templates
        self.utilization = Utilization(clock)
        """Recent utilization, for the load reports."""

    async def run(self, request: pb.GenerateRequest, send: Send) -> None:
        """Sends every event of one generation, `finished` last. Cancelling it aborts the request.

        Changes the request's id to the one in the engine. Raises what the limiter and the engine raise,
        InvalidRequest for a wrong field, and EngineFault when the engine ends without `finished`.
        """
        arrived_at = self._clock()
        self._identity.check_model(request.model)
        with self._limiter.admit(request.request_id) as engine_id, self.utilization.stream():
            check_generate_request(request)
            check_template(request.chat, is_trusted=self._trust_client_templates)
            request.request_id = engine_id
            stream = self._engine.generate(request)
            try:
                await self._send_all(stream, send, arrived_at)
            finally:
                await stream.aclose()

    async def _send_all(self, stream: AsyncGenerator[pb.GenerateResponse, None], send: Send, arrived_at: float) -> None:
        first = True
        async for event in stream:
            kind = event.WhichOneof("event")
            if kind == "delta":
                if first:
                    first = False
                    self._metrics.time_to_first_token_seconds.observe(self._clock() - arrived_at)
                await send(event, True)
            elif kind == "started":
                event.started.worker, event.started.boot_id = self._identity.worker, self._identity.boot_id
                await send(event, False)
            else:
                self._metrics.record_finished(event.finished.usage)
                await send(event, False)
                return
        raise EngineFault("the engine ended the generation without saying how; try again.")
