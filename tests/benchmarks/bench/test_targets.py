"""Every kind of target: its requests, its measurements and its failures."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.clients.cli.ollama_server import Answer, Hang, OllamaServer, chunk, last, ollama_server
from tests.clients.scripted_server import Refusal, Script, delta, finished, start_server, started
from vllama_benchmarks.bench.access import Access
from vllama_benchmarks.bench.command_target import CommandTarget
from vllama_benchmarks.bench.grpc_target import GrpcTarget
from vllama_benchmarks.bench.http_target import Dialect, HttpTarget, OllamaDialect, OpenAiDialect
from vllama_benchmarks.bench.sample import Request, Sample
from vllama_benchmarks.bench.specification import targets
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.clients.conftest import Server
    from vllama_benchmarks.bench.target import Target

REQUEST = Request("hello there", 20)


def event(**fields: object) -> str:
    """Builds a server-sent event."""
    import json

    return f"data: {json.dumps(fields)}\n"


OPENAI = [
    event(choices=[{"delta": {"role": "assistant"}}]),
    event(choices=[{"delta": {"content": "Hi"}}]),
    event(choices=[{"delta": {}, "finish_reason": "stop"}]),
    event(choices=[], usage={"prompt_tokens": 10, "completion_tokens": 20}),
    "data: [DONE]\n",
]


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaServer]:
    """A scripted HTTP server."""
    async with ollama_server() as server:
        server.answers["POST /api/chat"] = Answer([chunk("Hel"), chunk("lo"), last()])
        server.answers["POST /v1/chat/completions"] = Answer(OPENAI)
        yield server


def ticking() -> float:
    """A clock that advances by one second each time it is read."""
    ticking.now += 1.0
    return ticking.now


ticking.now = 0.0


async def one(target: Target, request: Request = REQUEST) -> Sample:
    """Sends one request."""
    async with target.session() as session:
        return await session.run(request)


@pytest.mark.parametrize("dialect", [OllamaDialect(), OpenAiDialect()])
async def test_http_targets_measure(ollama: OllamaServer, dialect: Dialect) -> None:
    """Counts come from the server, times from the clock: first text before the end."""
    sample = await one(HttpTarget(ollama.url, dialect, "m"))
    assert (sample.prompt_tokens, sample.tokens, sample.error) == (10, 20, "")
    assert 0 < (sample.ttft_seconds or 0) <= sample.seconds


async def test_time_per_token() -> None:
    """The first token is the prompt's; the rest share the rest of the time."""
    assert Sample(3.0, 1.0, 5).tpot_seconds == 0.5
    assert Sample(3.0, 1.0, 1).tpot_seconds is None
    assert Sample(3.0, None, 5).tpot_seconds is None


async def test_ollama_is_asked_for_the_length(ollama: OllamaServer) -> None:
    """Model, prompt and length reach the server."""
    await one(HttpTarget(ollama.url, OllamaDialect(), "m"))
    (_, body) = ollama.requests[0]
    assert body["model"] == "m"
    assert body["messages"][0]["content"] == "hello there"
    assert body["options"]["num_predict"] == 20


async def test_openai_is_asked_for_usage(ollama: OllamaServer) -> None:
    """The counts must come with the stream."""
    await one(HttpTarget(ollama.url, OpenAiDialect(), "m"))
    (_, body) = ollama.requests[0]
    assert (body["max_tokens"], body["stream_options"], body["ignore_eos"]) == (20, {"include_usage": True}, True)


async def test_thinking_is_text_too(ollama: OllamaServer) -> None:
    """The first token of a model that reasons is its first thought."""
    ollama.answers["POST /api/chat"] = Answer([chunk(thinking="Hm"), last()])
    assert (await one(HttpTarget(ollama.url, OllamaDialect(), "m"))).ttft_seconds is not None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer([chunk("Hi"), {"error": "the worker was lost"}]), "the worker was lost"),
        (Answer([{"error": "server busy"}], 503), "server busy"),
        (Answer([{"error": {"message": "no such model"}}], 404), "no such model"),
        (Answer([chunk("Hi")]), "ended in the middle"),
        (Answer(["no json"]), "Expecting value"),
        (Answer([[1]]), "no object"),
    ],
    ids=["in the stream", "refused", "OpenAI's shape", "cut off", "garbage", "a list"],
)
async def test_failures_are_samples(ollama: OllamaServer, answer: Answer, error: str) -> None:
    """A request that breaks is measured as broken, and the session goes on."""
    ollama.answers["POST /api/chat"] = answer
    async with HttpTarget(ollama.url, OllamaDialect(), "m").session() as session:
        assert error in (await session.run(REQUEST)).error
        ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
        assert (await session.run(REQUEST)).error == ""


async def test_nobody_there() -> None:
    """A refused connection is a sample with its reason."""
    assert (await one(HttpTarget("http://127.0.0.1:1", OllamaDialect(), "m"))).error


async def test_a_cancelled_request_leaves_nothing_behind(ollama: OllamaServer) -> None:
    """After a time-out the next answer is read from its own beginning."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), Hang()])
    async with HttpTarget(ollama.url, OllamaDialect(), "m").session() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await session.run(REQUEST)
        async with asyncio.timeout(10):
            await ollama.left.wait()
        ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
        assert (await session.run(REQUEST)).tokens == 20


async def test_the_api_key_is_sent(ollama: OllamaServer) -> None:
    """Guarded servers can be measured."""
    await one(HttpTarget(ollama.url, OllamaDialect(), "m", access=Access("s3cret")))
    assert ollama.authorizations == ["Bearer s3cret"]


async def test_grpc_measures(server: Server) -> None:
    """Counts come from `finished`, and the request carries length and model."""
    usage = generation_pb2.Usage(prompt_tokens=3, completion_tokens=20)
    server.script.streams = [[started(), delta("Hello"), finished(usage=usage)]]
    sample = await one(GrpcTarget(server.target, "m"))
    assert (sample.prompt_tokens, sample.tokens, sample.error) == (3, 20, "")
    assert 0 < (sample.ttft_seconds or 0) <= sample.seconds
    (request,) = server.script.requests
    assert (request.chat.messages[0].content, request.sampling.max_tokens) == ("hello there", 20)
    assert request.sampling.ignore_eos


@pytest.mark.parametrize(
    ("stream", "error"),
    [([Refusal(grpc.StatusCode.UNAVAILABLE, "No worker.")], "No worker."), ([started()], "ended in the middle")],
)
async def test_grpc_failures_are_samples(server: Server, stream: list, error: str) -> None:
    """A refused or cut stream is measured as broken."""
    server.script.streams = [stream]
    assert error in (await one(GrpcTarget(server.target, "m"))).error


async def test_https_trusts_the_given_authority(certificate: tuple[bytes, bytes], tmp_path: Path) -> None:
    """An HTTPS server is measured with its authority, and is a failure without."""
    chain, key = certificate
    (tmp_path / "pair.pem").write_bytes(chain + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    async with ollama_server(context) as server:
        server.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
        address = [f"a=ollama:{server.url.replace('127.0.0.1', 'localhost')}"]
        assert (await one(targets(address, "m", Access(authority=chain.decode()))["a"])).tokens == 20
        assert "CERTIFICATE_VERIFY_FAILED" in (await one(targets(address, "m", Access())["a"])).error


async def test_grpcs_trusts_the_given_authority(certificate: tuple[bytes, bytes]) -> None:
    """A TLS server is measured with its authority, and is a failure without."""
    chain, key = certificate
    script = Script(streams=[[started(), delta("Hello"), finished(usage=generation_pb2.Usage(completion_tokens=20))]])
    running, port = await start_server(script, "localhost:0", grpc.ssl_server_credentials([(key, chain)]))
    address = [f"a=grpcs:localhost:{port}"]
    try:
        assert (await one(targets(address, "m", Access(authority=chain.decode()))["a"])).tokens == 20
        assert (await one(targets(address, "m", Access())["a"])).error
    finally:
        await running.stop(None)


PROGRAM = """
import json, sys
print("loading", flush=True)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["prompt"] == "die":
        sys.exit("no such engine")
    answer = {"id": request["id"], "seconds": 2.0, "ttft_seconds": 0.5, "tokens": request["max_tokens"]}
    print(json.dumps(answer | {"prompt_tokens": len(request["prompt"])}), flush=True)
"""


@pytest.fixture
async def program(tmp_path: object) -> AsyncIterator[CommandTarget]:
    """A program that answers at once and makes its times up."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    target = CommandTarget(f"{sys.executable} {script}")
    yield target
    await target.close()


async def test_a_program_measures_itself(program: CommandTarget) -> None:
    """Its own times and counts are taken; noise on its output is skipped."""
    assert await one(program) == Sample(2.0, 0.5, 20, 11)


async def test_sessions_share_the_program(program: CommandTarget) -> None:
    """Many requests at once go to one process, and each gets its own answer."""
    samples = await asyncio.gather(*(one(program, Request("x" * length, 1)) for length in range(1, 20)))
    assert [sample.prompt_tokens for sample in samples] == list(range(1, 20))


async def test_a_program_that_dies(program: CommandTarget) -> None:
    """What was under way is broken, and so is what comes after; its last words say why."""
    assert (await one(program, Request("die", 1))).error == "the program ended in the middle: no such engine"
    assert (await one(program)).error == "the program has ended: no such engine"
