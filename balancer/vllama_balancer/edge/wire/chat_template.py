"""Chat templates that clients bring along: Jinja passes, Ollama's Go templates are recognised and refused."""

from __future__ import annotations

import re

from vllama_balancer.errors import InvalidRequest

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
