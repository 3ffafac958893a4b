"""Models are pulled, copied, created and deleted in the words that clients wait for."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from vllama_balancer.errors import ModelNotFound, PermissionDenied
from vllama_balancer.fake_gateway import presets
from vllama_balancer.gateway import Progress, Recipe
from vllama_balancer.keys import Scope
from vllama_balancer.models.errors import AccessRefused, ModelInUse, ModelUnknown, PullsFull
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import aiohttp

    from tests.edge.conftest import Serve
    from vllama_balancer.callers import Caller
    from vllama_balancer.fake_gateway import FakeGateway

DIGEST = "sha256:" + "ab" * 32


class ScriptedManagement:
    """Records its calls; fails with `error` when a test sets it."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.error: Exception | None = None
        self.wait: asyncio.Event | None = None
        self.closed = asyncio.Event()

    async def pull(self, name: str, caller: Caller) -> AsyncGenerator[Progress, None]:
        """Downloads one file in two steps."""
        self.calls.append(("pull", name))
        self.caller = caller
        try:
            if self.error is not None:
                raise self.error
            yield Progress("downloading", 5, 10, DIGEST)
            if self.wait is not None:
                await self.wait.wait()
            yield Progress("downloading", 10, 10, DIGEST)
            yield Progress("converting tensors")
        finally:
            self.closed.set()

    async def delete(self, name: str) -> None:
        """Notes a deletion."""
        self._note("delete", name)

    async def copy(self, source: str, destination: str) -> None:
        """Notes a copy."""
        self._note("copy", source, destination)

    async def create(self, name: str, recipe: Recipe) -> None:
        """Notes a creation."""
        self._note("create", name, recipe)

    def _note(self, *what: object) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(what)


@pytest.fixture
def management() -> ScriptedManagement:
    """Management that a test scripts."""
    return ScriptedManagement()


@pytest.fixture
async def http(
    gateway: FakeGateway, management: ScriptedManagement, serve: Serve
) -> AsyncIterator[aiohttp.ClientSession]:
    """An edge whose models can be managed."""
    async with serve(gateway, management=management) as session:
        yield session


async def send(http: aiohttp.ClientSession, path: str, method: str = "POST", **body: Any) -> tuple[int, list[Any]]:
    """Sends a request and reads its lines."""
    async with http.request(method, path, json=body) as reply:
        return reply.status, [json.loads(line) for line in (await reply.text()).splitlines()]


async def test_pull_tells_its_progress(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """Files by their digest, in bytes; success comes last."""
    status, lines = await send(http, "/api/pull", model="qwen2.5:0.5b", insecure=True)
    assert status == 200
    assert lines == [
        {"status": "pulling manifest"},
        {"status": "pulling abababababab", "digest": DIGEST, "total": 10, "completed": 5},
        {"status": "pulling abababababab", "digest": DIGEST, "total": 10, "completed": 10},
        {"status": "converting tensors"},
        {"status": "success"},
    ]
    assert management.calls == [("pull", "qwen2.5:0.5b")]


async def test_pull_without_a_stream_is_one_object(http: aiohttp.ClientSession) -> None:
    """The old key names the model."""
    assert await send(http, "/api/pull", name="x", stream=False) == (200, [{"status": "success"}])


async def test_an_unknown_model_cannot_be_pulled(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """Clients look for Ollama's words, in a line or in an error."""
    management.error = ModelUnknown("there is no 'x'")
    status, lines = await send(http, "/api/pull", model="x")
    assert (status, lines[0]) == (200, {"status": "pulling manifest"})
    assert lines[1]["error"].startswith("pull model manifest: file does not exist")
    status, lines = await send(http, "/api/pull", model="x", stream=False)
    assert status == 500
    assert lines[0]["error"].startswith("pull model manifest: file does not exist")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refused_pull_has_its_status(
    http: aiohttp.ClientSession, management: ScriptedManagement, stream: bool
) -> None:
    """Before the first line: 403 without the scope, 503 with the time of a retry behind a long queue."""
    management.error = PermissionDenied("this needs the scope models")
    assert await send(http, "/api/pull", model="x", stream=stream) == (403, [{"error": "this needs the scope models"}])
    management.error = PullsFull("16 wait", retry_after_seconds=30)
    async with http.post("/api/pull", json={"model": "x", "stream": stream}) as reply:
        assert (reply.status, reply.headers["Retry-After"]) == (503, "30")


async def test_whoever_may_not_install_finds_what_is_served(
    http: aiohttp.ClientSession, management: ScriptedManagement
) -> None:
    """Clients pull a model before they use it."""
    management.error = PermissionDenied("this needs the scope models")
    status, lines = await send(http, "/api/pull", model="smollm2:135m")
    assert (status, lines) == (200, [{"status": "pulling manifest"}, {"status": "success"}])


async def test_the_caller_of_a_pull_is_known(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """Its rights decide what it may install."""
    await send(http, "/api/pull", model="x")
    assert management.caller.is_operator
    async with http.post("/api/pull", json={"model": "x"}, headers={"X-Forwarded-For": "192.0.2.7"}) as reply:
        assert reply.status == 200
    assert not management.caller.is_operator and not management.caller.may(Scope.MODELS)


async def test_what_is_served_is_there_whatever_its_source(
    http: aiohttp.ClientSession, management: ScriptedManagement
) -> None:
    """Clients pull a model before they use it, also one that no store has."""
    management.error = ModelUnknown("there is none")
    status, lines = await send(http, "/api/pull", model="smollm2:135m")
    assert (status, lines[-1]) == (200, {"status": "success"})


async def test_a_refused_download_says_why(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """The sentence of the store comes through."""
    management.error = AccessRefused("the hub needs a token: set HF_TOKEN")
    assert await send(http, "/api/pull", model="x", stream=False) == (
        403,
        [{"error": "the hub needs a token: set HF_TOKEN"}],
    )


async def test_a_client_that_leaves_ends_the_download(
    http: aiohttp.ClientSession, management: ScriptedManagement
) -> None:
    """A later pull resumes it."""
    management.wait = asyncio.Event()
    reply = await http.post("/api/pull", json={"model": "x"})
    await reply.content.readline()
    reply.close()
    async with asyncio.timeout(5):
        await management.closed.wait()


async def test_delete_and_copy_answer_with_nothing(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """200 and an empty body."""
    assert await send(http, "/api/delete", "DELETE", name="x") == (200, [])
    assert await send(http, "/api/copy", source="x", destination="y:1") == (200, [])
    assert management.calls == [("delete", "x"), ("copy", "x", "y:1")]


async def test_create_makes_an_alias(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """From a model, with presets; lists for stop texts and licences."""
    status, lines = await send(
        http,
        "/api/create",
        **{"model": "mario", "from": "smollm2:135m", "system": "You are Mario.", "license": ["A", "B"]},
        parameters={"temperature": 1, "stop": ["###"], "num_ctx": None},
        messages=[{"role": "user", "content": "hi"}],
        template="{{ messages[0].content }}",
    )
    assert status == 200
    assert [line["status"] for line in lines] == ["reading model metadata", "writing manifest", "success"]
    recipe = Recipe(
        base="smollm2:135m",
        system="You are Mario.",
        options=presets(temperature=1.0, stop=["###"]).options,
        messages=[generation_pb2.Message(role="user", content="hi")],
        license="A\n\nB",
        template="{{ messages[0].content }}",
    )
    assert management.calls == [("create", "mario", recipe)]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/api/pull", {}, "invalid model name"),
        ("POST", "/api/pull", {"model": "a b"}, "invalid model name"),
        ("DELETE", "/api/delete", {"model": "a b"}, 'name "a b" is invalid'),
        ("POST", "/api/copy", {"source": "a b", "destination": "c"}, 'source "a b" is invalid'),
        ("POST", "/api/copy", {"source": "a", "destination": ""}, 'destination "" is invalid'),
        ("POST", "/api/create", {"model": "a b", "from": "x"}, "invalid model name"),
        ("POST", "/api/create", {"model": "a"}, "neither 'from' or 'files' was specified"),
        ("POST", "/api/create", {"model": "a", "files": {"a": DIGEST}}, "files are not supported"),
        ("POST", "/api/create", {"model": "a", "from": "x", "quantize": "q4_0"}, "quantize is not supported"),
        ("POST", "/api/create", {"model": "a", "from": "x", "template": "{{ .Prompt }}"}, "template is a Go template"),
        ("POST", "/api/create", {"model": "a", "from": "x", "adapters": {"a": "b"}}, "adapters are not supported"),
        (
            "POST",
            "/api/create",
            {"model": "a", "from": "x", "parameters": {"top_k": "x"}},
            'option "top_k" must be of type integer',
        ),
        ("POST", "/api/blobs/sha256:12", {}, "invalid digest format"),
    ],
)
async def test_wrong_requests(
    http: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any], expected: str
) -> None:
    """A 400 in Ollama's words, and nothing is done."""
    status, lines = await send(http, path, method, **body)
    assert status == 400
    assert lines[0]["error"].startswith(expected)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/copy"), ("POST", "/api/create")],
)
async def test_an_empty_body_is_missing(http: aiohttp.ClientSession, method: str, path: str) -> None:
    """As everywhere."""
    async with http.request(method, path) as reply:
        assert (reply.status, await reply.json()) == (400, {"error": "missing request body"})


async def test_unknown_models(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """Each call has its own quotes."""
    management.error = ModelNotFound("no")
    assert await send(http, "/api/delete", "DELETE", model="x") == (404, [{"error": "model 'x' not found"}])
    answer = await send(http, "/api/copy", source="x", destination="y")
    assert answer == (404, [{"error": 'model "x" not found'}])


async def test_a_pinned_model_stays(http: aiohttp.ClientSession, management: ScriptedManagement) -> None:
    """The configuration is stronger than a client."""
    management.error = ModelInUse("m is pinned")
    assert await send(http, "/api/delete", "DELETE", model="m") == (403, [{"error": "m is pinned"}])


@pytest.mark.parametrize(("path", "status"), [("/api/push", 501), (f"/api/blobs/{DIGEST}", 501)])
async def test_uploads_are_refused_clearly(http: aiohttp.ClientSession, path: str, status: int) -> None:
    """A JSON error at once, never a hang."""
    answer = await send(http, path, model="x")
    assert answer[0] == status
    assert "not supported" in answer[1][0]["error"]


async def test_there_are_no_blobs(http: aiohttp.ClientSession) -> None:
    """Clients ask with HEAD before they upload."""
    async with http.head(f"/api/blobs/{DIGEST}") as reply:
        assert reply.status == 404
    async with http.head("/api/blobs/x") as reply:
        assert reply.status == 400


async def test_fixed_models_can_be_pulled_and_nothing_else(gateway: FakeGateway, serve: Serve) -> None:
    """Without management, what is served is there, and stays."""
    async with serve(gateway) as http:
        status, lines = await send(http, "/api/pull", model="SmolLM2:135m")
        assert (status, lines[-1]) == (200, {"status": "success"})
        _, lines = await send(http, "/api/pull", model="x")
        assert lines[-1]["error"].startswith("pull model manifest: file does not exist")
        assert (await send(http, "/api/delete", "DELETE", model="smollm2:135m"))[0] == 403
        assert (await send(http, "/api/delete", "DELETE", model="x"))[0] == 404
        assert (await send(http, "/api/copy", source="smollm2:135m", destination="y"))[0] == 403
        answer = await send(http, "/api/create", **{"model": "y", "from": "smollm2:135m", "stream": False})
        assert answer[0] == 403
