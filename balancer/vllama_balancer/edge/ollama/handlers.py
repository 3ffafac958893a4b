"""The handlers of the native API: decode, translate, dispatch, encode."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from vllama_balancer.edge import statuses
from vllama_balancer.edge.encoding import encode_json, encode_line
from vllama_balancer.edge.ollama import metadata
from vllama_balancer.edge.ollama.chat_request import to_chat_request
from vllama_balancer.edge.ollama.embeddings import (
    EmbedBody,
    EmbeddingsBody,
    EmbeddingsReply,
    EmbedReply,
    inputs_of,
    to_embed_reply,
    to_embed_request,
)
from vllama_balancer.edge.ollama.errors import error_line
from vllama_balancer.edge.ollama.generate_request import to_generate_request
from vllama_balancer.edge.ollama.keep_alive import parse_keep_alive
from vllama_balancer.edge.ollama.narration import ChatNarration, GenerateNarration
from vllama_balancer.edge.ollama.options import check_options
from vllama_balancer.edge.ollama.replies import DebugInfo, DebugReply
from vllama_balancer.edge.ollama.requests import ChatBody, GenerateBody, ShowBody
from vllama_balancer.edge.ollama.shared_fields import check_top_logprobs, invalid_format
from vllama_balancer.edge.ollama.show import to_show_reply
from vllama_balancer.edge.ollama.tally import Tally
from vllama_balancer.edge.streaming import NDJSON
from vllama_balancer.edge.trace import TRACE
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.gateway import Call
from vllama_balancer.names import parse_name
from vllama_protos.v1 import embedding_pb2, generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from vllama_balancer.edge.edge import Edge
    from vllama_balancer.edge.ollama.narration import Narration
    from vllama_balancer.edge.ollama.requests import Shared
    from vllama_balancer.edge.requested import RequestedModel


def json_reply(value: object) -> web.Response:
    """Answers with one JSON object."""
    return web.Response(body=encode_json(value), content_type="application/json", charset="utf-8")


class OllamaHandlers:
    """The native API over one edge."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def version(self, request: web.Request) -> web.Response:
        """GET /api/version."""
        return json_reply({"version": self._edge.config.version})

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status: newer command lines ask whether hosted models may be used."""
        return json_reply({"cloud": {"disabled": True, "source": "env"}})

    async def tags(self, request: web.Request) -> web.Response:
        """GET /api/tags: the models that can be named."""
        return json_reply({"models": metadata.tags(self._edge.gateway.models())})

    async def ps(self, request: web.Request) -> web.Response:
        """GET /api/ps: the models that are loaded."""
        return json_reply({"models": metadata.loaded(self._edge.gateway.models(), self._edge.now())})

    async def show(self, request: web.Request) -> web.Response:
        """POST /api/show: all about one model."""
        body = await self._edge.read(request, ShowBody)
        requested = body.model or body.name
        if not requested:
            raise InvalidRequest("model is required", field="model")
        not_found = f"model '{parse_name(requested).display}' not found"
        model = self._edge.find(request, requested, not_found=not_found)
        return json_reply(to_show_reply(body, model, request.headers.get("User-Agent", "")))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /api/generate."""
        body = await self._edge.read(request, GenerateBody)
        check_top_logprobs(body)
        # An empty name is not found rather than malformed: Ollama's own answer.
        model = self._find_or_404(request, body.model)
        narration = GenerateNarration(
            model.requested, self._edge.now, self._tally(request, keep_tokens=True), with_context=not body.raw
        )
        keep_alive_seconds = parse_keep_alive(body.keep_alive)
        if not body.prompt:
            return await self._load_or_unload(model, keep_alive_seconds, narration)
        wire = to_generate_request(body, model)
        return await self._run(request, body, model, wire, narration, keep_alive_seconds, verb="generate")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /api/chat."""
        body = await self._edge.read(request, ChatBody)
        check_top_logprobs(body)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = self._edge.find(request, body.model)
        narration = ChatNarration(model.requested, self._edge.now, self._tally(request))
        keep_alive_seconds = parse_keep_alive(body.keep_alive)
        if not body.messages:
            return await self._load_or_unload(model, keep_alive_seconds, narration)
        wire = to_chat_request(body, model)
        return await self._run(request, body, model, wire, narration, keep_alive_seconds, verb="chat")

    async def embed(self, request: web.Request) -> web.Response:
        """POST /api/embed: one vector per text."""
        body = await self._edge.read(request, EmbedBody)
        inputs = inputs_of(body)
        if not body.model:
            raise statuses.HttpError(404, "model '' not found")
        model = self._find_embedder(request, body.model, body.options, body.keep_alive)
        wire = to_embed_request(body, inputs)
        if not inputs:
            return json_reply(EmbedReply(model.requested, []))
        vectors = await self._embedded(request, model, wire)
        return json_reply(to_embed_reply(model.requested, vectors, request[TRACE].elapsed_ns()))

    async def embeddings(self, request: web.Request) -> web.Response:
        """POST /api/embeddings: one vector, as the model made it."""
        body = await self._edge.read(request, EmbeddingsBody)
        if not body.model:
            raise InvalidRequest("model is required", field="model")
        model = self._find_embedder(request, body.model, body.options, body.keep_alive)
        if not body.prompt:
            return json_reply(EmbeddingsReply([]))
        wire = embedding_pb2.EmbedRequest(inputs=[body.prompt], truncate=True, normalize=False)
        vectors = await self._embedded(request, model, wire)
        return json_reply(EmbeddingsReply(list(vectors.vectors[0].values)))

    def _find_embedder(
        self, request: web.Request, requested: str, options: dict[str, Any] | None, keep_alive: object
    ) -> RequestedModel:
        model = self._edge.find(request, requested, not_found='model "{}" not found, try pulling it first')
        model.require("embedding")
        check_options(options or {})
        keep_alive_seconds = parse_keep_alive(keep_alive)
        if keep_alive_seconds is not None:
            self._edge.residency.keep(model.entry.name, keep_alive_seconds)
        return model

    async def _embedded(
        self, request: web.Request, model: RequestedModel, wire: embedding_pb2.EmbedRequest
    ) -> embedding_pb2.EmbedResponse:
        try:
            return await self._edge.embed(request, model, wire)
        except InvalidRequest as error:
            if error.reason != "CONTEXT_TOO_LONG":
                raise
            message = f"the input length exceeds the context length: {error}"
            raise InvalidRequest(message, reason=error.reason, field="input") from error

    def _find_or_404(self, request: web.Request, requested: str | None) -> RequestedModel:
        if not requested:
            raise statuses.HttpError(404, "model '' not found")
        return self._edge.find(request, requested)

    def _tally(self, request: web.Request, *, keep_tokens: bool = False) -> Tally:
        return Tally(request[TRACE].elapsed_ns, keep_tokens=keep_tokens)

    async def _load_or_unload(
        self, model: RequestedModel, keep_alive_seconds: float | None, narration: Narration
    ) -> web.Response:
        """Answers a request without a prompt: one object, streamed or not."""
        if keep_alive_seconds == 0:
            await self._edge.residency.unload(model.entry.name)
            return json_reply(narration.empty("unload"))
        await self._edge.residency.load(model.entry.name, keep_alive_seconds)
        return json_reply(narration.empty("load"))

    async def _run(
        self,
        request: web.Request,
        body: Shared,
        model: RequestedModel,
        wire: generation_pb2.GenerateRequest,
        narration: Narration,
        keep_alive_seconds: float | None,
        *,
        verb: str,
    ) -> web.StreamResponse:
        """Generates and answers, streamed or not."""
        if body.debug_render_only:
            return json_reply(await self._rendered(request, model, wire))
        if keep_alive_seconds is not None:
            self._edge.residency.keep(model.entry.name, keep_alive_seconds)
        wire = await self._continued(request, model, wire)
        events = self._edge.generate(request, model, wire, verb=verb)
        if body.streams:
            lines = _lines(narration, events)
            return await self._edge.stream(request, lines, content_type=NDJSON, render_error=error_line)
        async with aclosing(events):
            with _phrased():
                return json_reply(await narration.whole(events))

    async def _continued(
        self, request: web.Request, model: RequestedModel, wire: generation_pb2.GenerateRequest
    ) -> generation_pb2.GenerateRequest:
        """Puts the tokens of an earlier reply before a plain prompt; a chat carries them by itself."""
        if not wire.context_token_ids or wire.WhichOneof("input") != "prompt" or wire.suffix:
            return wire
        question = generation_pb2.TokenizeRequest(model=model.entry.name, prompt=wire.prompt)
        answer = await self._edge.gateway.tokenize(question, Call(request[TRACE].client))
        wire.token_ids.ids.extend([*wire.context_token_ids, *answer.token_ids])
        del wire.context_token_ids[:]
        return wire

    async def _rendered(
        self, request: web.Request, model: RequestedModel, wire: generation_pb2.GenerateRequest
    ) -> DebugReply:
        """Renders the prompt without generating."""
        question = generation_pb2.TokenizeRequest(model=model.entry.name)
        if wire.HasField("chat"):
            question.chat.CopyFrom(wire.chat)
        else:
            question.prompt = wire.prompt
        answer = await self._edge.gateway.tokenize(question, Call(request[TRACE].client))
        images = sum(len(turn.images) for turn in wire.chat.messages)
        return DebugReply(model.requested, self._edge.now(), DebugInfo(answer.text, images))


async def _lines(
    narration: Narration, events: AsyncGenerator[generation_pb2.GenerateResponse, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        with _phrased():
            async for chunk in narration.chunks(events):
                yield encode_line(chunk)


@contextmanager
def _phrased() -> Iterator[None]:
    """Words a schema that the engine refuses as a wrong `format`, the field that the client knows."""
    try:
        yield
    except InvalidRequest as error:
        if error.field.startswith("output_format") and "invalid format" not in str(error):
            raise invalid_format(str(error)) from error
        raise
