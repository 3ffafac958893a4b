"""Validation of requests: wrong fields are named, everything else passes unchanged."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.v1 import embedding_pb2
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import InvalidRequest
from vllama_server.wire.request_validation import (
    check_detokenize_request,
    check_embed_request,
    check_generate_request,
    check_tokenize_request,
)

UINT32 = st.integers(0, 2**32 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
OPTIONS = st.builds(
    pb.Sampling,
    temperature=st.none() | FINITE,
    top_p=st.none() | FINITE,
    top_k=st.none() | INT32,
    min_p=st.none() | st.floats(0, 1),
    repetition_penalty=st.none() | FINITE,
    presence_penalty=st.none() | FINITE,
    frequency_penalty=st.none() | FINITE,
    seed=st.none() | st.integers(-5, 2**63 - 1),
    stop=st.lists(TEXT.filter(bool), max_size=5),
    max_tokens=st.none() | st.integers(50, 2**31 - 1) | st.integers(-5, -1),
    min_tokens=st.none() | st.integers(0, 50),
    ignore_eos=st.none() | st.booleans(),
)


def check(**fields):
    """Checks a request for a text, unless another input is given; the request must not change."""
    if not {"prompt", "chat", "token_ids"} & fields.keys():
        fields["prompt"] = "x"
    request, before = pb.GenerateRequest(**fields), pb.GenerateRequest(**fields)
    check_generate_request(request)
    assert request == before


def chat(**fields):
    """Returns a chat of one turn."""
    return pb.Chat(messages=[pb.Message(role="user", content="Hi")], **fields)


@given(OPTIONS)
def test_any_sampling_options_in_range_pass(options):
    """Also unset ones, and zeros."""
    check(sampling=options)


@given(TEXT, INT32, UINT32, st.lists(UINT32, max_size=9), st.integers(0, 20), st.booleans(), st.sampled_from([0, 1, 2]))
def test_any_plain_fields_pass(prompt, priority, most, resume, top, wanted, truncation):
    """Numbers and texts of every size."""
    check(
        prompt=prompt,
        priority=priority,
        max_context_tokens=most,
        resume_token_ids=resume,
        logprobs=wanted,
        top_logprobs=top if wanted else 0,
        truncation=truncation,
    )


@given(st.binary(max_size=200))
def test_any_message_passes_or_is_refused(data):
    """Whatever a peer sends, the answer is nothing or a sentence about a field."""
    message = pb.GenerateRequest()
    try:
        message.ParseFromString(data)
    except Exception:
        return
    try:
        check_generate_request(message)
    except InvalidRequest as error:
        assert error.field
        assert str(error).endswith(".")


def test_a_whole_chat_passes():
    """Roles, pictures, thinking, calls, results, tools and switches."""
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
    check(chat=message, context_token_ids=[7, 8])


def test_token_ids_pass():
    """They are used as they are."""
    check(token_ids=pb.TokenIds(ids=[1, 2]))


@pytest.mark.parametrize(
    "message",
    [
        pb.OutputFormat(json_object=True),
        pb.OutputFormat(json_schema='{"a":1}'),
        pb.OutputFormat(regex="a+"),
        pb.OutputFormat(grammar="root ::= x"),
        pb.OutputFormat(choice=pb.Choice(options=["a", "b"])),
    ],
    ids=lambda message: message.WhichOneof("kind"),
)
def test_each_output_format_passes(message):
    """One kind each, with its content."""
    check(output_format=message)


def test_values_that_an_engine_can_clamp_pass():
    """Ollama clients send them, and the engine brings them into its range."""
    check(sampling=pb.Sampling(temperature=5, top_p=0, top_k=-1, max_tokens=-2, seed=-1))


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
        check(**fields)
    assert error.value.field == field
    assert field in str(error.value)


def test_a_request_without_input_is_refused():
    """Exactly one of the three is asked for."""
    with pytest.raises(InvalidRequest) as error:
        check_generate_request(pb.GenerateRequest())
    assert error.value.field == "input"


def test_the_input_of_tokenize_is_checked():
    """A text, or a chat."""
    check_tokenize_request(pb.TokenizeRequest(prompt="x"))
    check_tokenize_request(pb.TokenizeRequest(chat=chat()))
    for wrong, field in ((pb.TokenizeRequest(), "input"), (pb.TokenizeRequest(chat=pb.Chat()), "chat.messages")):
        with pytest.raises(InvalidRequest) as error:
            check_tokenize_request(wrong)
        assert error.value.field == field


def test_an_answer_to_continue_and_a_template_pass():
    """Both belong to the chat."""
    turns = [pb.Message(role="user", content="Hi"), pb.Message(role="assistant", content="Hel")]
    check(chat=pb.Chat(messages=turns, continue_last=True, template="{{ messages }}"))


@pytest.mark.parametrize(
    "last", [pb.Message(role="user", content="Hi"), pb.Message(role="assistant"),
             pb.Message(role="assistant", content="a", tool_calls=[pb.ToolCall(name="f")])],
)  # fmt: skip
def test_only_the_text_of_an_answer_can_be_continued(last):
    """Anything else is refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        check(chat=pb.Chat(messages=[pb.Message(role="user", content="Hi"), last], continue_last=True))
    assert caught.value.field == "chat.continue_last"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output_format": pb.OutputFormat(regex="a" * 200_000)}, "output_format.regex"),
        ({"output_format": pb.OutputFormat(choice=pb.Choice(options=["x"] * 1_001))}, "output_format.choice"),
        ({"output_format": pb.OutputFormat(json_schema=json.dumps({"enum": list(range(1_001))}))}, "json_schema"),
    ],
)
def test_what_is_compiled_is_bounded_here_too(fields, field):
    """Whoever sent it, and whatever the balancer let pass."""
    with pytest.raises(InvalidRequest) as caught:
        check(**fields)
    assert field in caught.value.field


def test_every_kind_of_request_has_a_budget():
    """Tokenize, Detokenize and Embed as well; an embedding needs a text."""
    over = ["x"] * 3_000
    chat = pb.Chat(messages=[pb.Message(role="user", content=text) for text in over] * 20)
    for refused in (
        lambda: check_tokenize_request(pb.TokenizeRequest(chat=chat)),
        lambda: check_detokenize_request(pb.DetokenizeRequest(token_ids=[1] * 3_000_000)),
        lambda: check_embed_request(embedding_pb2.EmbedRequest(inputs=over)),
        lambda: check_embed_request(embedding_pb2.EmbedRequest()),
    ):
        with pytest.raises(InvalidRequest):
            refused()
    check_embed_request(embedding_pb2.EmbedRequest(inputs=over[:2_048]))


@pytest.mark.parametrize("constraint", ["output_format", "choice", "tool_choice"])
def test_a_constraint_of_a_newer_caller_is_refused(constraint):
    """What is not in this worker's protos would be ignored, and the output would be another one than was asked for."""
    new_field = b"\x9a\x06\x01x"  # field 99, the text "x"
    request = pb.GenerateRequest(
        chat=pb.Chat(messages=[pb.Message(role="user", content="x")]),
        output_format=pb.OutputFormat(choice=pb.Choice(options=["a"])),
    )
    if constraint == "output_format":
        request.output_format.MergeFromString(new_field)
    elif constraint == "choice":
        request.output_format.choice.MergeFromString(new_field)
    else:
        request.chat.tool_choice.MergeFromString(new_field)
    with pytest.raises(InvalidRequest, match="upgrade the worker") as caught:
        check_generate_request(request)
    assert constraint in caught.value.field
