"""The handlers of generate and chat (decode, translate, dispatch, encode), and of the listings."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.ollama import listing
from vllama_balancer.edge.ollama.encoder import ChatEncoder, GenerateEncoder
from vllama_balancer.edge.ollama.errors import error_line
from vllama_balancer.edge.ollama.generation_request import (
    check_top_logprobs,
    invalid_format,
    to_chat_request,
    to_generate_request,
)
from vllama_balancer.edge.ollama.options import parse_keep_alive
from vllama_balancer.edge.ollama.schema import ChatBody, DebugInfo, DebugReply, GenerateBody, ShowBody, json_reply
from vllama_balancer.edge.ollama.show import to_show_reply
from vllama_balancer.edge.ollama.timings import GenerationTimings
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.edge.streaming import NDJSON
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.names import parse_name
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.ollama.encoder import ReplyEncoder
    from vllama_balancer.edge.ollama.schema import GenerationBody
    from vllama_balancer.edge.wire.accumulator import Event


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request of either kind, from its body to its reply."""

    request: web.Request
    body: GenerationBody
    model: RequestedModel
    encoder: ReplyEncoder
    verb: str
    """What the request does, for errors about it: "generate" or "chat"."""
    keep_alive_seconds: float | None


class GenerationHandlers:
    """Handlers of /api/generate and /api/chat."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/generate", self.generate), web.post("/api/chat", self.chat)]

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /api/generate."""
        body = await self._context.read(request, GenerateBody)
        if body.prompt:
            self._context.raise_if_full(body.model)
        check_top_logprobs(body)
        if not body.model:
            # Not found rather than required, as in Ollama.
            raise HttpError(404, "model '' not found")
        model = await self._context.find(request, body.model)
        timings = GenerationTimings(request[STATS].elapsed_ns, keep_tokens=not body.raw)
        encoder = GenerateEncoder(model.requested, self._context.now, timings, with_context=not body.raw)
        exchange = _Exchange(request, body, model, encoder, "generate", parse_keep_alive(body.keep_alive))
        if not body.prompt:
            return await self._load_or_unload(exchange)
        return await self._run(exchange, to_generate_request(body, model))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /api/chat."""
        body = await self._context.read(request, ChatBody)
        if body.messages:
            self._context.raise_if_full(body.model)
        check_top_logprobs(body)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = await self._context.find(request, body.model)
        encoder = ChatEncoder(model.requested, self._context.now, GenerationTimings(request[STATS].elapsed_ns))
        exchange = _Exchange(request, body, model, encoder, "chat", parse_keep_alive(body.keep_alive))
        if not body.messages:
            return await self._load_or_unload(exchange)
        return await self._run(exchange, to_chat_request(body, model))

    async def _load_or_unload(self, exchange: _Exchange) -> web.Response:
        """Serves a request without a prompt: one object, streamed or not."""
        name = exchange.model.entry.name
        if exchange.keep_alive_seconds == 0:
            await self._context.residency.unload(name)
            return json_reply(exchange.encoder.empty("unload"))
        await self._context.residency.load(name, exchange.keep_alive_seconds)
        return json_reply(exchange.encoder.empty("load"))

    async def _run(self, exchange: _Exchange, generation: generation_pb2.GenerateRequest) -> web.StreamResponse:
        if exchange.body.debug_render_only:
            return json_reply(await self._rendered(exchange, generation))
        if exchange.keep_alive_seconds is not None:
            self._context.residency.keep(exchange.model.entry.name, exchange.keep_alive_seconds)
        generation = await self._continued(exchange, generation)
        events = self._context.generate(exchange.request, exchange.model, generation, verb=exchange.verb)
        if exchange.body.streams:
            lines = _lines(exchange.encoder, events)
            return await self._context.stream(exchange.request, lines, content_type=NDJSON, render_error=error_line)
        async with aclosing(events):
            with _format_errors():
                return json_reply(await exchange.encoder.whole(events))

    async def _continued(
        self, exchange: _Exchange, generation: generation_pb2.GenerateRequest
    ) -> generation_pb2.GenerateRequest:
        """Puts the tokens of an earlier reply before a plain prompt; a chat carries them in its own field."""
        if not generation.context_token_ids or generation.WhichOneof("input") != "prompt" or generation.suffix:
            return generation
        question = generation_pb2.TokenizeRequest(prompt=generation.prompt)
        answer = await self._context.tokenize(exchange.request, exchange.model, question)
        generation.token_ids.ids.extend([*generation.context_token_ids, *answer.token_ids])
        del generation.context_token_ids[:]
        return generation

    async def _rendered(self, exchange: _Exchange, generation: generation_pb2.GenerateRequest) -> DebugReply:
        """Renders the prompt without generating."""
        question = generation_pb2.TokenizeRequest()
        if generation.HasField("chat"):
            question.chat.CopyFrom(generation.chat)
        else:
            question.prompt = generation.prompt
        answer = await self._context.tokenize(exchange.request, exchange.model, question)
        images = sum(len(turn.images) for turn in generation.chat.messages)
        return DebugReply(exchange.model.requested, self._context.now(), DebugInfo(answer.text, images))


async def _lines(encoder: ReplyEncoder, events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        with _format_errors():
            async for line in encoder.lines(events):
                yield line


@contextmanager
def _format_errors() -> Iterator[None]:
    """Reports a schema that the engine refuses as a wrong `format`, the client's name of the field."""
    try:
        yield
    except InvalidRequest as error:
        if error.field.startswith("output_format") and "invalid format" not in str(error):
            raise invalid_format(str(error)) from error
        raise


class ListingHandlers:
    """Handlers of version, tags, ps and show; none of them waits for a worker."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/version", self.version),
            web.get("/api/status", self.status),
            web.get("/api/tags", self.tags),
            web.get("/api/ps", self.ps),
            web.post("/api/show", self.show),
        ]

    async def version(self, request: web.Request) -> web.Response:
        """GET /api/version."""
        return json_reply({"version": self._context.config.api_version})

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status: newer command lines check whether hosted models are allowed."""
        return json_reply({"cloud": {"disabled": True, "source": "env"}})

    async def tags(self, request: web.Request) -> web.Response:
        """GET /api/tags: the models that can be named."""
        return json_reply({"models": listing.tags(self._context.gateway.models())})

    async def ps(self, request: web.Request) -> web.Response:
        """GET /api/ps: the models that are loaded."""
        return json_reply({"models": listing.loaded(self._context.gateway.models(), self._context.now())})

    async def show(self, request: web.Request) -> web.Response:
        """POST /api/show: the details of one model."""
        body = await self._context.read(request, ShowBody)
        requested = body.model or body.name
        if not requested:
            raise InvalidRequest("model is required", field="model")
        not_found = f"model '{parse_name(requested).display}' not found"
        model = await self._context.find(request, requested, not_found=not_found)
        return json_reply(to_show_reply(body, model, request.headers.get("User-Agent", "")))
