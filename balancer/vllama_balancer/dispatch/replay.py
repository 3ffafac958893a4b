"""Continuation of a broken stream on another worker: resumed after the delivered tokens, or replayed and checked.

`vllama_protos.continuation` decides which. A resumed one gets the delivered tokens and generates what follows. A
replayed one begins again; the delivered part is dropped, checked letter by letter, and the rest goes to the client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


class Diverged(Exception):
    """A replayed stream differs from the delivered output, so it cannot continue it."""


@dataclass(slots=True)
class Delivered:
    """The output of one generation that the client has."""

    token_ids: list[int] = field(default_factory=list)
    """Every token, in order."""
    texts: list[str] = field(default_factory=list)
    """Answer text, in pieces."""
    thinking: list[str] = field(default_factory=list)
    """Reasoning text, in pieces."""
    tool_calls: list[generation_pb2.ToolCall] = field(default_factory=list)
    """Complete calls."""

    def add(self, delta: generation_pb2.Delta) -> None:
        self.token_ids.extend(delta.token_ids)
        if text := delta.text:
            self.texts.append(text)
        if thinking := delta.thinking:
            self.thinking.append(thinking)
        if delta.tool_calls:
            self.tool_calls.extend(delta.tool_calls)

    def message(self) -> generation_pb2.Message:
        """Returns it as the message that the client will send back in its next turn."""
        return generation_pb2.Message(
            role="assistant",
            content="".join(self.texts),
            thinking="".join(self.thinking),
            tool_calls=self.tool_calls,
        )


class Replay:
    """Drops the delivered prefix from a replayed stream."""

    def __init__(self, delivered: Delivered) -> None:
        """Expects exactly the output that was delivered so far."""
        self._token_ids = delivered.token_ids[:]
        self._text = "".join(delivered.texts)
        self._thinking = "".join(delivered.thinking)
        self._tool_calls = delivered.tool_calls[:]

    @property
    def is_over(self) -> bool:
        """Whether all delivered output has come again."""
        return not (self._token_ids or self._text or self._thinking or self._tool_calls)

    def remainder(self, delta: generation_pb2.Delta) -> generation_pb2.Delta:
        """Returns the part that was not delivered before. Raises Diverged where the two differ."""
        tokens = _common(self._token_ids, delta.token_ids)
        calls = _common([_content(call) for call in self._tool_calls], [_content(call) for call in delta.tool_calls])
        rest = generation_pb2.Delta(
            text=_beyond(self._text, delta.text),
            thinking=_beyond(self._thinking, delta.thinking),
            token_ids=delta.token_ids[tokens:],
            logprobs=delta.logprobs[tokens:],
            tool_calls=delta.tool_calls[calls:],
        )
        del self._token_ids[:tokens], self._tool_calls[:calls]
        self._text = self._text[len(delta.text) :]
        self._thinking = self._thinking[len(delta.thinking) :]
        return rest


def _content(call: generation_pb2.ToolCall) -> tuple[str, str]:
    """Without the id, which is random."""
    return call.name, call.arguments_json


def _common(expected: Sequence[T], actual: Sequence[T]) -> int:
    """Returns the number of leading items that were expected. Raises Diverged at the first that was not."""
    count = min(len(expected), len(actual))
    if list(expected[:count]) != list(actual[:count]):
        raise Diverged
    return count


def _beyond(expected: str, actual: str) -> str:
    """Returns the text after the expected one. Raises Diverged if it begins with another."""
    count = min(len(expected), len(actual))
    if expected[:count] != actual[:count]:
        raise Diverged
    return actual[count:]
