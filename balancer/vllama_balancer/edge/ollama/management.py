"""Model management: pull, delete, copy, create; uploads are refused. Translations and handlers."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from vllama_balancer.edge.body import encode_json, encode_line
from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.ollama.errors import error_line
from vllama_balancer.edge.ollama.options import check_options
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.edge.streaming import NDJSON
from vllama_balancer.edge.wire.chat import check_template
from vllama_balancer.errors import InvalidRequest, ModelNotFound, PermissionDenied
from vllama_balancer.gateway import Recipe
from vllama_balancer.models.errors import ModelUnknown
from vllama_balancer.names import parse_name
from vllama_balancer.preset_options import to_options
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vllama_balancer.callers import Caller
    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.gateway import Progress

_SHORT_DIGEST = 12
_ALGORITHM = "sha256:"

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class NamedBody(msgspec.Struct, frozen=True):
    """A body with a model's name; `name` is the older key."""

    model: str | None = None
    name: str | None = None

    @property
    def requested(self) -> str:
        """The name, under either key."""
        return self.model or self.name or ""


class PullBody(NamedBody, frozen=True):
    """POST /api/pull."""

    stream: bool | None = None
    insecure: bool | None = None


class CopyBody(msgspec.Struct, frozen=True):
    """POST /api/copy."""

    source: str | None = None
    destination: str | None = None


class PresetTurn(msgspec.Struct, frozen=True):
    """A turn before every conversation."""

    role: str
    content: str = ""


class CreateBody(NamedBody, frozen=True):
    """POST /api/create."""

    base: str | None = msgspec.field(default=None, name="from")
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[PresetTurn] | None = None
    license: str | list[str] | None = None
    template: str | None = None
    adapters: Any = None
    files: Any = None
    quantize: str | None = None
    stream: bool | None = None


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of progress; sizes are bytes."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


SUCCESS = Status("success")
"""The last line of every task; the only one that clients rely on."""

_UNSERVED = {
    "files": "files are not supported: give 'from' a model, and pull it first if need be",
    "quantize": "quantize is not supported: pull a quantized model instead",
    "adapters": "adapters are not supported: merge the adapter into the weights and serve those",
}


def check_name(text: str, message: str) -> str:
    """Returns a well-formed name. Raises InvalidRequest with the message for any other."""
    try:
        parse_name(text)
    except InvalidRequest as error:
        raise InvalidRequest(message, reason=error.reason, field="model") from error
    return text


def to_recipe(body: CreateBody) -> Recipe:
    """Translates the body of create. Raises InvalidRequest naming what is missing or not supported."""
    for field, message in _UNSERVED.items():
        if getattr(body, field):
            raise InvalidRequest(message, field=field)
    if not body.base:
        raise InvalidRequest("neither 'from' or 'files' was specified", field="from")
    check_name(body.base, "invalid model name")
    texts = "\n\n".join(body.license) if isinstance(body.license, list) else body.license
    return Recipe(
        base=body.base,
        system=body.system,
        options=to_options(check_options(body.parameters or {})),
        messages=None if body.messages is None else [_message(turn) for turn in body.messages],
        license=texts,
        template=None if body.template is None else check_template(body.template),
    )


def _message(turn: PresetTurn) -> generation_pb2.Message:
    return generation_pb2.Message(role=turn.role, content=turn.content)


def to_status(progress: Progress) -> Status:
    """Returns a step in Ollama's words: files by the first digits of their digest."""
    if progress.digest:
        short = progress.digest.removeprefix(_ALGORITHM)[:_SHORT_DIGEST]
        return Status(f"pulling {short}", progress.digest, progress.total, progress.completed)
    return Status(progress.status, "", progress.total, progress.completed)


class ManagementHandlers:
    """Handlers of model management."""

    def __init__(self, context: HandlerContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/pull", self.pull),
            web.delete("/api/delete", self.delete),
            web.post("/api/copy", self.copy),
            web.post("/api/create", self.create),
            web.post("/api/push", self.push),
            web.head("/api/blobs/{digest}", self.find_blob),
            web.post("/api/blobs/{digest}", self.upload_blob),
        ]

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """POST /api/pull: installs a model, or finds it installed."""
        body = await self._context.read(request, PullBody)
        name = check_name(body.requested, "invalid model name")
        steps = self._pulled(name, request[STATS].caller)
        return await self._report(request, steps, streams=body.stream is not False)

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/delete: an empty 200."""
        body = await self._context.read(request, NamedBody)
        name = check_name(body.requested, f'name "{body.requested}" is invalid')
        try:
            await self._context.management.delete(name)
        except (ModelNotFound, ModelUnknown) as error:
            raise ModelNotFound(f"model '{name}' not found", field="model") from error
        return web.Response()

    async def copy(self, request: web.Request) -> web.Response:
        """POST /api/copy: an empty 200."""
        body = await self._context.read(request, CopyBody)
        source = check_name(body.source or "", f'source "{body.source or ""}" is invalid')
        destination = check_name(body.destination or "", f'destination "{body.destination or ""}" is invalid')
        try:
            await self._context.management.copy(source, destination)
        except (ModelNotFound, ModelUnknown) as error:
            raise ModelNotFound(f'model "{source}" not found', field="source") from error
        return web.Response()

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /api/create: an alias with presets."""
        body = await self._context.read(request, CreateBody)
        name = check_name(body.requested, "invalid model name")
        return await self._report(request, self._created(name, to_recipe(body)), streams=body.stream is not False)

    async def push(self, request: web.Request) -> web.Response:
        """POST /api/push: not supported."""
        raise HttpError(501, "pushing models is not supported")

    async def find_blob(self, request: web.Request) -> web.Response:
        """HEAD /api/blobs/{digest}: never found."""
        _check_digest(request)
        raise HttpError(404, "blobs are not supported")

    async def upload_blob(self, request: web.Request) -> web.Response:
        """POST /api/blobs/{digest}: not supported."""
        _check_digest(request)
        raise HttpError(501, "uploading model files is not supported: pull the model instead")

    async def _pulled(self, name: str, caller: Caller) -> AsyncGenerator[Status, None]:
        begins, has_begun = Status("pulling manifest"), False
        try:
            async with aclosing(self._context.management.pull(name, caller)) as steps:
                # The first step comes before the first line, so that a refusal has an HTTP status.
                first = await anext(steps)
                has_begun = True
                yield begins
                yield to_status(first)
                async for step in steps:
                    yield to_status(step)
        except PermissionDenied:
            # Clients pull a model before they use it, also one that a worker started by hand hosts.
            if self._context.gateway.find(name) is None:
                raise
            yield begins
        except (ModelNotFound, ModelUnknown) as error:
            if not has_begun:
                yield begins
            # A served model needs no source.
            if self._context.gateway.find(name) is None:
                # Clients match these words.
                raise HttpError(500, f"pull model manifest: file does not exist: {error}") from error
        yield SUCCESS

    async def _created(self, name: str, recipe: Recipe) -> AsyncGenerator[Status, None]:
        # All of it is done before the first line, so that a refusal has an HTTP status.
        await self._context.management.create(name, recipe)
        yield Status("reading model metadata")
        yield Status("writing manifest")
        yield SUCCESS

    async def _report(
        self, request: web.Request, steps: AsyncGenerator[Status, None], *, streams: bool
    ) -> web.StreamResponse:
        """Streams progress line by line, or replies with the last line alone."""
        if streams:
            return await self._context.stream(request, _lines(steps), content_type=NDJSON, render_error=error_line)
        async with aclosing(steps):
            last = SUCCESS
            async for step in steps:
                last = step
        return web.Response(body=encode_json(last), content_type="application/json")


async def _lines(steps: AsyncGenerator[Status, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(steps):
        async for step in steps:
            yield encode_line(step)


def _check_digest(request: web.Request) -> None:
    if not _DIGEST.fullmatch(request.match_info["digest"]):
        raise InvalidRequest("invalid digest format", field="digest")
