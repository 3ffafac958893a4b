"""Mutated requests over both front doors: each is answered, none with a fault, and nothing is left of them.

The seed is fixed. VLLAMA_FUZZ_REQUESTS sets how many HTTP requests are sent, and a quarter as many calls.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from vllama_balancer.callers import Access
from vllama_balancer.client_limits import ClientLimits
from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, model
from vllama_balancer.front.server import EmbeddingService, GenerationService
from vllama_protos.budgets import DEFAULT_LIMITS
from vllama_protos.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    worker_pb2,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

REQUESTS = int(os.environ.get("VLLAMA_FUZZ_REQUESTS", "400"))
AT_ONCE = 16
pytestmark = pytest.mark.timeout(120 + REQUESTS // 10)
MODEL = "smollm2:135m"
DONE = {"200", "204", "400", "401", "403", "404", "405", "408", "411", "413", "417", "429", "431", "501", "503", "none"}

METHODS = ["POST", "GET", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH"]
TURN = {"role": "user", "content": "x"}
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, -0.0, 2**31, 2**63, 2**64, -(2**63), 10**40, 1e300, 1e-308, "", "x", MODEL, "\0"),
    *("\ud83d", "a" * 300, [], [[]], {}, {"a": {}}, [None], [{}], ["x"], {"type": "object"}, TURN, [TURN], "json"),
    *("high", "auto", "none", "5m", "-1", "1e300s", [{"role": "user", "content": [{"type": "text", "text": "x"}]}]),
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}],
    [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
    [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}},
    {"num_predict": -3, "num_ctx": 2**40, "stop": 5, "seed": "x"},
    {"num_predict": 1e300, "temperature": -1e300, "top_k": 2**70, "seed": 1e19},
    {"include_usage": True},
]
KEYS = """
name prompt messages system template context stream raw format options keep_alive images think suffix tools tool_choice
input truncate dimensions source destination from parameters max_tokens max_completion_tokens n temperature top_p top_k
min_p stop seed logprobs top_logprobs response_format stream_options reasoning reasoning_effort chat_template_kwargs
user echo encoding_format text thinking stop_sequences metadata include instructions presence_penalty
frequency_penalty repetition_penalty min_tokens max_output_tokens verbose
""".split()  # noqa: SIM905
BROKEN = [b"", b"{", b"[]", b"null", b"1", b'"x"', b"[" * 50_000, b'{"a":' * 3_000, b"\xff\xfe", b"{}{}", b'{"n":NaN}']
HEADERS = [
    *("Content-Encoding: gzip", "Content-Encoding: zstd", "Expect: 100-continue", "X-Request-Id: \x01"),
    *("Content-Type: multipart/form-data; boundary=x", "X-Forwarded-For: 1.2.3.4", "Prefer: wait=1e300"),
    *("Prefer: wait=-1", "Prefer: wait=nan", "Upgrade: websocket", "Authorization: Bearer \xff", "Range: bytes=0-"),
]


def a_body(rng: Random) -> bytes:
    """Returns a body that is nearly right, or broken."""
    if rng.random() < 0.07:
        return rng.choice(BROKEN)
    body = {key: rng.choice(VALUES) for key in rng.sample(KEYS, rng.randint(0, 7))}
    if rng.random() < 0.9:
        body["model"] = MODEL
    usual = {"messages": [TURN], "prompt": "x", "input": "x", "max_tokens": 2}
    body |= {key: value for key, value in usual.items() if rng.random() < 0.6}
    encoded = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        position = rng.randrange(len(encoded))
        encoded = encoded[:position] + rng.randbytes(3) + encoded[position + 3 :]
    return encoded


def a_request(rng: Random, routes: list[tuple[str, str]]) -> bytes:
    """Returns a whole request, or the beginning of one."""
    body = a_body(rng)
    method, path = rng.choice(routes)
    if method == "*" or rng.random() < 0.1:
        method = rng.choice(METHODS)
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    if rng.random() < 0.1:
        head.append(rng.choice(HEADERS))
    if rng.random() < 0.1:
        head.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    else:
        head.append(f"Content-Length: {len(body)}")
    raw = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body
    return raw[: rng.randrange(1, len(raw))] if rng.random() < 0.03 else raw


def open_files() -> int:
    """Returns how many files the process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def settled(files: int, tasks: int) -> None:
    """Waits until no more files and tasks are left than before."""
    async with asyncio.timeout(30):
        while open_files() > files or len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.02)


async def status_of(port: int, raw: bytes) -> str:
    """Sends a request and returns the status of its reply; "none" for a connection that ended without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(30):
            writer.write(raw)
            try:
                reply = await reader.read()
            except ConnectionError:
                return "none"
        assert b"internal error" not in reply, (raw[:300], reply[-300:])
        reply = reply.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"pull model manifest" in reply:
            # Ollama answers with 500 for a model that does not exist, and clients match its words.
            return "404"
        return reply[9:12].decode() or "none"
    finally:
        writer.transport.abort()


def everything() -> FakeGateway:
    """A gateway whose model can do everything."""
    return FakeGateway(model(capabilities=worker_pb2.Capability.values()[1:]))


def routes_of(app: web.Application) -> list[tuple[str, str]]:
    """Returns method and path of every route; the one that takes any path has one that does not exist."""
    names = {"{digest}": "sha256:00", "{model}": MODEL, "{path:.*}": "nowhere"}
    routes = []
    for route in app.router.routes():
        path = route.resource.canonical if route.resource is not None else "/"
        for name, value in names.items():
            path = path.replace(name, value)
        routes.append((route.method, path))
    return routes


async def test_http_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Over every route of every dialect."""
    rng, statuses = Random(14), Counter[str]()
    config = EdgeConfig(head_timeout_seconds=1, body_timeout_seconds=1, linger_seconds=0.1)
    app = build_app(everything(), fleet=FakeFleet(), config=config)
    routes = routes_of(app)
    assert len(routes) > 20
    server = EdgeServer(app)
    port = await server.start("127.0.0.1", 0)
    await status_of(port, b"GET / HTTP/1.0\r\n\r\n")
    files, tasks = open_files(), len(asyncio.all_tasks())
    try:
        for _ in range(REQUESTS // AT_ONCE):
            batch = [a_request(rng, routes) for _ in range(AT_ONCE)]
            found = await asyncio.gather(*(status_of(port, raw) for raw in batch))
            statuses.update(found)
            for status, raw in zip(found, batch, strict=True):
                assert status in DONE, (status, raw[:600])
        await settled(files, tasks)
    finally:
        await server.stop()
    print(dict(statuses))
    assert statuses["200"] > REQUESTS // 20
    assert statuses["none"] < REQUESTS // 10
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


MESSAGES = {
    "Generate": generation_pb2.GenerateRequest(
        model=MODEL,
        chat=generation_pb2.Chat(
            messages=[generation_pb2.Message(role="user", content="x")],
            tools=[generation_pb2.Tool(name="f", parameters_json='{"type":"object"}')],
        ),
        sampling=generation_pb2.Sampling(temperature=0.5, seed=1, max_tokens=3, stop=["x"]),
        output_format=generation_pb2.OutputFormat(json_schema='{"enum":[1]}'),
        session="s",
    ),
    "Tokenize": generation_pb2.TokenizeRequest(model=MODEL, prompt="x"),
    "Detokenize": generation_pb2.DetokenizeRequest(model=MODEL, token_ids=[1, 2]),
    "Embed": embedding_pb2.EmbedRequest(model=MODEL, inputs=["x"], dimensions=8),
}


def a_message(rng: Random, encoded: bytes) -> bytes:
    """Returns a message with some of its bytes changed, doubled or lost."""
    for _ in range(rng.randint(0, 3)):
        position = rng.randrange(len(encoded) + 1)
        change = rng.choice([rng.randbytes(1), b"", encoded[position : position + 9] * 2, b"\xff" * 9])
        encoded = encoded[:position] + change + encoded[position + rng.randint(0, 2) :]
    return encoded


@pytest.fixture
async def calls() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to both services on a gateway that plays scripts."""
    server, gateway, limits = grpc.aio.server(), everything(), ClientLimits()
    generation_pb2_grpc.add_GenerationServicer_to_server(
        GenerationService(gateway, Access(), limits, DEFAULT_LIMITS), server
    )
    embedding_pb2_grpc.add_EmbeddingServicer_to_server(
        EmbeddingService(gateway, Access(), limits, DEFAULT_LIMITS), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


async def code_of(channel: grpc.aio.Channel, method: str, encoded: bytes) -> str:
    """Calls a method with these bytes and returns the name of its status."""
    try:
        if method == "Generate":
            async for _ in channel.unary_stream("/vllama.v1.Generation/Generate")(encoded, timeout=30):
                pass
        else:
            service = "Embedding" if method == "Embed" else "Generation"
            await channel.unary_unary(f"/vllama.v1.{service}/{method}")(encoded, timeout=30)
    except grpc.aio.AioRpcError as error:
        # gRPC's own words for bytes that are no message.
        is_broken = "DecodeError" in (error.details() or "")
        return "broken" if is_broken else error.code().name
    return "OK"


async def test_grpc_calls(calls: grpc.aio.Channel) -> None:
    """Over the methods that clients call."""
    rng, codes = Random(18), Counter[str]()
    await code_of(calls, "Tokenize", MESSAGES["Tokenize"].SerializeToString())
    files, tasks = open_files(), len(asyncio.all_tasks())
    for _ in range(REQUESTS // 4 // AT_ONCE):
        batch = []
        for _ in range(AT_ONCE):
            method = rng.choice(list(MESSAGES))
            batch.append((method, a_message(rng, MESSAGES[method].SerializeToString(deterministic=True))))
        found = await asyncio.gather(*(code_of(calls, method, encoded) for method, encoded in batch))
        codes.update(found)
        for code, sent in zip(found, batch, strict=True):
            assert code in ("OK", "broken", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"), (code, sent)
    await settled(files, tasks)
    print(dict(codes))
    assert codes["OK"] > REQUESTS // 40
