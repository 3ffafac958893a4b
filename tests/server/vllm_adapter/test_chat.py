"""Conversations reach vLLM in its own form, and lose their oldest turns without losing their shape."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from vllm.multimodal.media import MediaConnector

from vllama_server.engine.requests import ChatPrompt, Message, ThinkLevel, Tool, ToolCall, ToolMode
from vllama_server.errors import InvalidRequest
from vllama_server.vllm_adapter.chat import render_request, shorter_versions

HELLO = Message("user", "Hello")
WEATHER = Tool("get_weather", "Looks it up.", '{"type":"object","properties":{"city":{"type":"string"}}}')


def rendered(chat: ChatPrompt, *, has_tool_parser: bool = True) -> object:
    """Builds vLLM's request for a whole chat."""
    return render_request(chat, chat.messages, has_tool_parser=has_tool_parser)


def roles(versions: list[list[Message]]) -> list[str]:
    """Names what is left by first letters and contents."""
    return [" ".join(f"{message.role[0]}{message.content}" for message in version) for version in versions]


def test_calls_and_their_results_keep_their_ids() -> None:
    """Templates match results to calls."""
    call = ToolCall("call_1", "get_weather", '{"city":"Bern"}')
    turns = (HELLO, Message("assistant", tool_calls=(call,)), Message("tool", "sunny", tool_call_id="call_1"))
    messages = rendered(ChatPrompt(turns, tools=(WEATHER,))).messages  # type: ignore[attr-defined]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city":"Bern"}'}
    assert messages[2]["tool_call_id"] == "call_1"


@pytest.mark.parametrize(
    ("mode", "has_parser", "choice"),
    [(ToolMode.AUTO, True, "auto"), (ToolMode.REQUIRED, True, "required"), (ToolMode.NONE, True, "none"),
     (ToolMode.AUTO, False, "none")],
)  # fmt: skip
def test_tool_modes_map_and_need_a_parser(mode: ToolMode, has_parser: bool, choice: str) -> None:
    """Without a parser the template still sees the tools, but calls come as text."""
    request = rendered(ChatPrompt((HELLO,), tools=(WEATHER,), tool_mode=mode), has_tool_parser=has_parser)
    assert request.tool_choice == choice  # type: ignore[attr-defined]


def test_naming_a_tool_that_is_not_there_is_refused() -> None:
    """The message says which."""
    with pytest.raises(InvalidRequest, match="'get_time'"):
        rendered(ChatPrompt((HELLO,), tools=(WEATHER,), tool_mode=ToolMode.NAMED, tool_name="get_time"))


def test_parameters_that_are_no_json_are_refused() -> None:
    """With the tool's name."""
    with pytest.raises(InvalidRequest, match="get_weather"):
        rendered(ChatPrompt((HELLO,), tools=(Tool("get_weather", parameters_json="{"),)))


def test_bytes_that_are_no_picture_are_refused() -> None:
    """Before anything decodes them."""
    with pytest.raises(InvalidRequest, match="PNG"):
        rendered(ChatPrompt((Message("user", "look", images=(b"GARBAGE",)),)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_reaches_vllm_as_the_picture_it_is(kind: str) -> None:
    """VLLM's own reader finds it in the message, before the text that asks about it."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(file, format=kind)
    request = rendered(ChatPrompt((Message("user", "What colour?", images=(file.getvalue(),)),)))
    picture, text = request.messages[0]["content"]  # type: ignore[attr-defined]
    assert text == {"type": "text", "text": "What colour?"}
    seen = MediaConnector().fetch_image(picture["image_url"]["url"])
    seen = getattr(seen, "media", seen)
    assert seen.size == (3, 2)
    red, green, blue = seen.getpixel((0, 0))
    assert red > 200 > 50 > max(green, blue)


def test_pictures_keep_their_order() -> None:
    """Questions count on it."""
    pictures = []
    for width in (1, 2, 3):
        file = io.BytesIO()
        Image.new("RGB", (width, 1)).save(file, format="PNG")
        pictures.append(file.getvalue())
    request = rendered(ChatPrompt((Message("user", "Which is widest?", images=tuple(pictures)),)))
    parts = request.messages[0]["content"]  # type: ignore[attr-defined]
    seen = [MediaConnector().fetch_image(part["image_url"]["url"]) for part in parts[:-1]]
    assert [getattr(picture, "media", picture).size[0] for picture in seen] == [1, 2, 3]


@pytest.mark.parametrize(
    ("think", "switches", "effort"),
    [
        (ThinkLevel.DEFAULT, None, None),
        (ThinkLevel.OFF, {"enable_thinking": False, "thinking": False}, None),
        (ThinkLevel.ON, {"enable_thinking": True, "thinking": True}, None),
        (ThinkLevel.HIGH, {"enable_thinking": True, "thinking": True}, "high"),
    ],
)
def test_thinking_is_switched_in_every_familys_way(
    think: ThinkLevel, switches: dict[str, bool] | None, effort: str | None
) -> None:
    """Qwen's templates and DeepSeek's name the switch differently; levels are vLLM's reasoning effort."""
    request = rendered(ChatPrompt((HELLO,), think=think))
    assert request.chat_template_kwargs == switches  # type: ignore[attr-defined]
    assert request.reasoning_effort == effort  # type: ignore[attr-defined]


def test_a_callers_own_switch_beats_ours() -> None:
    """Template switches are for those who know the template."""
    request = rendered(ChatPrompt((HELLO,), think=ThinkLevel.ON, template_switches={"enable_thinking": False}))
    assert request.chat_template_kwargs["enable_thinking"] is False  # type: ignore[attr-defined]


def test_turns_go_from_the_oldest_and_each_rest_opens_with_a_question() -> None:
    """System turns and the last turn stay; answers and results never come first."""
    turns = [Message(role, str(number)) for number, role in enumerate(
        ["system", "user", "assistant", "user", "assistant", "tool", "assistant", "user"])]  # fmt: skip
    assert roles(shorter_versions(turns)) == ["s0 u3 a4 t5 a6 u7", "s0 u7"]


def test_a_last_turn_that_is_no_question_stays_too() -> None:
    """A result of a tool may be what the model is to answer."""
    turns = [Message("user", "0"), Message("assistant", "1"), Message("tool", "2")]
    assert roles(shorter_versions(turns)) == ["t2"]


def test_an_answer_at_the_end_is_left_open_when_asked() -> None:
    """What is rendered ends with either the beginning of a new answer or the open one."""
    turns = (HELLO, Message("assistant", "Hi th"))
    closed, opened = rendered(ChatPrompt(turns)), rendered(ChatPrompt(turns, continue_last=True))
    assert (closed.add_generation_prompt, closed.continue_final_message) == (True, False)  # type: ignore[attr-defined]
    assert (opened.add_generation_prompt, opened.continue_final_message) == (False, True)  # type: ignore[attr-defined]


def test_a_template_of_the_request_replaces_the_models() -> None:
    """None leaves the model's own."""
    assert rendered(ChatPrompt((HELLO,))).chat_template is None  # type: ignore[attr-defined]
    assert rendered(ChatPrompt((HELLO,), template="{{ messages }}")).chat_template == "{{ messages }}"  # type: ignore[attr-defined]
