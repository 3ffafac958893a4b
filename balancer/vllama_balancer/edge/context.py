"""What every dialect's handlers stand on: bodies, models, generations, streamed replies.

A handler decodes, translates, calls `HandlerContext`, encodes; whatever is the same for all of them
(request ids, the caller's key, limits, the stats for the access log, the wording of errors) is
done here once.

Reads how long an HTTP client is ready to wait for its whole answer: `Prefer: wait=SECONDS` (RFC 7240).

gRPC callers send a deadline with every call; this is HTTP's own word for it. Without it a request waits its turn, and
a queue that moves has no bound in time.

Bounds how many generations one client runs at once.

The balancer's queue is fair between clients but bounded for all of them together: without a bound
of its own one client could fill it and make everybody else be refused.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from vllama_balancer.edge import streaming
from vllama_balancer.edge.body import read_json
from vllama_balancer.edge.fixed_models import FixedModels, Pinned
from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.model_lookup import RequestedModel, find_model
from vllama_balancer.edge.request_stats import STATS, RequestStats
from vllama_balancer.errors import CapabilityMissing, InvalidRequest
from vllama_balancer.gateway import Call

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from aiohttp import web
    from multidict import CIMultiDictProxy

    from vllama_balancer.edge.config import EdgeConfig
    from vllama_balancer.errors import BalancerError
    from vllama_balancer.gateway import Gateway, Management, Residency
    from vllama_protos.v1 import embedding_pb2, generation_pb2


T = TypeVar("T")


def system_now() -> datetime:
    """Reads the clock of the wall, in UTC."""
    return datetime.now(UTC)


class HandlerContext:
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
        request[STATS].model = model.entry.name
        return model

    def expect_room(self, requested: str | None) -> None:
        """Raises QueueFull when a request for this model would be refused: ask before anything is made of it."""
        self.gateway.expect_room(requested or "")

    def call(self, request: web.Request) -> Call:
        """Tells the gateway who asks, and until when. Raises InvalidRequest for a wait that is no number."""
        stats, seconds = request[STATS], wait_seconds(request.headers)
        if seconds is None:
            return Call(stats.client)
        remaining = seconds - stats.elapsed_ns() / 1e9
        return Call(stats.client, asyncio.get_running_loop().time() + remaining)

    async def generate(
        self, request: web.Request, model: RequestedModel, wire: generation_pb2.GenerateRequest, *, verb: str = "chat"
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Runs one generation of an HTTP request; model, id and session are filled in here.

        Closing the generator ends the generation. Raises as Gateway.generate does, with
        capabilities phrased for clients, and HttpError 429 or 503 for limits and shutdown.
        """
        stats = request[STATS]
        call = self.call(request)
        wire.model = model.entry.name
        wire.request_id = stats.next_generation_id()
        with self._limit.hold(stats.client, draining=self.draining):
            try:
                async with aclosing(self.gateway.generate(wire, call)) as events:
                    async for event in events:
                        _note(stats, event, call)
                        yield event
            except CapabilityMissing as error:
                raise model.missing(error.field, verb) from error

    async def embed(
        self, request: web.Request, model: RequestedModel, wire: embedding_pb2.EmbedRequest
    ) -> embedding_pb2.EmbedResponse:
        """Embeds texts for an HTTP request. Raises as `generate` does."""
        stats = request[STATS]
        wire.model = model.entry.name
        wire.request_id = stats.next_generation_id()
        with self._limit.hold(stats.client, draining=self.draining):
            try:
                reply = await self.gateway.embed(wire, self.call(request))
            except CapabilityMissing as error:
                raise model.missing(error.field or "embedding") from error
        stats.prompt_tokens += sum(vector.prompt_tokens for vector in reply.vectors)
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


def _note(stats: RequestStats, event: generation_pb2.GenerateResponse, call: Call) -> None:
    kind = event.WhichOneof("event")
    if kind == "delta":
        stats.record_output()
    elif kind == "started":
        stats.record_started(event.started, call.placement.reason)
    elif kind == "finished":
        stats.record_finished(event.finished)


_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([^\",;]*)\"?", re.IGNORECASE)


def wait_seconds(headers: CIMultiDictProxy[str]) -> float | None:
    """Finds the wait that the client prefers; None when it states none. Raises InvalidRequest for no number."""
    for preferences in headers.getall("Prefer", ()):
        if (found := _WAIT.search(preferences)) is not None:
            return _seconds(found[1].strip())
    return None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest("the header Prefer: wait must be a number of seconds above 0: wait=30", field="Prefer")
    return seconds


class StreamLimit:
    """Counts the running generations of each client."""

    def __init__(self, most_per_client: int) -> None:
        self._most_per_client = most_per_client
        self._running: Counter[str] = Counter()

    @contextmanager
    def hold(self, client: str, *, draining: bool = False) -> Iterator[None]:
        """Counts one generation while the block runs.

        Raises HttpError 429 when the client has too many, 503 when the process is about to end.
        """
        if draining:
            raise HttpError(503, "the server is shutting down", retry_after_seconds=1)
        if self._running[client] >= self._most_per_client:
            message = f"too many requests at once: {self._most_per_client} of this client are running"
            raise HttpError(429, message, retry_after_seconds=1)
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]

    def running(self, client: str) -> int:
        """How many generations a client has now."""
        return self._running.get(client, 0)
