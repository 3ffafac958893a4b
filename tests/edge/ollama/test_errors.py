"""Every error of the native API has the status and the sentence that tools match on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from vllama_balancer.errors import (
    CapabilityMissing,
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    NoWorker,
    Quarantined,
    QueueFull,
    WorkerLost,
)
from vllama_balancer.fake_gateway import FakeGateway, delta, model, started
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    import aiohttp

TURN = {"role": "user", "content": "hi"}
EMBEDDER = model("embedder:latest", capabilities=[worker_pb2.CAPABILITY_EMBEDDING])


@pytest.fixture
def gateway() -> FakeGateway:
    """A chat model and an embedding model."""
    return FakeGateway(model(), EMBEDDER)


async def refusal(http: aiohttp.ClientSession, path: str, **request: Any) -> tuple[int, str]:
    """Sends a request that must fail; returns its status and message."""
    async with http.post(path, **request) as reply:
        assert reply.content_type == "application/json"
        body = await reply.json()
        assert list(body) == ["error"]
        return reply.status, body["error"]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/show"])
async def test_an_empty_body_is_missing(http: aiohttp.ClientSession, path: str) -> None:
    """No body, or blanks, is its own error."""
    assert await refusal(http, path) == (400, "missing request body")
    assert await refusal(http, path, data=b" \n") == (400, "missing request body")


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"null", b'{"model":1}', b"\xff", b'{"a":' + b"[" * 100_000])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/show"])
async def test_a_malformed_body_is_400(http: aiohttp.ClientSession, path: str, body: bytes) -> None:
    """What is no JSON object with the right types is refused."""
    status, message = await refusal(http, path, data=body)
    assert status == 400
    assert message


async def test_a_wrong_type_names_its_field(http: aiohttp.ClientSession) -> None:
    """The parser's message says where the fault is."""
    _, message = await refusal(http, "/api/chat", json={"model": "m", "messages": [{"content": [1]}]})
    assert "$.messages[0].content" in message


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/api/generate", {}, (404, "model '' not found")),
        ("/api/generate", {"model": ""}, (404, "model '' not found")),
        ("/api/chat", {}, (400, "model is required")),
        ("/api/chat", {"model": None}, (400, "model is required")),
        ("/api/show", {}, (400, "model is required")),
        ("/api/generate", {"model": "a b"}, (400, "invalid model name")),
        ("/api/chat", {"model": "x:"}, (400, "invalid model name")),
        ("/api/show", {"model": "-"}, (400, "invalid model name")),
        ("/api/generate", {"model": "Nope"}, (404, "model 'Nope' not found")),
        ("/api/chat", {"model": "nope:1b"}, (404, "model 'nope:1b' not found")),
        ("/api/chat", {"model": "smollm2"}, (404, "model 'smollm2' not found")),
        ("/api/chat", {"model": "smollm2:135m-cloud"}, (404, "model 'smollm2:135m-cloud' not found")),
        ("/api/show", {"model": "nope"}, (404, "model 'nope:latest' not found")),
        ("/api/show", {"name": "library/nope"}, (404, "model 'nope:latest' not found")),
        ("/api/chat", {"model": "x:cloud:local"}, (400, 'use either :local or :cloud, not both: "x:cloud:local"')),
        (
            "/api/generate",
            {"model": "nope", "top_logprobs": 21},
            (400, "top_logprobs must be between 0 and 20"),
        ),
        ("/api/chat", {"model": "nope", "top_logprobs": -1}, (400, "top_logprobs must be between 0 and 20")),
    ],
)
async def test_names_and_early_checks(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    """Names are checked in the order and the words of each endpoint."""
    assert await refusal(http, path, json=body) == expected


FULL = "registry.ollama.ai/library/smollm2:135m"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/generate", {"prompt": "x", "raw": True, "system": "s"}, "raw mode does not support template, system"),
        ("/api/generate", {"prompt": "x", "raw": True, "context": [1]}, "raw mode does not support template, system"),
        ("/api/generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "template is a Go template"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, f"{FULL} does not support insert"),
        ("/api/generate", {"prompt": "x", "images": ["aGk="]}, f"{FULL} does not support vision"),
        ("/api/generate", {"prompt": "x", "context": [-1]}, "context contains -1"),
        ("/api/generate", {"prompt": "x", "think": True}, '"smollm2:135m" does not support thinking'),
        ("/api/chat", {"messages": [TURN], "think": "high"}, '"smollm2:135m" does not support thinking'),
        ("/api/chat", {"messages": [TURN], "think": "lots"}, 'invalid think value: "lots"'),
        ("/api/chat", {"messages": [TURN], "think": 1}, "think must be a boolean or string"),
        ("/api/chat", {"messages": [TURN], "tools": [TOOL]}, f"{FULL} does not support tools"),
        ("/api/chat", {"messages": [{**TURN, "images": ["aGk="]}]}, f"{FULL} does not support vision"),
        ("/api/chat", {"messages": [TURN], "format": "yaml"}, "invalid format"),
        ("/api/chat", {"messages": [TURN], "format": [1]}, 'expected "json" or a valid JSON Schema object'),
        ("/api/chat", {"messages": [TURN], "keep_alive": "soon"}, "invalid keep_alive"),
        ("/api/chat", {"messages": [TURN], "keep_alive": True}, "invalid keep_alive"),
        ("/api/chat", {"messages": [TURN], "options": {"num_ctx": "4k"}}, 'option "num_ctx" must be of type integer'),
        ("/api/chat", {"messages": [TURN], "options": {"top_p": "x"}}, 'option "top_p" must be of type float32'),
        ("/api/chat", {"messages": [TURN], "options": {"use_mmap": 1}}, 'option "use_mmap" must be of type boolean'),
        ("/api/chat", {"messages": [TURN], "options": {"stop": 1}}, 'option "stop" must be of type array'),
        ("/api/chat", {"messages": [TURN], "options": {"stop": [1]}}, 'option "stop" must be of an array of strings'),
    ],
)
async def test_wrong_fields(http: aiohttp.ClientSession, path: str, body: dict[str, Any], message: str) -> None:
    """A field that cannot be served is a 400 in Ollama's words."""
    status, text = await refusal(http, path, json={"model": "smollm2:135m", **body})
    assert status == 400
    assert message in text


@pytest.mark.parametrize(
    ("path", "verb", "body"),
    [("/api/generate", "generate", {"prompt": "x"}), ("/api/chat", "chat", {"messages": [TURN]})],
)
async def test_an_embedding_model_generates_nothing(
    http: aiohttp.ClientSession, path: str, verb: str, body: dict[str, Any]
) -> None:
    """The sentence repeats the name as it was requested."""
    answer = await refusal(http, path, json={"model": "Embedder", **body})
    assert answer == (400, f'"Embedder" does not support {verb}')


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (QueueFull("full"), (503, "server busy, please try again.  maximum pending requests exceeded")),
        (NoWorker("no worker is ready"), (503, "no worker is ready")),
        (WorkerLost("the worker died"), (503, "the worker died")),
        (DeadlineExceeded("too late"), (504, "too late")),
        (EngineFault("it broke"), (500, "it broke")),
        (Quarantined("this request kills workers"), (500, "this request kills workers")),
        (CapabilityMissing("no", field="tools"), (400, f"{FULL} does not support tools")),
        (InvalidRequest("5 > 4", reason="CONTEXT_TOO_LONG"), (400, "the prompt is longer than the context length")),
        (InvalidRequest("bad ref", field="output_format.json_schema"), (400, "invalid format: bad ref")),
        (RuntimeError("a bug"), (500, "internal error")),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_errors_before_the_first_chunk_are_plain_http(
    gateway: FakeGateway, http: aiohttp.ClientSession, error: Exception, expected: tuple[int, str], stream: bool
) -> None:
    """Even for a stream the status line waits, so that an early error has a status of its own."""
    gateway.play(started(), error)
    status, message = await refusal(
        http, "/api/chat", json={"model": "smollm2:135m", "messages": [TURN], "stream": stream}
    )
    assert (status, message[: len(expected[1])]) == expected


async def test_a_full_queue_says_when_to_come_back(gateway: FakeGateway, http: aiohttp.ClientSession) -> None:
    """Retry-After is in whole seconds, rounded up."""
    gateway.play(QueueFull("full", retry_after_seconds=1.2))
    async with http.post("/api/chat", json={"model": "smollm2:135m", "messages": [TURN]}) as reply:
        assert reply.headers["Retry-After"] == "2"


async def test_an_error_after_the_first_chunk_ends_the_stream(
    gateway: FakeGateway, http: aiohttp.ClientSession
) -> None:
    """The error is one more line, without a last chunk, and the status stays 200."""
    gateway.play(started(), delta("a"), WorkerLost("the worker died"))
    async with http.post("/api/chat", json={"model": "smollm2:135m", "messages": [TURN]}) as reply:
        assert reply.status == 200
        lines = (await reply.read()).splitlines()
    assert len(lines) == 2
    assert lines[1] == b'{"error":"the worker died"}'
