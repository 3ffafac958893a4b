"""The base of every dialect's handlers: bodies, models, generations, streamed replies.

A handler decodes, translates, calls HandlerContext and encodes. Request ids, deadlines, limits, statistics and the
messages of capability errors are handled here once.
"""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from vllama_balancer.client_limits import ClientLimits, refuses_over_budget
from vllama_balancer.edge import embedding_reply, streaming
from vllama_balancer.edge.body import HELD_BYTES, read_json
from vllama_balancer.edge.fixed_models import FixedModels, Pinned
from vllama_balancer.edge.model_lookup import RequestedModel, find_model
from vllama_balancer.edge.request_stats import STATS, RequestStats
from vllama_balancer.edge.wire.accumulator import event_of
from vllama_balancer.edge.wire.choices import nth_choice
from vllama_balancer.edge.wire.embedding_parts import embedding_parts
from vllama_balancer.edge.wire.merge import in_order, merge
from vllama_balancer.errors import CapabilityMissing, InvalidRequest
from vllama_balancer.gateway import LONGEST_SECONDS, Call
from vllama_protos.budgets import check_embedding, check_generation, check_tokenization
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from aiohttp import web
    from multidict import CIMultiDictProxy

    from vllama_balancer.edge.config import EdgeConfig
    from vllama_balancer.edge.wire.accumulator import Event
    from vllama_balancer.errors import BalancerError
    from vllama_balancer.gateway import Gateway, Management, Residency
    from vllama_protos.v1 import embedding_pb2

T = TypeVar("T")

MOST_EMBED_CALLS = 16
"""Calls of one embedding request at once."""

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([^\",;]*)\"?", re.IGNORECASE)


def system_now() -> datetime:
    """Returns the system's time, in UTC."""
    return datetime.now(UTC)


class HandlerContext:
    """The collaborators of all handlers, and the steps that they share."""

    def __init__(
        self,
        gateway: Gateway,
        config: EdgeConfig,
        *,
        limits: ClientLimits | None = None,
        residency: Residency | None = None,
        management: Management | None = None,
        now: Callable[[], datetime] = system_now,
        is_proxy: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self.gateway = gateway
        self.config = config
        self.residency: Residency = residency or Pinned()
        self.management: Management = management or FixedModels(gateway)
        self.now = now
        """The system's clock, for timestamps in replies."""
        self.is_proxy = is_proxy
        """Returns whether an address is a trusted proxy, whose connections are those of many clients."""
        self.connections = 0
        """Open connections, kept by the server."""
        self.limits = limits or ClientLimits()
        """What clients may have at once."""

    @property
    def is_crowded(self) -> bool:
        """Whether nearly all connections are taken: then this process should get no further clients."""
        return self.connections >= self.config.max_connections * 0.9

    async def read(self, request: web.Request, kind: type[T]) -> T:
        """Reads and decodes the body. Raises InvalidRequest with the parser's message."""
        return await read_json(request, kind, self.config)

    async def find(self, request: web.Request, requested: str, **wording: str) -> RequestedModel:
        """Finds a model as `find_model` does, and records it for the access log."""
        model = await find_model(self.gateway, requested, _deadline(request), **wording)
        request[STATS].model = model.entry.name
        return model

    def raise_if_full(self, requested: str | None) -> None:
        """Raises QueueFull when a request for this model would be refused: called before it is translated."""
        self.gateway.raise_if_full(requested or "")

    def call(self, request: web.Request, model: RequestedModel) -> Call:
        """Returns client, deadline and model of a request. Raises InvalidRequest for a wait that is not a number."""
        return Call(request[STATS].client, _deadline(request), model=model.entry)

    async def generate(
        self,
        request: web.Request,
        model: RequestedModel,
        generation: generation_pb2.GenerateRequest,
        *,
        verb: str = "chat",
    ) -> AsyncGenerator[Event, None]:
        """Runs one generation of an HTTP request; model and request id are filled in here.

        Closing the generator ends the generation. Raises as Gateway.generate does, with capability errors worded for
        clients; InvalidRequest for a request over its budget, TooManyStreams, and ShuttingDown.
        """
        with self._holding(request), refuses_over_budget():
            check_generation(generation, self.config.request_limits)
            async with aclosing(self._events(request, model, generation, verb)) as events:
                async for event in events:
                    yield event

    async def generate_choices(
        self,
        request: web.Request,
        model: RequestedModel,
        generation: generation_pb2.GenerateRequest,
        count: int,
        *,
        verb: str = "chat",
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """Runs `count` generations that differ in their seed; yields the events of all with the number of each.

        A given seed is incremented for each, so that the choices differ and the whole is reproducible. All choices
        count before the first begins, and the others begin when a worker has accepted that one. Raises as `generate`.
        """
        with self._holding(request, count), refuses_over_budget():
            check_generation(generation, self.config.request_limits, choices=count)
            if count == 1:
                streams = [self._events(request, model, generation, verb)]
            else:
                request[HELD_BYTES].add(count * generation.ByteSize())
                streams = [self._choice(request, model, generation, index, verb) for index in range(count)]
            async with aclosing(merge(streams)) as events:
                async for event in events:
                    yield event

    async def _choice(
        self,
        request: web.Request,
        model: RequestedModel,
        generation: generation_pb2.GenerateRequest,
        index: int,
        verb: str,
    ) -> AsyncGenerator[Event, None]:
        # The copy is made when the choice begins.
        async with aclosing(self._events(request, model, nth_choice(generation, index), verb)) as events:
            async for event in events:
                yield event

    async def _events(
        self, request: web.Request, model: RequestedModel, generation: generation_pb2.GenerateRequest, verb: str
    ) -> AsyncGenerator[Event, None]:
        stats = request[STATS]
        call = self.call(request, model)
        generation.model = model.entry.name
        generation.request_id = stats.next_generation_id()
        try:
            async with aclosing(self.gateway.generate(generation, call)) as responses:
                async for response in responses:
                    event = event_of(response)
                    if event is not None:
                        _record(stats, event, call)
                        yield event
        except CapabilityMissing as error:
            raise model.missing(error.field, verb) from error

    async def tokenize(
        self, request: web.Request, model: RequestedModel, tokenization: generation_pb2.TokenizeRequest
    ) -> generation_pb2.TokenizeResponse:
        """Tokenizes for an HTTP request. Raises as `generate` does."""
        tokenization.model = model.entry.name
        with self._holding(request), refuses_over_budget():
            check_tokenization(tokenization, self.config.request_limits)
            return await self.gateway.tokenize(tokenization, self.call(request, model))

    async def embed(
        self, request: web.Request, model: RequestedModel, embedding: embedding_pb2.EmbedRequest
    ) -> AsyncGenerator[Sequence[embedding_pb2.Vector], None]:
        """Yields the vectors of an HTTP request in order, some at a time.

        Many inputs become several calls, which run side by side on the workers. Closing the generator ends those that
        run. Raises as `generate` does.
        """
        with self._holding(request), refuses_over_budget():
            check_embedding(embedding, replace(self.config.request_limits, embedding_inputs=len(embedding.inputs)))
            at_once = min(MOST_EMBED_CALLS, 2 * max(1, model.entry.replicas))
            calls = (self._embed_part(request, model, part) for part in embedding_parts(embedding))
            async with aclosing(in_order(calls, at_once)) as replies:
                async for reply in replies:
                    yield reply.vectors

    async def _embed_part(
        self, request: web.Request, model: RequestedModel, embedding: embedding_pb2.EmbedRequest
    ) -> embedding_pb2.EmbedResponse:
        stats = request[STATS]
        embedding.model = model.entry.name
        embedding.request_id = stats.next_generation_id()
        try:
            reply = await self.gateway.embed(embedding, self.call(request, model))
        except CapabilityMissing as error:
            raise model.missing(error.field or "embedding") from error
        stats.prompt_tokens += sum(vector.prompt_tokens for vector in reply.vectors)
        return reply

    async def send_vectors(
        self, request: web.Request, pieces: AsyncGenerator[bytes, None], *, charset: str | None = None
    ) -> web.StreamResponse:
        """Sends a reply of vectors as `embedding_reply.send_vectors` does, with the configured time-out."""
        timeout = self.config.write_timeout_seconds
        return await embedding_reply.send_vectors(request, pieces, charset=charset, write_timeout_seconds=timeout)

    @contextmanager
    def _holding(self, request: web.Request, streams: int = 1) -> Iterator[None]:
        """Counts the client's streams while the block runs."""
        with self.limits.streams.hold(request[STATS].client, streams):
            yield

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


def _deadline(request: web.Request) -> float | None:
    """Returns the deadline on the event loop's clock; None without one. Raises InvalidRequest."""
    seconds = wait_seconds(request.headers)
    if seconds is None:
        return None
    remaining = seconds - request[STATS].elapsed_ns() / 1e9
    return asyncio.get_running_loop().time() + remaining


def _record(stats: RequestStats, event: Event, call: Call) -> None:
    match event:
        case generation_pb2.Delta():
            stats.record_output()
        case generation_pb2.Started():
            stats.record_started(event, call.placement.reason)
        case generation_pb2.Finished():
            stats.record_finished(event)


def wait_seconds(headers: CIMultiDictProxy[str]) -> float | None:
    """Returns the deadline in the header `Prefer: wait=SECONDS` (RFC 7240), for the whole reply; None without one.

    More than ten years are no deadline.

    Raises InvalidRequest for anything but a positive number.
    """
    for preferences in headers.getall("Prefer", ()):
        if (found := _WAIT.search(preferences)) is not None:
            seconds = _seconds(found[1].strip())
            return seconds if seconds <= LONGEST_SECONDS else None
    return None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest("the header Prefer: wait must be a number of seconds above 0: wait=30", field="Prefer")
    return seconds
