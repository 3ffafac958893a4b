"""From a request's prompt to the bytes and tokens that the simulated engine computes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllama_server.engine.description import Capability
from vllama_server.engine.requests import ChatPrompt, TextPrompt, ThinkLevel, TokenPrompt, ToolMode
from vllama_server.errors import CapabilityMissing, ContextTooLong, InvalidRequest
from vllama_server.fake_engine import tokens

if TYPE_CHECKING:
    from vllama_server.engine.requests import Message, Prompt


def render(prompt: Prompt) -> bytes:
    """Renders a prompt to padded bytes, four for each token.

    Raises CapabilityMissing for what a simulation has not: vision, reasoning, insertion, forced
    tool calls. Tools that may be called are ignored.
    """
    match prompt:
        case TokenPrompt():
            try:
                return tokens.to_bytes(prompt.token_ids)
            except ValueError as error:
                raise InvalidRequest(f"token_ids: {error}", "token_ids") from None
        case TextPrompt():
            if prompt.suffix:
                raise _missing(Capability.INSERT, "cannot fill a gap before a suffix")
            return tokens.encode(prompt.text)
        case ChatPrompt():
            _check_chat(prompt)
            text = chat_text(prompt.messages)
            if prompt.continue_last:
                text = text.removesuffix("\n")
            return tokens.to_bytes(prompt.context_token_ids) + tokens.encode(text)


def render_within(prompt: Prompt, context_tokens: int, *, drop_oldest: bool) -> tuple[bytes, int]:
    """Renders a prompt so that one token of output fits too; also returns how many turns were dropped.

    Drops the oldest turns of a chat but never a system turn or the last one. Raises ContextTooLong
    with both lengths when that does not suffice or is not wanted.
    """
    data = render(prompt)
    dropped = 0
    while len(data) // tokens.TOKEN_BYTES >= context_tokens:
        shorter = _without_oldest(prompt) if drop_oldest else None
        if shorter is None:
            raise ContextTooLong(
                f"the prompt has {len(data) // tokens.TOKEN_BYTES} tokens and the context {context_tokens}, "
                "of which one is for the output; shorten the prompt or serve a longer context.",
                "prompt",
            )
        prompt = shorter
        dropped += 1
        data = render(prompt)
    return data, dropped


def chat_text(messages: tuple[Message, ...]) -> str:
    """The simulated chat template."""
    return "".join(f"{message.role}: {message.content}\n" for message in messages)


def _without_oldest(prompt: Prompt) -> ChatPrompt | None:
    if not isinstance(prompt, ChatPrompt):
        return None
    for index, message in enumerate(prompt.messages[:-1]):
        if message.role != "system":
            return replace(prompt, messages=prompt.messages[:index] + prompt.messages[index + 1 :])
    return None


def _check_chat(prompt: ChatPrompt) -> None:
    if any(message.images for message in prompt.messages):
        raise _missing(Capability.VISION, "cannot see pictures")
    if prompt.think not in (ThinkLevel.DEFAULT, ThinkLevel.OFF):
        raise _missing(Capability.THINKING, "does not reason")
    if prompt.tool_mode in (ToolMode.REQUIRED, ToolMode.NAMED):
        raise _missing(Capability.TOOLS, "never calls a tool")


def _missing(capability: Capability, what: str) -> CapabilityMissing:
    return CapabilityMissing(f"the simulated engine {what}.", capability.value)
