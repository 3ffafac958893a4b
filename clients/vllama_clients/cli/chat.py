"""A conversation with one model over /api/chat: its turns so far, and the settings of the next request."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from vllama_clients.cli.api import Api


@dataclass
class Chat:
    """The state of a conversation; `ask` adds to it."""

    model: str
    """The model's name."""
    system: str = ""
    """System text that replaces the model's own; empty keeps it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Ollama's options: temperature, num_predict, …"""
    output_format: Any = None
    """"json", a JSON schema, or None for free text."""
    think: bool | str | None = None
    """Whether or how hard to reason; None leaves it to the model."""
    keep_alive: str | float | None = None
    """How long the model stays loaded; None leaves it to the server."""
    history: bool = True
    """Whether earlier turns are sent with the next question."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The turns so far, oldest first, the system text left out."""

    def ask(self, api: Api, prompt: str) -> Generator[dict[str, Any], None, None]:
        """Yields the chunks of the answer. The turn is kept, also when the answer is cut short."""
        question = {"role": "user", "content": prompt}
        turns = [*self.messages, question] if self.history else [question]
        said: list[str] = []
        try:
            for chunk in api.stream("/api/chat", self.request(turns)):
                said.append(chunk.get("message", {}).get("content", ""))
                yield chunk
        finally:
            if any(said):
                self.messages += [question, {"role": "assistant", "content": "".join(said)}]

    def request(self, turns: list[dict[str, Any]]) -> dict[str, Any]:
        """Builds the body of /api/chat for these turns."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body: dict[str, Any] = {"model": self.model, "messages": [*system, *turns], "options": self.options}
        extras = {"format": self.output_format, "think": self.think, "keep_alive": self.keep_alive}
        return body | {key: value for key, value in extras.items() if value is not None}


def option_value(text: str) -> Any:
    """Reads an option's value as JSON where it is a number or a boolean, and as text otherwise."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text
