"""Handlers echo names, load and unload, render without generating, and pass keep_alive on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve

TURN = {"role": "user", "content": "hi"}


class RecordingResidency:
    """Records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def load(self, name: str, keep_alive_seconds: float | None) -> None:
        """Records a load."""
        self.calls.append(("load", name, keep_alive_seconds))

    async def unload(self, name: str) -> None:
        """Records an unload."""
        self.calls.append(("unload", name))

    def keep(self, name: str, keep_alive_seconds: float) -> None:
        """Records a time."""
        self.calls.append(("keep", name, keep_alive_seconds))


async def post(http: aiohttp.ClientSession, path: str, **body: Any) -> dict[str, Any]:
    """Posts JSON and reads one object."""
    async with http.post(path, json=body) as reply:
        assert reply.status == 200
        assert reply.content_type == "application/json"
        decoded: dict[str, Any] = await reply.json()
        return decoded


@pytest.mark.parametrize("requested", ["smollm2:135m", "SmolLM2:135M", "library/smollm2:135m", " smollm2:135m "])
async def test_the_requested_name_is_echoed(http: aiohttp.ClientSession, gateway: FakeGateway, requested: str) -> None:
    """The wire has the display form, the reply what the client wrote."""
    reply = await post(http, "/api/chat", model=requested, messages=[TURN], stream=False)
    assert reply["model"] == requested
    assert gateway.requests[0].model == "smollm2:135m"


ZEROS = {"seed": 0, "num_predict": 0, "temperature": 0, "top_k": 0, "min_p": 0, "presence_penalty": 0}
"""Options that mean something at zero, and fields that read as zero when they are not set."""


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_zeros_reach_the_worker_as_zeros(http: aiohttp.ClientSession, gateway: FakeGateway, path: str) -> None:
    """A seed of 0 is a seed, no tokens are none, and a temperature of 0 is greedy."""
    prompt = {"prompt": "hi"} if path == "/api/generate" else {"messages": [TURN]}
    await post(http, path, model="smollm2:135m", stream=False, options=ZEROS, **prompt)
    [request] = gateway.requests
    names = {"num_predict": "max_tokens"}
    for option in ZEROS:
        field = names.get(option, option)
        assert request.sampling.HasField(field), field  # type: ignore[arg-type]
        assert getattr(request.sampling, field) == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": None, "keep_alive": "10m"}])
async def test_an_empty_prompt_loads(http: aiohttp.ClientSession, body: dict[str, Any], stream: bool) -> None:
    """One object even when streaming, without counts and context."""
    reply = await post(http, "/api/generate", model="smollm2:135m", stream=stream, **body)
    reply.pop("created_at")
    assert reply == {"model": "smollm2:135m", "response": "", "done": True, "done_reason": "load"}


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s"])
async def test_keep_alive_0_unloads(http: aiohttp.ClientSession, keep_alive: object) -> None:
    """In both calls; a model that is pinned stays, with the same reply."""
    reply = await post(http, "/api/generate", model="smollm2:135m", keep_alive=keep_alive)
    assert reply["done_reason"] == "unload"
    reply = await post(http, "/api/chat", model="smollm2:135m", keep_alive=keep_alive, messages=[])
    reply.pop("created_at")
    assert reply == {
        "model": "smollm2:135m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "unload",
    }


async def test_residency_is_told(serve: Serve) -> None:
    """Loads, unloads, and how long to keep."""
    residency = RecordingResidency()
    async with serve(FakeGateway(), residency=residency) as http:
        await post(http, "/api/generate", model="smollm2:135m")
        await post(http, "/api/chat", model="smollm2:135m", keep_alive=-1)
        await post(http, "/api/generate", model="smollm2:135m", keep_alive=0)
        await post(http, "/api/generate", model="smollm2:135m", prompt="hi", stream=False, keep_alive="5m")
        await post(http, "/api/generate", model="smollm2:135m", prompt="hi", stream=False)
    assert residency.calls == [
        ("load", "smollm2:135m", None),
        ("load", "smollm2:135m", math.inf),
        ("unload", "smollm2:135m"),
        ("keep", "smollm2:135m", 300),
    ]


async def test_the_prompt_can_be_looked_at(http: aiohttp.ClientSession, gateway: FakeGateway) -> None:
    """Rendered, without generating."""
    body = {"model": "smollm2:135m", "_debug_render_only": True}
    reply = await post(http, "/api/chat", messages=[TURN], **body)
    assert reply["_debug_info"] == {"rendered_template": "user: hi\n"}
    reply = await post(http, "/api/generate", prompt="hi", raw=True, **body)
    assert reply["_debug_info"] == {"rendered_template": "hi"}
    assert not gateway.requests


async def test_head_works_where_get_does(http: aiohttp.ClientSession) -> None:
    """Load balancers and the command line probe with HEAD."""
    for path in ("/", "/api/version", "/api/tags", "/api/ps"):
        async with http.head(path) as reply:
            assert reply.status == 200
            assert await reply.read() == b""


async def test_a_model_without_a_template_continues_from_context(serve: Serve) -> None:
    """The tokens of the earlier reply come before those of the prompt."""
    gateway = FakeGateway(model("base:latest", capabilities=[worker_pb2.CAPABILITY_COMPLETION]))
    async with serve(gateway) as http:
        reply = await post(http, "/api/generate", model="base", prompt="a b c", context=[7, 8], stream=False)
    assert reply["response"] == "Hello world"
    assert list(gateway.requests[0].token_ids.ids) == [7, 8, 0, 1, 2]
    assert not gateway.requests[0].context_token_ids
