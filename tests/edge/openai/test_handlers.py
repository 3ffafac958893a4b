"""The endpoints under /v1, through OpenAI's client."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pydantic
import pytest

from vllama_balancer.errors import CapabilityMissing, EngineFault, InvalidRequest, QueueFull, WorkerLost
from vllama_balancer.fake_gateway import delta, finished, model, presets, started
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from vllama_balancer.fake_gateway import FakeGateway

MODEL = "smollm2:135m"
HI: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}},
}
CALL = generation_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city":"Kyiv"}')


class City(pydantic.BaseModel):
    """What structured output is parsed into."""

    name: str
    people: int


async def test_a_chat_answers_with_one_completion(client: openai.AsyncOpenAI) -> None:
    """A chat that is not streamed is one object with the text, the reason and the counts."""
    completion = await client.chat.completions.create(model=MODEL, messages=HI)
    [choice] = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello world", "stop")
    assert completion.id.startswith("chatcmpl-")
    assert completion.system_fingerprint == "fp_ollama"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 5


async def test_a_streamed_chat_carries_the_same_text(client: openai.AsyncOpenAI) -> None:
    """Chunks join to the whole text, share one id, and only the first has the role."""
    stream = await client.chat.completions.create(model=MODEL, messages=HI, stream=True)
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(each.content or "" for each in deltas) == "Hello world"
    assert [each.role for each in deltas] == ["assistant", None, None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_counts_come_in_a_last_chunk_of_their_own(client: openai.AsyncOpenAI) -> None:
    """With include_usage one more chunk has the counts, and no choices."""
    stream = await client.chat.completions.create(
        model=MODEL, messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage is not None for chunk in chunks] == [False, False, False, True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 3


async def test_several_choices_are_several_generations(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """N answers come of n generations with ids and seeds of their own."""
    gateway.play(started(), delta("one"), finished())
    gateway.play(started(), delta("two"), finished())
    completion = await client.chat.completions.create(model=MODEL, messages=HI, n=2, seed=4)
    assert sorted(choice.message.content or "" for choice in completion.choices) == ["one", "two"]
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert sorted(request.sampling.seed for request in gateway.requests) == [4, 5]
    assert len({request.request_id for request in gateway.requests}) == 2


async def test_streamed_choices_keep_their_indices(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Each streamed choice has its own text and its own end."""
    stream = await client.chat.completions.create(model=MODEL, messages=HI, n=3, stream=True)
    texts, ends = {0: "", 1: "", 2: ""}, []
    async for chunk in stream:
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert set(texts.values()) == {"Hello world"}
    assert sorted(ends) == [0, 1, 2]


async def test_tool_calls_arrive_whole(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """A call has its arguments as a string, and is the reason why the answer ended."""
    gateway.play(started(), delta(tool_calls=[CALL]), finished())
    completion = await client.chat.completions.create(model=MODEL, messages=HI, tools=[WEATHER])
    [choice] = completion.choices
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.name) == ("call_1", "weather")
    assert json.loads(call.function.arguments) == {"city": "Kyiv"}
    assert choice.finish_reason == "tool_calls"


async def test_streamed_tool_calls_are_assembled_by_the_helper(
    client: openai.AsyncOpenAI, gateway: FakeGateway
) -> None:
    """The client's stream helper assembles two calls by their index."""
    gateway.play(started(), delta(tool_calls=[CALL]), delta(tool_calls=[CALL]), finished())
    async with client.chat.completions.stream(model=MODEL, messages=HI, tools=[WEATHER]) as stream:
        completion = await stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in calls] == ['{"city":"Kyiv"}'] * 2
    assert completion.choices[0].finish_reason == "tool_calls"


async def test_structured_output_is_parsed(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """A pydantic model becomes a JSON schema on the wire, and the answer becomes that model."""
    gateway.play(started(), delta('{"name":"Kyiv",'), delta('"people":3}'), finished())
    completion = await client.chat.completions.parse(model=MODEL, messages=HI, response_format=City)
    assert completion.choices[0].message.parsed == City(name="Kyiv", people=3)
    schema = json.loads(gateway.requests[0].output_format.json_schema)
    assert set(schema["properties"]) == {"name", "people"}


async def test_reasoning_has_a_field_of_its_own(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Reasoning never mixes with the answer."""
    gateway.play(started(), delta(thinking="Hm."), delta("Yes"), finished())
    completion = await client.chat.completions.create(model="thinker", messages=HI, reasoning_effort="low")
    message = completion.choices[0].message
    assert (message.content, message.model_extra) == ("Yes", {"reasoning": "Hm."})
    assert gateway.requests[0].chat.think == generation_pb2.THINK_LEVEL_LOW


async def test_a_model_that_can_reason_does(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Without an effort a model with thinking thinks; with `none` it does not."""
    await client.chat.completions.create(model="thinker", messages=HI)
    await client.chat.completions.create(model="thinker", messages=HI, reasoning_effort="none")
    await client.chat.completions.create(model="plain", messages=HI, reasoning_effort="none")
    assert [request.chat.think for request in gateway.requests] == [
        generation_pb2.THINK_LEVEL_ON,
        generation_pb2.THINK_LEVEL_OFF,
        generation_pb2.THINK_LEVEL_OFF,
    ]


@pytest.mark.parametrize(
    ("model_name", "extra", "status", "message"),
    [
        ("nope", {}, 404, "model 'nope' not found"),
        ("a//b", {}, 400, "invalid model name"),
        ("", {}, 400, "model is required"),
        ("plain", {"tools": [WEATHER]}, 400, "registry.ollama.ai/library/plain:latest does not support tools"),
        ("plain", {"reasoning_effort": "high"}, 400, '"plain" does not support thinking'),
        ("org/embedder", {}, 400, '"org/embedder" does not support chat'),
        (MODEL, {"messages": []}, 400, "[] is too short - 'messages'"),
        (MODEL, {"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        (MODEL, {"n": 0}, 400, "n must be between 1 and 128"),
    ],
)
async def test_errors_have_their_status_and_sentence(
    client: openai.AsyncOpenAI, model_name: str, extra: Any, status: int, message: str
) -> None:
    """A refused chat is an error of OpenAI's shape with Ollama's words."""
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**{"model": model_name, "messages": HI, **extra})
    assert caught.value.status_code == status
    assert caught.value.body == {"message": message, "type": kinds[status], "param": None, "code": None}


async def test_images_need_a_model_that_sees(client: openai.AsyncOpenAI) -> None:
    """An image for a model without vision is refused, with the model's full name."""
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    with pytest.raises(openai.BadRequestError, match="library/plain:latest does not support vision"):
        await client.chat.completions.create(model="plain", messages=[{"role": "user", "content": [picture]}])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (QueueFull("full", retry_after_seconds=2.5), openai.InternalServerError, "server busy, please try again."),
        (EngineFault("the engine failed"), openai.InternalServerError, "the engine failed"),
        (InvalidRequest("too long", reason="CONTEXT_TOO_LONG"), openai.BadRequestError, "context length"),
        (CapabilityMissing("no", field="tools"), openai.BadRequestError, "does not support tools"),
    ],
)
async def test_errors_before_the_first_event_are_plain_answers(
    client: openai.AsyncOpenAI,
    gateway: FakeGateway,
    error: Exception,
    kind: type[Exception],
    message: str,
    stream: bool,
) -> None:
    """Streaming or not, what fails before any output has a status of its own."""
    gateway.play(error)
    with pytest.raises(kind, match=message):
        await client.chat.completions.create(model=MODEL, messages=HI, stream=stream)


async def test_a_failing_stream_says_so(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """After the first chunk a failure is raised by the client, and no end is pretended."""
    gateway.play(started(), delta("Hel"), WorkerLost("the worker is gone"))
    seen = ""
    with pytest.raises(openai.APIError, match="the worker is gone"):
        async for chunk in await client.chat.completions.create(model=MODEL, messages=HI, stream=True):
            seen += chunk.choices[0].delta.content or ""
    assert seen == "Hel"


async def test_a_failing_stream_ends_without_done(base_url: str, gateway: FakeGateway) -> None:
    """The last line of a failed stream is the error, not [DONE]."""
    gateway.play(started(), delta("Hel"), WorkerLost("gone"))
    async with (
        aiohttp.ClientSession(base_url) as http,
        http.post("/v1/chat/completions", json={"model": MODEL, "messages": HI, "stream": True}) as reply,
    ):
        lines = (await reply.text()).splitlines()
    assert json.loads(lines[-2].removeprefix("data: ")) == {
        "error": {"message": "gone", "type": "api_error", "param": None, "code": None}
    }
    assert "data: [DONE]" not in lines


async def test_an_aborted_generation_is_an_error(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """An aborted generation never looks complete."""
    gateway.play(started(), delta("Hel"), finished(generation_pb2.FINISH_REASON_ABORTED))
    with pytest.raises(openai.InternalServerError, match="went away"):
        await client.chat.completions.create(model=MODEL, messages=HI)


async def test_one_failing_choice_fails_the_reply_and_frees_the_others(
    client: openai.AsyncOpenAI, gateway: FakeGateway
) -> None:
    """When one of several choices fails, the rest are ended, not left running."""
    gateway.play(started(), delta("a"), asyncio.Event())
    gateway.play(started(), EngineFault("no luck"))
    with pytest.raises(openai.InternalServerError, match="no luck"):
        await client.chat.completions.create(model=MODEL, messages=HI, n=2)
    async with asyncio.timeout(5):
        await gateway.all_closed.wait()


async def test_leaving_a_stream_ends_all_its_generations(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """A client that disconnects ends every choice."""
    for _ in range(2):
        gateway.play(started(), delta("a"), asyncio.Event())
    stream = await client.chat.completions.create(model=MODEL, messages=HI, n=2, stream=True)
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(5):
        await gateway.all_closed.wait()


async def test_an_alias_brings_its_system_text_and_options(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Presets apply to what the request leaves open, and to nothing else."""
    gateway.entries.append(
        model("pirate:latest", presets=presets("Talk like a pirate.", top_k=3, stop=["Arr"], num_ctx=512))
    )
    await client.chat.completions.create(model="pirate", messages=HI)
    await client.chat.completions.create(
        model="pirate", messages=[{"role": "system", "content": "Be plain."}, *HI], stop="END"
    )
    preset, given = gateway.requests
    assert [turn.content for turn in preset.chat.messages] == ["Talk like a pirate.", "hi"]
    assert (preset.sampling.top_k, list(preset.sampling.stop), preset.max_context_tokens) == (3, ["Arr"], 512)
    assert [turn.content for turn in given.chat.messages] == ["Be plain.", "hi"]
    assert list(given.sampling.stop) == ["END"]


async def test_completions_go_through_the_chat_template(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """A prompt is one user turn, and the text comes back."""
    completion = await client.completions.create(model=MODEL, prompt="Say hello")
    assert (completion.object, completion.choices[0].text) == ("text_completion", "Hello world")
    assert [(turn.role, turn.content) for turn in gateway.requests[0].chat.messages] == [("user", "Say hello")]


async def test_streamed_completions_join_to_the_text(client: openai.AsyncOpenAI) -> None:
    """Every chunk has counts if requested; all but the last are 0."""
    stream = await client.completions.create(
        model=MODEL, prompt="Say hello", stream=True, echo=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "Say helloHello world"
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [0, 0, 0, 5]


async def test_a_suffix_is_filled_in_without_a_template(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """With a suffix the bare texts around the gap are sent, and the model needs the capability."""
    await client.completions.create(model=MODEL, prompt="def f(", suffix="): pass")
    assert (gateway.requests[0].prompt, gateway.requests[0].suffix) == ("def f(", "): pass")
    with pytest.raises(openai.BadRequestError, match="library/plain:latest does not support insert"):
        await client.completions.create(model="plain", prompt="def f(", suffix="): pass")


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"model": ""}, openai.NotFoundError, "model '' not found"),
        ({"model": "org/embedder"}, openai.BadRequestError, '"org/embedder" does not support generate'),
        ({"prompt": ["a", "b"]}, openai.BadRequestError, "prompt must be a string"),
        ({"prompt": [1, 2]}, openai.BadRequestError, "prompt must be a string"),
        ({"logprobs": 21}, openai.BadRequestError, "logprobs must be between 0 and 20"),
        ({"echo": True, "logprobs": 1, "max_tokens": 0}, openai.BadRequestError, "logprobs of the prompt"),
    ],
)
async def test_refused_completions_name_what_is_wrong(
    client: openai.AsyncOpenAI, extra: Any, error: type[Exception], message: str
) -> None:
    """A completion that cannot be served is refused by name."""
    with pytest.raises(error, match=message):
        await client.completions.create(**{"model": MODEL, "prompt": "a", **extra})


async def test_embeddings_come_as_numbers_and_as_base64(client: openai.AsyncOpenAI, base_url: str) -> None:
    """The client asks for base64 by itself; both forms hold the same numbers."""
    listed = await client.embeddings.create(model="org/embedder", input=["ab", "c d"], encoding_format="float")
    packed = await client.embeddings.create(model="org/embedder", input=["ab", "c d"])
    assert [each.embedding for each in listed.data] == [[2.0, 1.0], [3.0, 1.0]]
    assert [each.embedding for each in packed.data] == [[2.0, 1.0], [3.0, 1.0]]
    assert (listed.model, listed.usage.prompt_tokens) == ("org/embedder", 3)
    async with (
        aiohttp.ClientSession(base_url) as http,
        http.post("/v1/embeddings", json={"model": "org/embedder", "input": "a", "encoding_format": "base64"}) as reply,
    ):
        raw = (await reply.json())["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(raw)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"model": "nope"}, openai.NotFoundError, 'model "nope" not found, try pulling it first'),
        ({"model": ""}, openai.NotFoundError, "model '' not found"),
        ({"model": MODEL}, openai.BadRequestError, '"smollm2:135m" does not support embeddings'),
        ({"input": []}, openai.BadRequestError, "invalid input"),
        ({"input": [1, 2]}, openai.BadRequestError, "invalid input type"),
        ({"input": ["a"] * 2_049}, openai.BadRequestError, "input has 2049 texts and may have 2048"),
        ({"encoding_format": "int8"}, openai.BadRequestError, "Invalid value for 'encoding_format' = int8"),
        ({"dimensions": -1}, openai.BadRequestError, "dimensions must be 1 or more"),
    ],
)
async def test_refused_embeddings_name_what_is_wrong(
    client: openai.AsyncOpenAI, extra: Any, error: type[Exception], message: str
) -> None:
    """Embeddings that cannot be made are refused by name."""
    with pytest.raises(error, match=message):
        await client.embeddings.create(**{"model": "org/embedder", "input": "a", **extra})


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI, base_url: str) -> None:
    """The list has display names; one model answers to any spelling, and echoes it, slashes and all."""
    listed = [(each.id, each.owned_by) async for each in client.models.list()]
    assert listed[0] == (MODEL, "library")
    assert ("org/embedder:latest", "org") in listed
    assert (await client.models.retrieve("org/embedder")).id == "org/embedder"
    async with aiohttp.ClientSession(base_url) as http, http.get("/v1/models/org/embedder:latest") as reply:
        assert (await reply.json())["id"] == "org/embedder:latest"
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        await client.models.retrieve("nope")


async def test_unknown_paths_answer_in_openais_shape(base_url: str) -> None:
    """A path under /v1 that is not served is a JSON error of this dialect."""
    async with aiohttp.ClientSession(base_url) as http, http.post("/v1/audio/transcriptions", json={}) as reply:
        assert reply.status == 404
        assert (await reply.json())["error"]["type"] == "not_found_error"


async def test_a_response_is_one_object(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """A plain response has the text, and is complete even when the length ended it."""
    gateway.play(started(), delta("Hello"), finished(generation_pb2.FINISH_REASON_LENGTH))
    response = await client.responses.create(model=MODEL, input="hi", instructions="be brief")
    assert (response.output_text, response.status, response.object) == ("Hello", "completed", "response")
    assert [turn.role for turn in gateway.requests[0].chat.messages] == ["system", "user"]
    assert response.usage is not None
    assert response.usage.total_tokens == 5


async def test_a_streamed_response_tells_its_events_in_order(client: openai.AsyncOpenAI) -> None:
    """Events come in the documented order, numbered from 0."""
    stream = await client.responses.create(model=MODEL, input="hi", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_the_response_helper_gets_reasoning_text_and_calls(
    client: openai.AsyncOpenAI, gateway: FakeGateway
) -> None:
    """The client's stream helper puts all kinds of items together."""
    gateway.play(started(), delta(thinking="Hm."), delta("Look: "), delta(tool_calls=[CALL]), finished())
    async with client.responses.stream(
        model="thinker",
        input=[{"role": "user", "content": "hi"}],
        tools=[{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}],
    ) as stream:
        response = await stream.get_final_response()
    reasoning, message, call = response.output
    assert reasoning.type == "reasoning"
    assert reasoning.summary[0].text == "Hm."
    assert message.type == "message"
    assert response.output_text == "Look: "
    assert call.type == "function_call"
    assert (call.call_id, call.arguments) == ("call_1", '{"city":"Kyiv"}')


async def test_custom_tools_take_plain_text(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """A custom tool is a function of one text for the model, and plain text for the client, both ways."""
    patch = generation_pb2.ToolCall(id="c2", name="patch", arguments_json='{"input":"+ \\"b\\""}')
    gateway.play(started(), delta(tool_calls=[patch]), finished())
    history: Any = [
        {"role": "user", "content": "hi"},
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": '- "a"'},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
    ]
    tool: Any = {"type": "custom", "name": "patch", "format": {"type": "text"}}
    async with client.responses.stream(model=MODEL, input=history, tools=[tool]) as stream:
        [call] = (await stream.get_final_response()).output
    assert call.type == "custom_tool_call"
    assert (call.call_id, call.name, call.input) == ("c2", "patch", '+ "b"')
    turns = gateway.requests[0].chat.messages
    assert json.loads(turns[1].tool_calls[0].arguments_json) == {"input": '- "a"'}
    assert (turns[2].role, turns[2].tool_name) == ("tool", "patch")


async def test_structured_responses_are_parsed(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """A pydantic model is a schema on the wire and a model in the answer."""
    gateway.play(started(), delta('{"name":"Kyiv","people":3}'), finished())
    response = await client.responses.parse(model=MODEL, input="hi", text_format=City)
    assert response.output_parsed == City(name="Kyiv", people=3)


async def test_a_failing_response_stream_fails_in_both_words(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """The response fails as an event, and then the client raises."""
    gateway.play(started(), delta("Hel"), WorkerLost("the worker is gone"))
    last = None
    with pytest.raises(openai.APIError, match="the worker is gone"):
        async for event in await client.responses.create(model=MODEL, input="hi", stream=True):
            last = event
    assert last is not None
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the worker is gone"
