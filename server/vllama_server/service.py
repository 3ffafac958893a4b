"""vllama.v1.Generation: from the wire through the gate to the engine, and its events back.

`Generate` is a coroutine that writes, not a generator that yields: a client's cancellation then
lands inside it, at whatever it awaits, and its one `finally` aborts the request in the engine.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1 import generation_pb2_grpc as pb_grpc
from vllama_server.engine import Accepted, Chunk, Completed
from vllama_server.errors import EngineFault, WorkerError
from vllama_server.orca import TRAILER, load_report
from vllama_server.wire import events, requests

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import grpc

    from vllama_server.engine import Engine, GenerationEvent
    from vllama_server.gate import Gate
    from vllama_server.identity import Identity
    from vllama_server.metrics import WorkerMetrics

    Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(pb_grpc.GenerationServicer):
    """Serves generations of one engine."""

    def __init__(
        self,
        engine: Engine,
        gate: Gate,
        identity: Identity,
        metrics: WorkerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._gate = gate
        self._identity = identity
        self._metrics = metrics
        self._clock = clock

    # The generated base class knows handlers that return or yield, not coroutines that write.
    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Streams one generation; a cancelled call aborts it in the engine."""
        arrived_at = self._clock()
        self._identity.check_model(request.model)
        with self._gate.enter(request.request_id) as engine_id:
            stream = self._engine.generate(requests.generation_request(request, engine_id))
            try:
                await self._relay(stream, request, context, arrived_at)
            finally:
                await stream.aclose()
                self._attach_load(context)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:  # noqa: N802
        """Renders and tokenizes an input."""
        self._identity.check_model(request.model)
        with self._gate.enter("tokenize", takes_place=False):
            tokenized = await self._engine.tokenize(requests.tokenize_prompt(request))
        return pb.TokenizeResponse(token_ids=tokenized.token_ids, text=tokenized.text)

    async def Detokenize(  # noqa: N802
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Turns token ids into text."""
        self._identity.check_model(request.model)
        with self._gate.enter("detokenize", takes_place=False):
            return pb.DetokenizeResponse(text=await self._engine.detokenize(list(request.token_ids)))

    async def _relay(
        self,
        stream: AsyncGenerator[GenerationEvent, None],
        request: pb.GenerateRequest,
        context: Context,
        arrived_at: float,
    ) -> None:
        """Writes every event; the ordinary one, a chunk, is looked for first."""
        first = True
        async for event in stream:
            if type(event) is Chunk:
                if first:
                    first = False
                    self._metrics.time_to_first_token_seconds.observe(self._clock() - arrived_at)
                await context.write(events.delta(event))
            elif type(event) is Accepted:
                with_prompt = request.return_prompt_token_ids
                await context.write(events.started(event, self._identity, with_prompt=with_prompt))
            elif type(event) is Completed:
                self._metrics.record_completed(event)
                await context.write(events.finished(event))
                return
        raise EngineFault("the engine ended the generation without saying how; try again.")

    def _attach_load(self, context: Context) -> None:
        # An engine that has just died has no load, and that must not hide why it died.
        with suppress(WorkerError):
            report = load_report(self._engine.load(), self._engine.describe().max_streams)
            context.set_trailing_metadata(((TRAILER, report),))
