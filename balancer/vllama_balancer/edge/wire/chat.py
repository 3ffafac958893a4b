"""Parts of a chat that dialects treat alike: templates given by clients, and unfinished answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllama_balancer.errors import InvalidRequest

if TYPE_CHECKING:
    from vllama_protos.v1 import generation_pb2

_GO = re.compile(r"\{\{-?\s*(?:\.[A-Z]|\$|end\s*-?\}|(?:range|if|with|template|block|define)\s|else\b)")
"""Fields and blocks of Go templates; Jinja has its blocks between other braces."""


def check_template(text: str) -> str:
    """Returns a Jinja template. Raises InvalidRequest for one of Ollama's Go templates."""
    if _GO.search(text):
        message = (
            "template is a Go template, which is not supported: "
            "leave it out to use the model's own, or give a Jinja chat template"
        )
        raise InvalidRequest(message, field="template")
    return text


def continue_unfinished(chat: generation_pb2.Chat) -> None:
    """Sets `continue_last` if the last turn is an unfinished answer, as Ollama and Anthropic do."""
    last = chat.messages[-1]
    chat.continue_last = last.role == "assistant" and bool(last.content) and not last.tool_calls
