"""From the wire to the engine."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.requests import (
    ChatPrompt,
    FormatKind,
    Message,
    OutputFormat,
    Sampling,
    TextPrompt,
    ThinkLevel,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolMode,
)
from vllama_server.errors import InvalidRequest
from vllama_server.wire.request_validation import generation_request, sampling, tokenize_prompt
from vllama_server.wire.responses import default_sampling

UINT32 = st.integers(0, 2**32 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
OPTIONS = st.builds(
    Sampling,
    temperature=st.none() | FINITE,
    top_p=st.none() | FINITE,
    top_k=st.none() | INT32,
    min_p=st.none() | st.floats(0, 1),
    repetition_penalty=st.none() | FINITE,
    presence_penalty=st.none() | FINITE,
    frequency_penalty=st.none() | FINITE,
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.lists(TEXT.filter(bool), max_size=5).map(tuple),
    max_tokens=st.none() | st.integers(50, 2**31 - 1) | st.integers(-5, -1),
    min_tokens=st.none() | st.integers(0, 50),
    ignore_eos=st.none() | st.booleans(),
)


def convert(**fields):
    """Converts a request for a text, unless told otherwise."""
    if not {"prompt", "chat", "token_ids"} & fields.keys():
        fields["prompt"] = "x"
    return generation_request(pb.GenerateRequest(**fields), "r")


def chat(**fields):
    """Makes a chat of one turn."""
    return pb.Chat(messages=[pb.Message(role="user", content="Hi")], **fields)


@given(OPTIONS)
def test_sampling_options_survive_the_wire(options):
    """What is set arrives, what is unset stays unset, and zero is not unset."""
    assert sampling(default_sampling(options)) == options


@given(TEXT, INT32, UINT32, st.lists(UINT32, max_size=9), st.integers(0, 20), st.booleans(), st.sampled_from([0, 1, 2]))
def test_the_plain_fields_arrive(prompt, priority, most, resume, top, wanted, truncation):
    """Every field reaches the place that is named after it."""
    message = pb.GenerateRequest(
        prompt=prompt,
        priority=priority,
        max_context_tokens=most,
        resume_token_ids=resume,
        logprobs=wanted,
        top_logprobs=top if wanted else 0,
        truncation=truncation,
    )
    request = generation_request(message, "the-id")
    assert request.request_id == "the-id"
    assert request.prompt == TextPrompt(prompt)
    assert (request.priority, request.max_context_tokens) == (priority, most)
    assert request.resume_token_ids == tuple(resume)
    assert request.logprobs == (top if wanted else None)
    assert request.drop_oldest == (truncation == pb.TRUNCATION_DROP_OLDEST)


@given(st.binary(max_size=200))
def test_any_message_is_converted_or_refused(data):
    """Whatever a peer sends, the answer is a request or a sentence about a field."""
    message = pb.GenerateRequest()
    try:
        message.ParseFromString(data)
    except Exception:
        return
    try:
        generation_request(message, "r")
    except InvalidRequest as error:
        assert error.field
        assert str(error).endswith(".")


def test_a_chat_arrives_whole():
    """Roles, pictures, thinking, calls, results, tools and switches."""
    calls = (ToolCall("c", "f", '{"b":1,"a":2}'), ToolCall("", "g", "{}"))
    message = pb.Chat(
        messages=[
            pb.Message(role="user", content="Look", images=[pb.Image(data=b"png")]),
            pb.Message(
                role="assistant",
                thinking="hm",
                tool_calls=[pb.ToolCall(id="c", name="f", arguments_json='{"b":1,"a":2}'), pb.ToolCall(name="g")],
            ),
            pb.Message(role="tool", content="42", tool_name="f", tool_call_id="c"),
        ],
        tools=[pb.Tool(name="f", description="d", parameters_json='{"type":"object"}')],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="f"),
        think=pb.THINK_LEVEL_HIGH,
    )
    message.template_switches.update({"n": 3, "x": 0.5, "on": True, "none": None, "list": ["a", {"b": 1}]})
    assert convert(chat=message, context_token_ids=[7, 8]).prompt == ChatPrompt(
        messages=(
            Message("user", "Look", images=(b"png",)),
            Message("assistant", thinking="hm", tool_calls=calls),
            Message("tool", "42", tool_name="f", tool_call_id="c"),
        ),
        tools=(Tool("f", "d", '{"type":"object"}'),),
        tool_mode=ToolMode.NAMED,
        tool_name="f",
        think=ThinkLevel.HIGH,
        template_switches={"n": 3, "x": 0.5, "on": True, "none": None, "list": ["a", {"b": 1}]},
        context_token_ids=(7, 8),
    )


def test_whole_numbers_of_a_switch_are_whole():
    """A template that counts must not see 3.0."""
    message = chat()
    message.template_switches.update({"n": 3})
    assert json.dumps(convert(chat=message).prompt.template_switches) == '{"n": 3}'


def test_token_ids_arrive():
    """They are used as they are."""
    assert convert(token_ids=pb.TokenIds(ids=[1, 2])).prompt == TokenPrompt((1, 2))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (pb.OutputFormat(json_object=True), OutputFormat(FormatKind.JSON_OBJECT)),
        (pb.OutputFormat(json_schema='{"a":1}'), OutputFormat(FormatKind.JSON_SCHEMA, '{"a":1}')),
        (pb.OutputFormat(regex="a+"), OutputFormat(FormatKind.REGEX, "a+")),
        (pb.OutputFormat(grammar="root ::= x"), OutputFormat(FormatKind.GRAMMAR, "root ::= x")),
        (pb.OutputFormat(choice=pb.Choice(options=["a", "b"])), OutputFormat(FormatKind.CHOICE, choices=("a", "b"))),
    ],
)
def test_each_output_format_arrives(message, expected):
    """One kind each, with what belongs to it."""
    assert convert(output_format=message).output_format == expected


def test_values_that_an_engine_can_clamp_pass():
    """Ollama clients send them, and the engine knows what it can serve."""
    options = convert(sampling=pb.Sampling(temperature=5, top_p=0, top_k=-1, max_tokens=-2, seed=-1)).sampling
    assert options == Sampling(temperature=5, top_p=0, top_k=-1, max_tokens=-2, seed=None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"token_ids": pb.TokenIds()}, "token_ids"),
        ({"chat": pb.Chat()}, "chat.messages"),
        ({"chat": pb.Chat(messages=[pb.Message(content="x")])}, "chat.messages[0].role"),
        ({"chat": pb.Chat(messages=[pb.Message(role="user", images=[pb.Image()])])}, "chat.messages[0].images"),
        ({"chat": chat(tools=[pb.Tool()])}, "chat.tools[0].name"),
        ({"chat": chat(tools=[pb.Tool(name="f", parameters_json="[]")])}, "chat.tools[0].parameters_json"),
        ({"chat": chat(tools=[pb.Tool(name="f", parameters_json="{")])}, "chat.tools[0].parameters_json"),
        ({"chat": chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED))}, "chat.tools"),
        ({"chat": chat(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="f"))}, "chat.tool_choice.name"),
        ({"chat": chat(tool_choice=pb.ToolChoice(mode=99))}, "chat.tool_choice.mode"),
        ({"chat": chat(think=99)}, "chat.think"),
        ({"chat": chat(), "suffix": "x"}, "suffix"),
        ({"prompt": "x", "context_token_ids": [1]}, "context_token_ids"),
        ({"truncation": 99}, "truncation"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"output_format": pb.OutputFormat()}, "output_format"),
        ({"output_format": pb.OutputFormat(json_object=False)}, "output_format.json_object"),
        ({"output_format": pb.OutputFormat(json_schema="{")}, "output_format.json_schema"),
        ({"output_format": pb.OutputFormat(json_schema="[" * 100_000)}, "output_format.json_schema"),
        ({"output_format": pb.OutputFormat(json_schema="3")}, "output_format.json_schema"),
        ({"output_format": pb.OutputFormat(regex="")}, "output_format.regex"),
        ({"output_format": pb.OutputFormat(choice=pb.Choice())}, "output_format.choice"),
        ({"sampling": pb.Sampling(temperature=math.nan)}, "sampling.temperature"),
        ({"sampling": pb.Sampling(top_p=math.inf)}, "sampling.top_p"),
        ({"sampling": pb.Sampling(min_p=1.5)}, "sampling.min_p"),
        ({"sampling": pb.Sampling(stop=["a", ""])}, "sampling.stop"),
        ({"sampling": pb.Sampling(stop=["a"] * 65)}, "sampling.stop"),
        ({"sampling": pb.Sampling(min_tokens=9, max_tokens=3)}, "sampling.min_tokens"),
    ],
)
def test_a_wrong_field_is_named(fields, field):
    """The error carries the field and says it in its sentence."""
    with pytest.raises(InvalidRequest) as error:
        convert(**fields)
    assert error.value.field == field
    assert field in str(error.value)


def test_a_request_without_input_is_refused():
    """Exactly one of the three is asked for."""
    with pytest.raises(InvalidRequest) as error:
        generation_request(pb.GenerateRequest(), "r")
    assert error.value.field == "input"


def test_the_input_of_tokenize_arrives():
    """A text, or a chat."""
    assert tokenize_prompt(pb.TokenizeRequest(prompt="x")) == TextPrompt("x")
    assert tokenize_prompt(pb.TokenizeRequest(chat=chat())) == ChatPrompt((Message("user", "Hi"),))


def test_an_answer_to_continue_and_a_template_arrive():
    """Both belong to the chat."""
    turns = [pb.Message(role="user", content="Hi"), pb.Message(role="assistant", content="Hel")]
    request = convert(chat=pb.Chat(messages=turns, continue_last=True, template="{{ messages }}"))
    assert request.prompt.continue_last
    assert request.prompt.template == "{{ messages }}"


@pytest.mark.parametrize(
    "last", [pb.Message(role="user", content="Hi"), pb.Message(role="assistant"),
             pb.Message(role="assistant", content="a", tool_calls=[pb.ToolCall(name="f")])],
)  # fmt: skip
def test_only_the_text_of_an_answer_can_be_continued(last):
    """Anything else is refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        convert(chat=pb.Chat(messages=[pb.Message(role="user", content="Hi"), last], continue_last=True))
    assert caught.value.field == "chat.continue_last"
