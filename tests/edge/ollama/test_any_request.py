"""Any JSON object is a valid request, or a 400 that names the field; never a failure of the server."""

from __future__ import annotations

import json
import os
import string
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    import aiohttp

EXAMPLES = int(os.environ.get("VLLAMA_FUZZ_EXAMPLES", "40"))
"""For each endpoint; a long run asks for more."""

ABLE = [value for value in worker_pb2.Capability.values() if value]

TEXTS = st.text(max_size=20) | st.sampled_from(["json", "able", "user", "tool", "aGk=", "5m", "high", "\udfff"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=3),
    max_leaves=8,
)

FUNCTIONS = st.fixed_dictionaries({}, optional={"name": TEXTS, "arguments": ANY_JSON, "parameters": ANY_JSON})
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": TEXTS | ANY_JSON,
        "content": TEXTS | ANY_JSON,
        "images": st.lists(TEXTS, max_size=2) | ANY_JSON,
        "tool_calls": st.lists(st.fixed_dictionaries({"function": FUNCTIONS}), max_size=2) | ANY_JSON,
        "thinking": TEXTS | ANY_JSON,
        "tool_name": ANY_JSON,
    },
)
OPTIONS = st.dictionaries(
    st.sampled_from(["temperature", "top_k", "top_p", "seed", "num_predict", "num_ctx", "stop", "min_p", "odd"]),
    ANY_JSON,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": TEXTS | ANY_JSON,
    "suffix": ANY_JSON,
    "system": ANY_JSON,
    "template": ANY_JSON,
    "context": st.lists(st.integers(), max_size=3) | ANY_JSON,
    "stream": ANY_JSON,
    "raw": ANY_JSON,
    "format": TEXTS | ANY_JSON,
    "options": OPTIONS | ANY_JSON,
    "keep_alive": TEXTS | ANY_JSON,
    "images": st.lists(TEXTS, max_size=2) | ANY_JSON,
    "think": TEXTS | ANY_JSON,
    "truncate": ANY_JSON,
    "logprobs": ANY_JSON,
    "top_logprobs": ANY_JSON,
    "messages": st.lists(MESSAGES, max_size=3) | ANY_JSON,
    "tools": st.lists(st.fixed_dictionaries({"function": FUNCTIONS}), max_size=2) | ANY_JSON,
    "input": TEXTS | ANY_JSON,
    "dimensions": ANY_JSON,
    "name": TEXTS,
    "verbose": ANY_JSON,
    "_debug_render_only": ANY_JSON,
}
MODELS = st.just("able") | TEXTS | ANY_JSON
BODIES = st.builds(
    lambda of, fields, more: {**more, **fields, "model": of},
    MODELS,
    st.fixed_dictionaries({}, optional=FIELDS),
    st.dictionaries(st.text(string.ascii_letters), ANY_JSON, max_size=2),
)


@pytest.fixture
def gateway() -> FakeGateway:
    """A model that can do everything."""
    return FakeGateway(model("able:latest", capabilities=ABLE))


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/show", "/api/embed", "/api/embeddings"])
@given(body=BODIES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_object_is_served_or_refused(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    """What is refused has a sentence; what is served ends well."""
    async with http.post(path, data=json.dumps(body).encode()) as reply:
        text = await reply.text()
        assert reply.status in (200, 400, 404), text
        last = json.loads(text.splitlines()[-1])
        if reply.status != 200:
            assert list(last) == ["error"]
            assert last["error"]
        elif path in ("/api/generate", "/api/chat") and "_debug_info" not in last:
            assert last["done"] is True


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/show", "/api/embed", "/api/embeddings"])
@given(body=st.binary(max_size=200))
@settings(
    max_examples=EXAMPLES // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_bytes_are_refused(http: aiohttp.ClientSession, path: str, body: bytes) -> None:
    """Random bytes are hardly ever a request."""
    async with http.post(path, data=body) as reply:
        assert reply.status in (400, 404)
        assert list(await reply.json()) == ["error"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"able","prompt":"\\ud83d"}',
        b'{"model":"able","prompt":"x","format":{"a":"\\ud83d"}}',
        b'{"model":"able","prompt":"x","format":{"a":"\xff"}}',
        b'{"model":"able","prompt":"x","options":{"seed":' + b"9" * 400 + b"}}",
        b'{"model":"able","prompt":"x","options":{"temperature":' + b"9" * 400 + b"}}",
        b'{"model":"able","prompt":"x","context":[' + b"9" * 400 + b"]}",
        b'{"model":"able","prompt":"x","keep_alive":' + b"9" * 400 + b"}",
        b'{"model":"able","prompt":"x","top_logprobs":' + b"9" * 400 + b"}",
        b'{"model":"able","prompt":"x","think":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
async def test_odd_but_possible_bodies(http: aiohttp.ClientSession, body: bytes) -> None:
    """Cut surrogates, huge numbers and deep nesting are no failure of the server."""
    async with http.post("/api/generate", data=body) as reply:
        assert reply.status in (200, 400), await reply.text()
