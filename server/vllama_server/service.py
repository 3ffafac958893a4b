"""vllama.v1.Generation: one call for each generation."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1 import generation_pb2_grpc as pb_grpc
from vllama_server.errors import WorkerError
from vllama_server.utilization import LOAD_REPORT_TRAILER, load_report
from vllama_server.wire.request_validation import check_detokenize_request, check_template, check_tokenize_request

if TYPE_CHECKING:
    import grpc

    from vllama_server.engine.protocol import Engine
    from vllama_server.generation_runner import GenerationRunner
    from vllama_server.identity import WorkerIdentity
    from vllama_server.limiter import InFlightLimiter

    Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(pb_grpc.GenerationServicer):
    """Serves generations of one engine."""

    def __init__(
        self,
        engine: Engine,
        limiter: InFlightLimiter,
        identity: WorkerIdentity,
        runner: GenerationRunner,
        *,
        trust_client_templates: bool = False,
    ) -> None:
        self._engine = engine
        self._limiter = limiter
        self._identity = identity
        self._runner = runner
        self._trust_client_templates = trust_client_templates

    # The generated base class types handlers that return or yield, not coroutines that write.
    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Streams one generation; a cancelled call aborts it in the engine."""

        async def write(event: pb.GenerateResponse, is_delta: bool) -> None:
            await context.write(event)

        try:
            await self._runner.run(request, write)
        finally:
            self._attach_load(context)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:  # noqa: N802
        """Renders and tokenizes an input."""
        self._identity.check_model(request.model)
        with self._limiter.admit("tokenize", uses_capacity=False):
            check_tokenize_request(request)
            check_template(request.chat, is_trusted=self._trust_client_templates)
            return await self._engine.tokenize(request)

    async def Detokenize(  # noqa: N802
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Returns the text of token ids."""
        self._identity.check_model(request.model)
        with self._limiter.admit("detokenize", uses_capacity=False):
            check_detokenize_request(request)
            return pb.DetokenizeResponse(text=await self._engine.detokenize(list(request.token_ids)))

    def _attach_load(self, context: Context) -> None:
        # An engine that has just died has no load; the error that ended the call must not be replaced by that.
        with suppress(WorkerError):
            max_streams = self._engine.describe().max_streams
            report = load_report(self._engine.load(), self._runner.utilization, max_streams)
            context.set_trailing_metadata(((LOAD_REPORT_TRAILER, report),))
