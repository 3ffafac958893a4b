"""/v1/messages and its count_tokens, through Anthropic's client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import anthropic
import pytest

from vllama_balancer.errors import EngineFault, QueueFull, WorkerLost
from vllama_balancer.fake_gateway import delta, finished, model, presets, started
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from vllama_balancer.fake_gateway import FakeGateway

MODEL = "smollm2:135m"
HI: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {"name": "weather", "description": "Tells it.", "input_schema": {"type": "object"}}
CALL = generation_pb2.ToolCall(id="toolu_1", name="weather", arguments_json='{"city":"Kyiv"}')


async def test_a_message_answers_with_blocks(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """A message that is not streamed has its text, its reason and its counts."""
    message = await client.messages.create(model=MODEL, max_tokens=9, messages=HI, system="be brief")
    [block] = message.content
    assert block.type == "text"
    assert (block.text, message.stop_reason, message.model) == ("Hello world", "end_turn", MODEL)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 2)
    [request] = gateway.requests
    assert [turn.role for turn in request.chat.messages] == ["system", "user"]
    assert request.sampling.max_tokens == 9
    assert not request.sampling.HasField("temperature")


async def test_a_stream_tells_its_events_in_order(client: anthropic.AsyncAnthropic) -> None:
    """Events come in the documented order, the first with the count of the prompt."""
    stream = await client.messages.create(model=MODEL, max_tokens=9, messages=HI, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].type == "message_start"
    assert events[0].message.usage.input_tokens == 3


async def test_the_helper_gets_thinking_text_and_calls(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """The client's stream helper puts all kinds of blocks together."""
    gateway.play(started(), delta(thinking="Hm."), delta("Look: "), delta(tool_calls=[CALL]), finished())
    async with client.messages.stream(model="thinker", max_tokens=9, messages=HI, tools=[WEATHER]) as stream:
        message = await stream.get_final_message()
    thinking, text, call = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "Hm."
    assert text.type == "text"
    assert text.text == "Look: "
    assert call.type == "tool_use"
    assert (call.id, call.input, message.stop_reason) == ("toolu_1", {"city": "Kyiv"}, "tool_use")


async def test_tool_results_become_tool_turns(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """Calls and their results go out as a chat template expects them."""
    messages: Any = [
        *HI,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "rain"}]},
    ]
    await client.messages.create(model=MODEL, max_tokens=9, messages=messages, tools=[WEATHER])
    turns = gateway.requests[0].chat.messages
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert (turns[2].tool_name, turns[2].tool_call_id, turns[2].content) == ("weather", "t1", "rain")
    assert turns[1].tool_calls[0].arguments_json == '{"a":1}'


async def test_a_stop_sequence_is_named(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """A message that ends at a stop text has it."""
    end = finished()
    assert isinstance(end, generation_pb2.GenerateResponse)
    end.finished.matched_stop = "END"
    gateway.play(started(), delta("Hello"), end)
    message = await client.messages.create(model=MODEL, max_tokens=9, messages=HI, stop_sequences=["END"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")
    assert list(gateway.requests[0].sampling.stop) == ["END"]


@pytest.mark.parametrize(
    ("model_name", "settings", "level"),
    [
        ("thinker", {}, generation_pb2.THINK_LEVEL_ON),
        ("thinker", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, generation_pb2.THINK_LEVEL_ON),
        ("thinker", {"thinking": {"type": "disabled"}}, generation_pb2.THINK_LEVEL_OFF),
        ("thinker", {"output_config": {"effort": "xhigh"}}, generation_pb2.THINK_LEVEL_HIGH),
        (
            "thinker",
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
            generation_pb2.THINK_LEVEL_OFF,
        ),
        ("plain", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, generation_pb2.THINK_LEVEL_UNSPECIFIED),
        ("plain", {"output_config": {"effort": "high"}}, generation_pb2.THINK_LEVEL_UNSPECIFIED),
    ],
)
async def test_thinking_is_set_or_quietly_dropped(
    client: anthropic.AsyncAnthropic, gateway: FakeGateway, model_name: str, settings: Any, level: int
) -> None:
    """`thinking` comes before the effort; both are dropped for a model without thinking."""
    await client.messages.create(model=model_name, max_tokens=9, messages=HI, **settings)
    assert gateway.requests[0].chat.think == level


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"model": "nope"}, anthropic.NotFoundError, "model 'nope' not found"),
        ({"model": ""}, anthropic.BadRequestError, "model is required"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens is required and must be positive"),
        ({"messages": []}, anthropic.BadRequestError, "messages is required"),
        (
            {"model": "plain", "tools": [WEATHER]},
            anthropic.BadRequestError,
            "registry.ollama.ai/library/plain:latest does not support tools",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            anthropic.BadRequestError,
            r"messages\[0\].content\[0\].type: blocks of type 'document' are not supported",
        ),
    ],
)
async def test_errors_have_their_type_and_sentence(
    client: anthropic.AsyncAnthropic, extra: Any, error: type[anthropic.APIStatusError], message: str
) -> None:
    """A refused message is an error of Anthropic's shape with an id to ask about."""
    with pytest.raises(error, match=message) as caught:
        await client.messages.create(**{"model": MODEL, "max_tokens": 9, "messages": HI, **extra})
    body: Any = caught.value.body
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    assert (body["type"], body["error"]["type"]) == ("error", kinds[caught.value.status_code])
    assert body["request_id"].startswith("req_")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_an_overload(
    client: anthropic.AsyncAnthropic, gateway: FakeGateway, stream: bool
) -> None:
    """Streaming or not, a full queue is 503 with a time to come back."""
    gateway.play(QueueFull("full", retry_after_seconds=2.5))
    with pytest.raises(anthropic.APIStatusError) as caught:
        await client.messages.create(model=MODEL, max_tokens=9, messages=HI, stream=stream)
    body: Any = caught.value.body
    assert (caught.value.status_code, body["error"]["type"]) == (503, "overloaded_error")
    assert caught.value.response.headers["retry-after"] == "3"


async def test_a_failing_stream_says_so(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """After the first event a failure is raised by the client, and no end is pretended."""
    gateway.play(started(), delta("Hel"), WorkerLost("the worker is gone"))
    seen = []
    with pytest.raises(anthropic.APIStatusError, match="the worker is gone"):
        async for event in await client.messages.create(model=MODEL, max_tokens=9, messages=HI, stream=True):
            seen.append(event.type)  # noqa: PERF401 - a comprehension would lose what came before the error
    assert seen == ["message_start", "content_block_start", "content_block_delta"]


async def test_arguments_that_are_no_object_are_an_engine_fault(
    client: anthropic.AsyncAnthropic, gateway: FakeGateway
) -> None:
    """A call without valid arguments is an error."""
    gateway.play(started(), delta(tool_calls=[generation_pb2.ToolCall(name="f", arguments_json="[1")]), finished())
    with pytest.raises(anthropic.InternalServerError, match="no JSON object"):
        await client.messages.create(model=MODEL, max_tokens=9, messages=HI, tools=[WEATHER])


async def test_leaving_a_stream_ends_the_generation(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """A client that disconnects ends its generation."""
    gateway.play(started(), delta("a"), asyncio.Event())
    stream = await client.messages.create(model=MODEL, max_tokens=9, messages=HI, stream=True)
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(5):
        await gateway.all_closed.wait()


async def test_tokens_are_counted_by_the_model(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """count_tokens renders the chat, presets included, and tokenizes it."""
    gateway.entries.append(model("pirate:latest", presets=presets("Arr matey")))
    plain = await client.messages.count_tokens(model=MODEL, messages=HI)
    preset = await client.messages.count_tokens(model="pirate", messages=HI)
    assert (plain.input_tokens, preset.input_tokens) == (2, 5)
    with pytest.raises(anthropic.BadRequestError, match="messages is required"):
        await client.messages.count_tokens(model=MODEL, messages=[])


async def test_the_model_list_serves_anthropics_client_too(client: anthropic.AsyncAnthropic) -> None:
    """Anthropic's client lists models from the same path as OpenAI's."""
    assert MODEL in [each.id async for each in client.models.list()]


async def test_a_key_as_anthropic_sends_it_is_ignored(base_url: str) -> None:
    """Without configured keys any key passes, in either header."""
    body = {"model": MODEL, "max_tokens": 9, "messages": HI}
    async with aiohttp.ClientSession(base_url) as http:
        for headers in ({"x-api-key": "k"}, {"Authorization": "Bearer k"}):
            async with http.post("/v1/messages?beta=true", json=body, headers=headers) as reply:
                assert reply.status == 200


async def test_an_engine_fault_is_an_api_error(client: anthropic.AsyncAnthropic, gateway: FakeGateway) -> None:
    """Server errors are api_error."""
    gateway.play(EngineFault("the engine failed"))
    with pytest.raises(anthropic.InternalServerError) as caught:
        await client.messages.create(model=MODEL, max_tokens=9, messages=HI)
    body: Any = caught.value.body
    assert body["error"] == {"type": "api_error", "message": "the engine failed"}
