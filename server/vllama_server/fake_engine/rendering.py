"""Rendering of a request's prompt to the bytes and tokens that the simulated engine computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1 import worker_pb2
from vllama_server.errors import CapabilityMissing, ContextTooLong, InvalidRequest
from vllama_server.fake_engine import tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def render(request: pb.GenerateRequest | pb.TokenizeRequest) -> bytes:
    """Renders a prompt to padded bytes, four for each token.

    Raises CapabilityMissing for what a simulation does not have: vision, reasoning, insertion, forced tool calls. Tools
    that may be called are ignored.
    """
    kind = request.WhichOneof("input")
    if isinstance(request, pb.GenerateRequest):
        if request.suffix:
            raise _missing(worker_pb2.CAPABILITY_INSERT, "cannot fill a gap before a suffix")
        if kind == "token_ids":
            return _joined(request.token_ids.ids)
    if kind == "prompt":
        return tokens.encode(request.prompt)
    return _render_chat(request, request.chat.messages)


def render_within(request: pb.GenerateRequest, context_tokens: int) -> tuple[bytes, int]:
    """Renders a prompt so that one token of output fits too; also returns how many turns were dropped.

    If the request allows it, drops the oldest turns of a chat but never a system turn or the last one. Raises
    ContextTooLong with both lengths when the prompt still does not fit.
    """
    data = render(request)
    messages = list(request.chat.messages)
    drops_oldest = request.truncation == pb.TRUNCATION_DROP_OLDEST
    while len(data) // tokens.TOKEN_BYTES >= context_tokens:
        oldest = next((turn for turn in messages[:-1] if turn.role != "system"), None) if drops_oldest else None
        if oldest is None:
            raise ContextTooLong(
                f"the prompt has {len(data) // tokens.TOKEN_BYTES} tokens and the context {context_tokens}, "
                "of which one is for the output; shorten the prompt or serve a longer context.",
                "prompt",
            )
        messages.remove(oldest)
        data = _render_chat(request, messages)
    return data, len(request.chat.messages) - len(messages)


def chat_text(messages: Iterable[pb.Message]) -> str:
    """The simulated chat template."""
    return "".join(f"{message.role}: {message.content}\n" for message in messages)


def _render_chat(request: pb.GenerateRequest | pb.TokenizeRequest, messages: Sequence[pb.Message]) -> bytes:
    chat = request.chat
    _check_chat(chat)
    text = chat_text(messages)
    if chat.continue_last:
        text = text.removesuffix("\n")
    context = request.context_token_ids if isinstance(request, pb.GenerateRequest) else ()
    return _joined(context) + tokens.encode(text)


def _joined(token_ids: Sequence[int]) -> bytes:
    try:
        return tokens.to_bytes(token_ids)
    except ValueError as error:
        raise InvalidRequest(f"token_ids: {error}", "token_ids") from None


def _check_chat(chat: pb.Chat) -> None:
    if any(message.images for message in chat.messages):
        raise _missing(worker_pb2.CAPABILITY_VISION, "cannot see pictures")
    if chat.think not in (pb.THINK_LEVEL_UNSPECIFIED, pb.THINK_LEVEL_OFF):
        raise _missing(worker_pb2.CAPABILITY_THINKING, "does not reason")
    if chat.tool_choice.mode in (pb.TOOL_CHOICE_MODE_REQUIRED, pb.TOOL_CHOICE_MODE_NAMED):
        raise _missing(worker_pb2.CAPABILITY_TOOLS, "never calls a tool")


def _missing(capability: worker_pb2.Capability, what: str) -> CapabilityMissing:
    return CapabilityMissing(f"the simulated engine {what}.", capability)
