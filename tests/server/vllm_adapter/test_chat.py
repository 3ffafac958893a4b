"""Chats in vLLM's form, and chats without their oldest turns."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image
from vllm.multimodal.media import MediaConnector

from tests.server.vllm_adapter.driving import chat_of
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import InvalidRequest
from vllama_server.vllm_adapter.chat import render_request, shorter_versions

HELLO = ("user", "Hello")
WEATHER = pb.Tool(
    name="get_weather",
    description="Looks it up.",
    parameters_json='{"type":"object","properties":{"city":{"type":"string"}}}',
)


def rendered(chat: pb.Chat, *, has_tool_parser: bool = True) -> object:
    """Builds vLLM's request for a whole chat."""
    return render_request(chat, chat.messages, has_tool_parser=has_tool_parser)


def pictures(text: str, *files: bytes) -> pb.Chat:
    """Returns a chat of one turn with pictures."""
    return pb.Chat(messages=[pb.Message(role="user", content=text, images=[pb.Image(data=file) for file in files])])


def roles(versions: list[list[pb.Message]]) -> list[str]:
    """Names what is left by first letters and contents."""
    return [" ".join(f"{message.role[0]}{message.content}" for message in version) for version in versions]


def test_calls_and_their_results_keep_their_ids() -> None:
    """Templates match results to calls."""
    call = pb.ToolCall(id="call_1", name="get_weather", arguments_json='{"city":"Bern"}')
    chat = chat_of(HELLO, tools=[WEATHER])
    chat.messages.add(role="assistant", tool_calls=[call, pb.ToolCall(id="call_2", name="get_weather")])
    chat.messages.add(role="tool", content="sunny", tool_call_id="call_1")
    messages = rendered(chat).messages  # type: ignore[attr-defined]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city":"Bern"}'}
    assert messages[1]["tool_calls"][1]["function"]["arguments"] == "{}"
    assert messages[2]["tool_call_id"] == "call_1"


def test_a_chat_reaches_vllm_whole() -> None:
    """Thinking, results, tools and the tool that must be called keep their values."""
    chat = chat_of(HELLO, tools=[WEATHER])
    chat.messages.add(role="assistant", thinking="hm", tool_calls=[pb.ToolCall(id="call_1", name="get_weather")])
    chat.messages.add(role="tool", content="sunny", tool_name="get_weather", tool_call_id="call_1")
    chat.messages.add(role="tool", content="mild", tool_name="get_weather")
    chat.tool_choice.mode, chat.tool_choice.name = pb.TOOL_CHOICE_MODE_NAMED, "get_weather"
    chat.template_switches.update({"n": 3, "x": 0.5, "none": None, "list": ["a", {"b": 1}]})
    request = rendered(chat)
    _, answer, first, second = request.messages  # type: ignore[attr-defined]
    assert answer["reasoning"] == "hm"
    assert (first["name"], first["tool_call_id"], first["content"]) == ("get_weather", "call_1", "sunny")
    assert second["tool_call_id"] == "get_weather"
    (tool,) = request.tools  # type: ignore[attr-defined]
    assert (tool.function.name, tool.function.description) == ("get_weather", "Looks it up.")
    assert tool.function.parameters == json.loads(WEATHER.parameters_json)
    assert request.tool_choice.function.name == "get_weather"  # type: ignore[attr-defined]
    assert request.chat_template_kwargs == {"n": 3, "x": 0.5, "none": None, "list": ["a", {"b": 1}]}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("mode", "has_parser", "choice"),
    [
        (pb.TOOL_CHOICE_MODE_UNSPECIFIED, True, "auto"),
        (pb.TOOL_CHOICE_MODE_AUTO, True, "auto"),
        (pb.TOOL_CHOICE_MODE_REQUIRED, True, "required"),
        (pb.TOOL_CHOICE_MODE_NONE, True, "none"),
        (pb.TOOL_CHOICE_MODE_AUTO, False, "none"),
    ],
)
def test_tool_modes_map_and_need_a_parser(mode: pb.ToolChoiceMode, has_parser: bool, choice: str) -> None:
    """Without a parser the template still sees the tools, but calls come as text."""
    request = rendered(
        chat_of(HELLO, tools=[WEATHER], tool_choice=pb.ToolChoice(mode=mode)), has_tool_parser=has_parser
    )
    assert request.tool_choice == choice  # type: ignore[attr-defined]


def test_naming_a_tool_that_is_not_there_is_refused() -> None:
    """The message names it."""
    choice = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="get_time")
    with pytest.raises(InvalidRequest, match="'get_time'"):
        rendered(chat_of(HELLO, tools=[WEATHER], tool_choice=choice))


def test_parameters_that_are_no_json_are_refused() -> None:
    """With the tool's name."""
    with pytest.raises(InvalidRequest, match="get_weather"):
        rendered(chat_of(HELLO, tools=[pb.Tool(name="get_weather", parameters_json="{")]))


def test_bytes_that_are_no_picture_are_refused() -> None:
    """Before anything decodes them."""
    with pytest.raises(InvalidRequest, match="PNG"):
        rendered(pictures("look", b"GARBAGE"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_reaches_vllm_as_the_picture_it_is(kind: str) -> None:
    """VLLM's own reader finds it in the message, before the text that asks about it."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(file, format=kind)
    request = rendered(pictures("What colour?", file.getvalue()))
    picture, text = request.messages[0]["content"]  # type: ignore[attr-defined]
    assert text == {"type": "text", "text": "What colour?"}
    seen = MediaConnector().fetch_image(picture["image_url"]["url"])
    seen = getattr(seen, "media", seen)
    assert seen.size == (3, 2)
    red, green, blue = seen.getpixel((0, 0))
    assert red > 200 > 50 > max(green, blue)


def test_pictures_keep_their_order() -> None:
    """Questions depend on it."""
    files = []
    for width in (1, 2, 3):
        file = io.BytesIO()
        Image.new("RGB", (width, 1)).save(file, format="PNG")
        files.append(file.getvalue())
    request = rendered(pictures("Which is widest?", *files))
    parts = request.messages[0]["content"]  # type: ignore[attr-defined]
    seen = [MediaConnector().fetch_image(part["image_url"]["url"]) for part in parts[:-1]]
    assert [getattr(picture, "media", picture).size[0] for picture in seen] == [1, 2, 3]


@pytest.mark.parametrize(
    ("think", "switches", "effort"),
    [
        (pb.THINK_LEVEL_UNSPECIFIED, None, None),
        (pb.THINK_LEVEL_OFF, {"enable_thinking": False, "thinking": False}, None),
        (pb.THINK_LEVEL_ON, {"enable_thinking": True, "thinking": True}, None),
        (pb.THINK_LEVEL_HIGH, {"enable_thinking": True, "thinking": True}, "high"),
    ],
)
def test_thinking_is_switched_in_every_familys_way(
    think: pb.ThinkLevel, switches: dict[str, bool] | None, effort: str | None
) -> None:
    """Qwen's templates and DeepSeek's name the switch differently; levels are vLLM's reasoning effort."""
    request = rendered(chat_of(HELLO, think=think))
    assert request.chat_template_kwargs == switches  # type: ignore[attr-defined]
    assert request.reasoning_effort == effort  # type: ignore[attr-defined]


def test_a_callers_own_switch_beats_ours() -> None:
    """Template switches of the request come first."""
    request = rendered(chat_of(HELLO, think=pb.THINK_LEVEL_ON, template_switches={"enable_thinking": False}))
    assert request.chat_template_kwargs["enable_thinking"] is False  # type: ignore[attr-defined]


def test_turns_go_from_the_oldest_and_each_rest_opens_with_a_question() -> None:
    """System turns and the last turn stay; answers and results never come first."""
    order = ("system", "user", "assistant", "user", "assistant", "tool", "assistant", "user")
    turns = chat_of(*((role, str(number)) for number, role in enumerate(order))).messages
    assert roles(shorter_versions(turns)) == ["s0 u3 a4 t5 a6 u7", "s0 u7"]


def test_a_last_turn_that_is_no_question_stays_too() -> None:
    """A result of a tool may be what the model is to answer."""
    turns = chat_of(("user", "0"), ("assistant", "1"), ("tool", "2")).messages
    assert roles(shorter_versions(turns)) == ["t2"]


def test_an_answer_at_the_end_is_left_open_when_asked() -> None:
    """What is rendered ends with either the beginning of a new answer or the open one."""
    turns = (HELLO, ("assistant", "Hi th"))
    closed, opened = rendered(chat_of(*turns)), rendered(chat_of(*turns, continue_last=True))
    assert (closed.add_generation_prompt, closed.continue_final_message) == (True, False)  # type: ignore[attr-defined]
    assert (opened.add_generation_prompt, opened.continue_final_message) == (False, True)  # type: ignore[attr-defined]


def test_vllm_never_sees_a_template_of_the_request() -> None:
    """It would render it in the thread that serves every request."""
    assert rendered(chat_of(HELLO, template="{{ messages }}")).chat_template is None  # type: ignore[attr-defined]


def test_whole_numbers_of_a_switch_are_whole() -> None:
    """A template that counts must not see 3.0; the other kinds are plain Python as well."""
    switches = {"n": 3, "x": 0.5, "on": True, "none": None, "list": ["a", {"b": 1}]}
    request = rendered(chat_of(HELLO, template_switches=switches))
    assert json.dumps(request.chat_template_kwargs, sort_keys=True) == json.dumps(switches, sort_keys=True)  # type: ignore[attr-defined]
