"""An unfinished answer at the end of a conversation: the model goes on with it, as Ollama and Anthropic let it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllama_protos.v1 import generation_pb2


def continue_unfinished(chat: generation_pb2.Chat) -> None:
    """Leaves the last turn open when it is the beginning of an answer; the reply holds only what follows."""
    last = chat.messages[-1]
    chat.continue_last = last.role == "assistant" and bool(last.content) and not last.tool_calls
