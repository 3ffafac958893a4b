"""A scripted Ollama server on a real socket: plays a test's answers and keeps the requests."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

TAGS = {
    "models": [
        {
            "name": "smollm2:135m",
            "model": "smollm2:135m",
            "modified_at": "2026-11-20T10:00:00Z",
            "size": 269_060_552,
            "digest": "ab" * 32,
            "details": {},
        },
        {
            "name": "qwen2.5:7b",
            "model": "qwen2.5:7b",
            "modified_at": "2025-01-01T10:00:00Z",
            "size": 15_231_233_024,
            "digest": "cd" * 32,
            "details": {},
        },
    ]
}
SHOW = {
    "license": "Apache-2.0\nVersion 2.0\nand so on",
    "modelfile": "FROM smollm2:135m",
    "parameters": 'temperature                    0.2\nstop                           "<|im_end|>"',
    "template": "{% for message in messages %}",
    "system": "",
    "details": {"family": "llama", "parameter_size": "134.52M", "quantization_level": "BF16"},
    "model_info": {
        "general.architecture": "llama",
        "llama.context_length": 4096,
        "llama.embedding_length": 576,
    },
    "capabilities": ["completion", "tools"],
}


class Hang:
    """A line that never comes; the server waits until the caller has gone."""


@dataclass(frozen=True)
class Answer:
    """What one path answers."""

    lines: Sequence[object] = ({},)
    """One JSON value, or the lines of a stream; a text is sent as it is."""
    status: int = 200
    """HTTP status."""
    headers: dict[str, str] = field(default_factory=dict)
    """Extra headers."""


@dataclass
class OllamaServer:
    """The answers, and the requests it got."""

    url: str = ""
    """Where it listens."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """What each path answers, "METHOD /path"."""
    requests: list[tuple[str, Any]] = field(default_factory=list)
    """Every "METHOD /path" with its body, in order."""
    authorizations: list[str | None] = field(default_factory=list)
    """The Authorization header of each."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a caller went away while the server hung."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request."""
        text = await request.text()
        key = f"{request.method} {request.path}"
        self.requests.append((key, json.loads(text) if text else None))
        self.authorizations.append(request.headers.get("Authorization"))
        answer = self.answers.get(key, Answer([{"error": f"nothing is scripted for {key}"}], 404))
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_type = "application/x-ndjson"
        await response.prepare(request)
        for line in answer.lines:
            if isinstance(line, Hang):
                await self._hang()
            await response.write((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
        return response

    async def _hang(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


@asynccontextmanager
async def ollama_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[OllamaServer]:
    """Runs one on a free port of the loopback interface, behind TLS if given its context."""
    server = OllamaServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    scheme = "http" if tls is None else "https"
    server.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def chunk(content: str = "", **message: object) -> dict[str, object]:
    """Builds one line of an answer."""
    return {"model": "m", "message": {"role": "assistant", "content": content, **message}, "done": False}


def last(**fields: object) -> dict[str, object]:
    """Builds the last line of an answer."""
    return {
        "model": "m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": 3_000_000_000,
        "load_duration": 1,
        "prompt_eval_count": 10,
        "prompt_eval_duration": 500_000_000,
        "eval_count": 20,
        "eval_duration": 2_000_000_000,
        **fields,
    }
