"""Decides how a broken stream continues, and checks a replayed one against what was delivered.

The ordinary way is to resume: another worker is given the delivered tokens and goes on after them.
That is exact when what follows depends on the tokens alone. It is not when the engine keeps more
state than tokens: the position in a grammar, the state of a seeded random stream, or the counts
behind presence and frequency penalties. Such a request is replayed from its start on the other
worker; what was delivered is swallowed again, checked letter by letter, and what follows goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

_FORCED_CALLS = (generation_pb2.TOOL_CHOICE_MODE_REQUIRED, generation_pb2.TOOL_CHOICE_MODE_NAMED)


class Diverged(Exception):
    """A replayed stream differs from what was delivered, so it cannot continue it."""


def is_guided(request: generation_pb2.GenerateRequest) -> bool:
    """Tells whether a grammar constrains the output."""
    return request.HasField("output_format") or request.chat.tool_choice.mode in _FORCED_CALLS


def needs_replay(request: generation_pb2.GenerateRequest) -> bool:
    """Tells whether the stream must be replayed rather than resumed to continue exactly."""
    sampling = request.sampling
    if is_guided(request):
        return True
    if _is_greedy(sampling):
        return bool(sampling.presence_penalty or sampling.frequency_penalty)
    return sampling.HasField("seed") and sampling.seed >= 0


def _is_greedy(sampling: generation_pb2.Sampling) -> bool:
    explicit = sampling.HasField("temperature") and sampling.temperature <= 0
    return explicit or (sampling.HasField("top_p") and sampling.top_p <= 0)


@dataclass(slots=True)
class Delivered:
    """What a client has been given of one generation."""

    token_ids: list[int] = field(default_factory=list)
    """Every token, in order."""
    texts: list[str] = field(default_factory=list)
    """Answer text, in pieces."""
    thoughts: list[str] = field(default_factory=list)
    """Reasoning text, in pieces."""
    tool_calls: list[generation_pb2.ToolCall] = field(default_factory=list)
    """Complete calls."""

    def add(self, delta: generation_pb2.Delta) -> None:
        """Notes one more delta."""
        self.token_ids.extend(delta.token_ids)
        if text := delta.text:
            self.texts.append(text)
        if thinking := delta.thinking:
            self.thoughts.append(thinking)
        if delta.tool_calls:
            self.tool_calls.extend(delta.tool_calls)

    def message(self) -> generation_pb2.Message:
        """Puts it together as the client will send it back in its next turn."""
        return generation_pb2.Message(
            role="assistant",
            content="".join(self.texts),
            thinking="".join(self.thoughts),
            tool_calls=self.tool_calls,
        )


class Replay:
    """Swallows a delivered prefix from a replayed stream."""

    def __init__(self, delivered: Delivered) -> None:
        """Expects exactly what was delivered so far."""
        self._token_ids = delivered.token_ids[:]
        self._text = "".join(delivered.texts)
        self._thinking = "".join(delivered.thoughts)
        self._tool_calls = delivered.tool_calls[:]

    @property
    def is_over(self) -> bool:
        """Whether everything delivered has come again."""
        return not (self._token_ids or self._text or self._thinking or self._tool_calls)

    def remainder(self, delta: generation_pb2.Delta) -> generation_pb2.Delta:
        """Cuts off what was delivered before. Raises Diverged where the two differ."""
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
    """What a call says; its id is random."""
    return call.name, call.arguments_json


def _common(expected: Sequence[T], came: Sequence[T]) -> int:
    """Counts the leading items that were expected. Raises Diverged at the first that was not."""
    count = min(len(expected), len(came))
    if list(expected[:count]) != list(came[:count]):
        raise Diverged
    return count


def _beyond(expected: str, came: str) -> str:
    """Cuts an expected text off the front. Raises Diverged when another text came."""
    count = min(len(expected), len(came))
    if expected[:count] != came[:count]:
        raise Diverged
    return came[count:]
