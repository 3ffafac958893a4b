"""Chat templates that clients bring along: Jinja passes, Ollama's Go templates are recognised and refused.

An unfinished answer at the end of a conversation: the model goes on with it, as Ollama and Anthropic let it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllama_balancer.errors import InvalidRequest

if TYPE_CHECKING:
    from vllama_protos.v1 import generation_pb2


_GO = re.compile(r"\{\{-?\s*(?:\.[A-Z]|\$|end\s*-?\}|(?:range|if|with|template|block|define)\s|else\b)")
"""How Go templates name fields and begin blocks; Jinja puts its blocks between other braces."""


def check_template(text: str) -> str:
    """Passes a Jinja template on. Raises InvalidRequest for one of Go's."""
    if _GO.search(text):
        message = (
            "template is a Go template, which is not supported: "
            "leave it out to use the model's own, or give a Jinja chat template"
        )
        raise InvalidRequest(message, field="template")
    return text


def continue_unfinished(chat: generation_pb2.Chat) -> None:
    """Leaves the last turn open when it is the beginning of an answer; the reply holds only what follows."""
    last = chat.messages[-1]
    chat.continue_last = last.role == "assistant" and bool(last.content) and not last.tool_calls
