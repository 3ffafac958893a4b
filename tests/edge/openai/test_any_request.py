"""Any JSON object under /v1 is either a valid generation or refused by the name of a field."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.body import decode_json, encode_json
from vllama_balancer.edge.openai import chat_request, completions, responses_request
from vllama_balancer.edge.openai.embeddings import EmbeddingsRequest, to_embed_request
from vllama_balancer.edge.openai.handlers import choices_of
from vllama_balancer.edge.openai.reply_fields import ReplyIdentity
from vllama_balancer.edge.openai.responses_reply import ResponseStream
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.edge.wire.choices import nth_choice
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, model
from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

INNER_WORDS = """
role content type function parameters arguments effort format schema url image_url json_schema id call_id output
summary encrypted_content description include_usage
"""
WORDS = sorted(
    {
        *chat_request.ChatRequest.__struct_fields__,
        *completions.CompletionRequest.__struct_fields__,
        *responses_request.ResponsesRequest.__struct_fields__,
        *EmbeddingsRequest.__struct_fields__,
        *INNER_WORDS.split(),
    }
)
KNOWN_TEXTS = """
user assistant tool system text image_url function message function_call function_call_output reasoning json_object
json_schema auto none required high xhigh input_text input_image base64 {} {"a":1} [1] data:image/png;base64,aGk=
data:;base64,! https://a/b.png
"""
TEXTS = st.sampled_from(["", *KNOWN_TEXTS.split()]) | st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, -(2**63), 10**30, 0, 1, 20, 21])
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name", "type"]), VALUES), max_size=3
)
BODIES = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=8) | st.builds(
    lambda body, messages, name: {**body, "messages": messages, "input": messages, name: messages},
    st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=5),
    MESSAGES,
    st.sampled_from(WORDS),
)
PLAIN: dict[str, Any] = {
    "model": "smollm2:135m",
    "input": "hi",
    "prompt": "hi",
    "messages": [{"role": "user", "content": ""}],
}


def _choices(generation: generation_pb2.GenerateRequest, n: int | None) -> list[generation_pb2.GenerateRequest]:
    return [nth_choice(generation, index) for index in range(choices_of(n))]


def _chat(body: bytes) -> list[Any]:
    request = decode_json(body, chat_request.ChatRequest)
    return _choices(chat_request.to_generation(request), request.n)


def _completion(body: bytes) -> list[Any]:
    request = decode_json(body, completions.CompletionRequest)
    return _choices(completions.to_generation(request), request.n)


def _response(body: bytes) -> list[Any]:
    request = decode_json(body, responses_request.ResponsesRequest)
    generation = responses_request.to_generation(request)
    stream = ResponseStream(ReplyIdentity("resp_", "0", 0, "m"), request, now=lambda: 0)
    end = generation_pb2.Finished(reason=generation_pb2.FINISH_REASON_STOP)
    encode_json(stream.events(end))
    return [generation]


def _embedding(body: bytes) -> list[Any]:
    return [to_embed_request(decode_json(body, EmbeddingsRequest))]


@pytest.mark.parametrize("translate", [_chat, _completion, _response, _embedding])
@settings(max_examples=100, deadline=None)
@given(body=BODIES)
@example(body={**PLAIN, "seed": 2**64})
@example(body={**PLAIN, "max_tokens": 10**30, "top_k": -(10**30), "min_tokens": 10**30, "dimensions": 10**30})
@example(body={**PLAIN, "max_output_tokens": -(10**30), "n": 10**30})
@example(body={**PLAIN, "chat_template_kwargs": {"a": 10**400}})
@example(body={**PLAIN, "metadata": {"a": 10**400}})
@example(body={**PLAIN, "temperature": -1e300, "top_p": 1e300, "min_p": -5})
def test_any_object_is_translated_or_refused_by_name(translate: Callable[[bytes], list[Any]], body: Any) -> None:
    """A translation ends in messages that the wire can carry, or in one sentence about one field."""
    try:
        messages = translate(json.dumps(body).encode())
    except InvalidRequest as error:
        assert error.field
        assert str(error)
    else:
        for message in messages:
            assert type(message).FromString(message.SerializeToString()) == message


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "embeddings"])
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies=st.lists(BODIES, min_size=8, max_size=8))
def test_no_object_makes_a_server_error(path: str, bodies: list[Any]) -> None:
    """Over HTTP as well, the answer is 200 or an error of OpenAI's shape below 500."""
    for status, reply in asyncio.run(_post(f"/v1/{path}", bodies)):
        assert status in (200, 400, 404)
        if status != 200:
            assert json.loads(reply)["error"]["message"]


async def _post(path: str, bodies: list[Any]) -> list[tuple[int, bytes]]:
    """Posts bodies to an edge whose model has all capabilities."""
    entry = model(capabilities=worker_pb2.Capability.values()[1:])
    server = EdgeServer(build_app(FakeGateway(entry), fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            answers = []
            for body in bodies:
                async with http.post(path, json={**body, "model": entry.name}) as reply:
                    answers.append((reply.status, await reply.read()))
            return answers
    finally:
        await server.stop()


def test_variables_of_the_template_are_few() -> None:
    """They are an object of some kilobytes; each value costs microseconds."""
    body = {**PLAIN, "chat_template_kwargs": {"a": [1] * 10_000}}
    with pytest.raises(InvalidRequest, match="chat_template_kwargs has 20007 bytes"):
        _chat(json.dumps(body, separators=(",", ":")).encode())
    with pytest.raises(InvalidRequest, match="chat_template_kwargs: Expected `object`"):
        _chat(json.dumps({**PLAIN, "chat_template_kwargs": [1]}).encode())
    [none] = _chat(json.dumps({**PLAIN, "chat_template_kwargs": None}).encode())
    assert not none.chat.HasField("template_switches")


@pytest.mark.parametrize("field", ["tools", "response_format", "chat_template_kwargs", "messages"])
@pytest.mark.parametrize("levels", [90, 150, 900, 980, 100_000])
def test_deeply_nested_requests_are_refused(field: str, levels: int) -> None:
    """Excessive nesting is refused at any depth, and crashes no encoder."""
    deep = '{"a":' * levels + "1" + "}" * levels
    wrapped = {
        "tools": f'[{{"function":{{"name":"f","parameters":{deep}}}}}]',
        "response_format": f'{{"type":"json_schema","json_schema":{{"schema":{deep}}}}}',
        "chat_template_kwargs": deep,
        "messages": deep,
    }[field]
    body = f'{{"messages":[{{"role":"user","content":"a"}}],"{field}":{wrapped}}}'.encode()
    try:
        _chat(body)
    except InvalidRequest as error:
        assert "nested" in str(error) or field in str(error)
    else:
        assert levels == 90
