"""What every dialect's handlers stand on: bodies, models, generations, streamed replies.

A handler decodes, translates, calls `Edge`, encodes; whatever is the same for all of them
(request ids, the caller's key, limits, the trace for the access log, the wording of errors) is
done here once.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from vllama_balancer.edge import streaming
from vllama_balancer.edge.bodies import read_json
from vllama_balancer.edge.fixed_models import FixedModels, Pinned
from vllama_balancer.edge.limits import StreamLimit
from vllama_balancer.edge.preferences import wait_seconds
from vllama_balancer.edge.requested import RequestedModel, find_model
from vllama_balancer.edge.trace import TRACE, Trace
from vllama_balancer.errors import CapabilityMissing
from vllama_balancer.gateway import Call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from aiohttp import web

    from vllama_balancer.edge.config import EdgeConfig
    from vllama_balancer.errors import BalancerError
    from vllama_balancer.gateway import Gateway, Management, Residency
    from vllama_protos.v1 import embedding_pb2, generation_pb2

T = TypeVar("T")


def system_now() -> datetime:
    """Reads the clock of the wall, in UTC."""
    return datetime.now(UTC)


class Edge:
    """The collaborators of all handlers, and what they do alike."""

    def __init__(
        self,
        gateway: Gateway,
        config: EdgeConfig,
        *,
        residency: Residency | None = None,
        management: Management | None = None,
        now: Callable[[], datetime] = system_now,
    ) -> None:
        self.gateway = gateway
        self.config = config
        self.residency: Residency = residency or Pinned()
        """How long models stay loaded."""
        self.management: Management = management or FixedModels(gateway)
        """Which models there are."""
        self.now = now
        """The clock of the wall: timestamps in replies come from it."""
        self.draining = False
        """Whether the process is about to end: /health says so, and nothing new is generated."""
        self._limit = StreamLimit(config.max_streams_per_client)

    async def read(self, request: web.Request, kind: type[T]) -> T:
        """Reads and decodes the body. Raises InvalidRequest with the parser's message."""
        return await read_json(request, kind, self.config)

    async def find(self, request: web.Request, requested: str, **wording: str) -> RequestedModel:
        """Finds a model as `find_model` does, and notes it for the access log."""
        model = await find_model(self.gateway, requested, self.call(request).deadline, **wording)
        request[TRACE].model = model.entry.name
        return model

    def expect_room(self, requested: str | None) -> None:
        """Raises QueueFull when a request for this model would be refused: ask before anything is made of it."""
        self.gateway.expect_room(requested or "")

    def call(self, request: web.Request) -> Call:
        """Tells the gateway who asks, and until when. Raises InvalidRequest for a wait that is no number."""
        trace, seconds = request[TRACE], wait_seconds(request.headers)
        if seconds is None:
            return Call(trace.client)
        remaining = seconds - trace.elapsed_ns() / 1e9
        return Call(trace.client, asyncio.get_running_loop().time() + remaining)

    async def generate(
        self, request: web.Request, model: RequestedModel, wire: generation_pb2.GenerateRequest, *, verb: str = "chat"
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Runs one generation of an HTTP request; model, id and session are filled in here.

        Closing the generator ends the generation. Raises as Gateway.generate does, with
        capabilities phrased for clients, and HttpError 429 or 503 for limits and shutdown.
        """
        trace = request[TRACE]
        call = self.call(request)
        wire.model = model.entry.name
        wire.request_id = trace.next_generation_id()
        with self._limit.hold(trace.client, draining=self.draining):
            try:
                async with aclosing(self.gateway.generate(wire, call)) as events:
                    async for event in events:
                        _note(trace, event, call)
                        yield event
            except CapabilityMissing as error:
                raise model.missing(error.field, verb) from error

    async def embed(
        self, request: web.Request, model: RequestedModel, wire: embedding_pb2.EmbedRequest
    ) -> embedding_pb2.EmbedResponse:
        """Embeds texts for an HTTP request. Raises as `generate` does."""
        trace = request[TRACE]
        wire.model = model.entry.name
        wire.request_id = trace.next_generation_id()
        with self._limit.hold(trace.client, draining=self.draining):
            try:
                reply = await self.gateway.embed(wire, self.call(request))
            except CapabilityMissing as error:
                raise model.missing(error.field or "embedding") from error
        trace.prompt_tokens += sum(vector.prompt_tokens for vector in reply.vectors)
        return reply

    async def stream(
        self,
        request: web.Request,
        chunks: AsyncGenerator[bytes, None],
        *,
        content_type: str,
        render_error: Callable[[BalancerError], bytes],
    ) -> web.StreamResponse:
        """Streams a reply as `streaming.stream` does, with the configured time-out."""
        return await streaming.stream(
            request,
            chunks,
            content_type=content_type,
            render_error=render_error,
            write_timeout_seconds=self.config.write_timeout_seconds,
        )


def _note(trace: Trace, event: generation_pb2.GenerateResponse, call: Call) -> None:
    kind = event.WhichOneof("event")
    if kind == "delta":
        trace.saw_output()
    elif kind == "started":
        trace.saw_started(event.started, call.placement.reason)
    elif kind == "finished":
        trace.saw_finished(event.finished)
