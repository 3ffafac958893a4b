"""Bodies of generate and chat become the wire's requests."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from vllama_balancer.edge.body import decode_json
from vllama_balancer.edge.model_lookup import RequestedModel
from vllama_balancer.edge.ollama.generation_request import to_chat_request, to_generate_request
from vllama_balancer.edge.ollama.schema import ChatBody, GenerateBody
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.fake_gateway import model, presets
from vllama_balancer.names import parse_name
from vllama_protos.v1 import generation_pb2, worker_pb2

ABLE = [
    worker_pb2.CAPABILITY_COMPLETION,
    worker_pb2.CAPABILITY_CHAT,
    worker_pb2.CAPABILITY_TOOLS,
    worker_pb2.CAPABILITY_THINKING,
    worker_pb2.CAPABILITY_VISION,
    worker_pb2.CAPABILITY_INSERT,
]
PNG = b"\x89PNG"


def requested(capabilities: list[worker_pb2.Capability] | None = None, **fields: Any) -> RequestedModel:
    """A model with all capabilities, or with those given."""
    entry = model("m:latest", capabilities=ABLE if capabilities is None else capabilities, **fields)
    return RequestedModel("m", parse_name("m"), entry)


def generate(of: RequestedModel | None = None, **body: Any) -> generation_pb2.GenerateRequest:
    """Translates a body of /api/generate."""
    return to_generate_request(decode_json(json.dumps(body).encode(), GenerateBody), of or requested())


def chat(of: RequestedModel | None = None, **body: Any) -> generation_pb2.GenerateRequest:
    """Translates a body of /api/chat."""
    return to_chat_request(decode_json(json.dumps(body).encode(), ChatBody), of or requested())


def turns(wire: generation_pb2.GenerateRequest) -> list[tuple[str, str]]:
    """The conversation as pairs."""
    return [(turn.role, turn.content) for turn in wire.chat.messages]


def test_a_prompt_is_a_user_turn() -> None:
    """The chat template is applied, and the tokens come back for the reply's context."""
    wire = generate(prompt="hi")
    assert turns(wire) == [("user", "hi")]
    assert wire.return_prompt_token_ids
    assert wire.truncation == generation_pb2.TRUNCATION_DROP_OLDEST


def test_system_replaces_the_models_own() -> None:
    """It does not append; an empty one removes it."""
    own = requested(presets=presets("own"))
    assert turns(generate(own, prompt="hi"))[0] == ("system", "own")
    assert turns(generate(own, prompt="hi", system="other"))[0] == ("system", "other")
    assert turns(generate(own, prompt="hi", system="")) == [("user", "hi")]


def test_context_comes_before_and_leaves_presets_out() -> None:
    """The tokens of an earlier reply are continued."""
    preset = requested(presets=presets(messages=[generation_pb2.Message(role="user", content="preset")]))
    assert turns(generate(preset, prompt="hi")) == [("user", "preset"), ("user", "hi")]
    wire = generate(preset, prompt="hi", context=[1, 2])
    assert turns(wire) == [("user", "hi")]
    assert list(wire.context_token_ids) == [1, 2]


def test_raw_goes_to_the_tokenizer_untouched() -> None:
    """No template, no context in the reply."""
    wire = generate(prompt="<s>hi", raw=True)
    assert wire.prompt == "<s>hi"
    assert not wire.return_prompt_token_ids


def test_suffix_fills_the_middle() -> None:
    """Prompt and suffix stand for themselves."""
    wire = generate(prompt="def f(", suffix="): pass")
    assert (wire.prompt, wire.suffix) == ("def f(", "): pass")


def test_a_model_without_a_template_continues_text() -> None:
    """Base models are usable through both calls."""
    base = requested([worker_pb2.CAPABILITY_COMPLETION])
    assert generate(base, prompt="Once", system="s").prompt == "s\n\nOnce"
    assert chat(base, messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]).prompt == "a\n\nb"


@pytest.mark.parametrize(
    ("think", "level"),
    [
        (None, generation_pb2.THINK_LEVEL_ON),
        (True, generation_pb2.THINK_LEVEL_ON),
        (False, generation_pb2.THINK_LEVEL_OFF),
        ("low", generation_pb2.THINK_LEVEL_LOW),
        ("medium", generation_pb2.THINK_LEVEL_MEDIUM),
        ("high", generation_pb2.THINK_LEVEL_HIGH),
        ("max", generation_pb2.THINK_LEVEL_MAX),
    ],
)
def test_think_levels(think: object, level: generation_pb2.ThinkLevel) -> None:
    """A model with thinking does so by default."""
    assert generate(prompt="hi", think=think).chat.think == level
    assert chat(messages=[{"role": "user"}], think=think).chat.think == level


@pytest.mark.parametrize("think", [None, False])
def test_a_model_that_cannot_reason_is_left_alone(think: object) -> None:
    """`think: false` is always accepted."""
    plain = requested([worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT])
    assert generate(plain, prompt="hi", think=think).chat.think == generation_pb2.THINK_LEVEL_UNSPECIFIED


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_format_is_none(value: object) -> None:
    """LangChain sends it empty."""
    assert not generate(prompt="hi", format=value).HasField("output_format")


def test_formats() -> None:
    """JSON, or a schema as it was written, the order of its keys kept."""
    assert generate(prompt="hi", format="json").output_format.json_object
    schema = {"type": "object", "properties": {"b": {"default": None}, "a": {"maximum": 2**70}}}
    assert json.loads(generate(prompt="hi", format=schema).output_format.json_schema) == schema
    assert generate(prompt="hi", format=schema).output_format.json_schema.index('"b"') < 50


def test_images_are_decoded_in_order() -> None:
    """With or without a data prefix; none at all needs no vision."""
    text = base64.b64encode(PNG).decode()
    wire = generate(prompt="hi", images=[text, f"data:image/png;base64,{text}"])
    assert [image.data for image in wire.chat.messages[0].images] == [PNG, PNG]
    plain = requested([worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT])
    assert generate(plain, prompt="hi", images=[]).chat.messages[0].content == "hi"


def test_bad_base64_names_the_image() -> None:
    """The first bad one is named."""
    with pytest.raises(InvalidRequest, match=r"messages\[1\]\.images\[0\]"):
        chat(messages=[{"role": "user"}, {"role": "user", "images": ["?"]}])


def test_logprobs_need_the_flag() -> None:
    """top_logprobs alone does nothing."""
    assert generate(prompt="hi", top_logprobs=3) == generate(prompt="hi")
    wire = generate(prompt="hi", logprobs=True, top_logprobs=3)
    assert (wire.logprobs, wire.top_logprobs) == (True, 3)


def test_truncate_false_refuses() -> None:
    """Otherwise the oldest turns may go."""
    wire = chat(messages=[{"role": "user", "content": "hi"}], truncate=False)
    assert wire.truncation == generation_pb2.TRUNCATION_REJECT


def test_every_field_may_be_null() -> None:
    """Null means absent, everywhere."""
    nulls = dict.fromkeys(GenerateBody.__struct_encode_fields__)
    assert generate(**{**nulls, "prompt": "hi"}) == generate(prompt="hi")
    nulls = dict.fromkeys(ChatBody.__struct_encode_fields__)
    turn = {"role": "user", "content": None, "images": None, "tool_calls": None, "thinking": None}
    assert chat(**{**nulls, "messages": [turn]}) == chat(messages=[{"role": "user"}])


def test_roles_are_lower_cased_and_unknown_ones_kept() -> None:
    """The template decides what it uses; order is kept."""
    wire = chat(messages=[{"role": "User", "content": "a"}, {"role": "critic"}, {"role": "system", "content": "s"}])
    assert turns(wire) == [("user", "a"), ("critic", ""), ("system", "s")]


def test_the_models_system_text_comes_first_unless_there_is_one() -> None:
    """A chat that begins with its own system turn keeps it."""
    own = requested(presets=presets("own"))
    assert turns(chat(own, messages=[{"role": "user"}]))[0] == ("system", "own")
    assert turns(chat(own, messages=[{"role": "system", "content": "mine"}])) == [("system", "mine")]


def test_tools_and_their_results() -> None:
    """Arguments are objects here, and text on the wire, keys in their order."""
    wire = chat(
        tools=[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"z": 1, "a": None}}}],
        messages=[
            {"role": "user", "content": "go"},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"z": 2, "a": 1}}}],
            },
            {"role": "tool", "content": "ok", "tool_name": "f", "tool_call_id": "1"},
            {"role": "tool", "content": "ok", "name": "f"},
        ],
    )
    assert wire.chat.tools[0] == generation_pb2.Tool(name="f", description="d", parameters_json='{"z":1,"a":null}')
    call = generation_pb2.ToolCall(id="1", name="f", arguments_json='{"z":2,"a":1}')
    assert list(wire.chat.messages[1].tool_calls) == [call]
    assert (wire.chat.messages[2].tool_name, wire.chat.messages[2].tool_call_id) == ("f", "1")
    assert wire.chat.messages[3].tool_name == "f"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": "x"}}]}, "tools[0].function.parameters"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_wrong_tools_are_named(body: dict[str, Any], field: str) -> None:
    """The path of the fault is in the error."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**{"messages": [{"role": "user"}], **body})
    assert caught.value.field == field
    assert field in str(caught.value)


def test_an_undescribed_model_is_left_to_its_worker() -> None:
    """Before any worker has said what it can do, nothing is refused here."""
    unknown = requested(description=None)
    wire = chat(unknown, messages=[{"role": "user"}], tools=[{"function": {"name": "f"}}], think=True)
    assert wire.chat.think == generation_pb2.THINK_LEVEL_ON
    assert len(wire.chat.tools) == 1


@pytest.mark.parametrize("body", [{"raw": True}, {"suffix": "x"}])
def test_images_are_not_dropped_without_a_template(body: dict[str, Any]) -> None:
    """What cannot be served is said."""
    with pytest.raises(InvalidRequest, match="images need the chat template"):
        generate(prompt="hi", images=["aGk="], **body)


def test_think_is_checked_without_a_template_too() -> None:
    """A wrong value is wrong in raw mode."""
    with pytest.raises(InvalidRequest, match="invalid think value"):
        generate(prompt="hi", raw=True, think="lots")


@pytest.mark.parametrize(
    ("last", "continues"),
    [
        ({"role": "assistant", "content": "The answer is"}, True),
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": "I ask", "tool_calls": [{"function": {"name": "f"}}]}, False),
        ({"role": "user", "content": "Well?"}, False),
    ],
)
def test_an_unfinished_answer_is_continued(last: dict[str, Any], continues: bool) -> None:
    """Only the text of an answer at the very end can be."""
    assert chat(messages=[{"role": "user", "content": "hi"}, last]).chat.continue_last is continues


def test_a_template_of_the_request_or_of_the_alias() -> None:
    """The request's is used before the alias's, and a raw prompt has none."""
    alias = requested(presets=presets(template="{{ messages }}"))
    stored = generate(alias, prompt="hi").chat
    assert (stored.template, stored.template_is_stored) == ("{{ messages }}", True)
    given = generate(alias, prompt="hi", template="{{ bos_token }}").chat
    assert (given.template, given.template_is_stored) == ("{{ bos_token }}", False)
    stored = chat(alias, messages=[{"role": "user", "content": "hi"}]).chat
    assert (stored.template, stored.template_is_stored) == ("{{ messages }}", True)
    assert not generate(requested(), prompt="hi").chat.template_is_stored
    with pytest.raises(InvalidRequest, match="raw mode does not support template"):
        generate(alias, prompt="hi", raw=True, template="{{ bos_token }}")
