"""A stand-in for vLLM's own server: healthy after a while, whatever its flags."""

from __future__ import annotations

import json
import sys

from aiohttp import web


async def health(_: web.Request) -> web.Response:
    """Is healthy."""
    return web.Response()


async def chat(request: web.Request) -> web.StreamResponse:
    """Answers with one word, and with what it was started as."""
    response = web.StreamResponse()
    await response.prepare(request)
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    for event in ({"choices": [{"delta": {"content": " ".join(sys.argv[1:])}}]}, {"choices": [], "usage": usage}):
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


if __name__ == "__main__":
    if "--die" in sys.argv:
        sys.exit("no such flag: --die")
    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_post("/v1/chat/completions", chat)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[sys.argv.index("--port") + 1]), print=None)
