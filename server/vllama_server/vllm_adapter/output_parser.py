"""From the engine's tokens to text, reasoning and whole tool calls, by the model's parser.

Tokens are parsed one by one even when the engine returns several, because parsers may split a merged delta
differently. So the output depends on the tokens alone and not on the reader's speed, and a replay of delivered tokens
ends in the state of the first worker.

vLLM's parsers stream a tool call as it is written: the name first, then pieces of its arguments. A delta carries whole
calls, so fragments are collected until the next call begins or the generation ends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vllama_protos.v1.generation_pb2 import ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.vllm_adapter.detokenizer import Detokenizer


@dataclass(slots=True)
class Output:
    """What a run of tokens produced."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    tokens_used: int = 0
    """Tokens taken; those after a completed stop text are not."""
    matched_stop: str = ""
    """The stop text that ended the generation, when one did."""


class OutputParser:
    """One of vLLM's parsers with the request that it needs at every step."""

    def __init__(self, parser: Any, request: Any, prompt_token_ids: list[int]) -> None:
        self._parser = parser
        self._request = request
        self._prompt_token_ids = prompt_token_ids
        self._calls = ToolCallCollector()

    def parse(self, text: str, token_ids: list[int], output: Output, *, ends: bool) -> None:
        """Sorts new text into answer, reasoning and tool calls, and adds them to `output`."""
        message = self._parser.parse_delta(text, token_ids, self._request, self._prompt_token_ids, finished=ends)
        if message is not None:
            output.text.append(message.content or "")
            output.thinking.append(message.reasoning or "")
            output.tool_calls += self._calls.add(message.tool_calls)
        if ends:
            output.tool_calls += self._calls.finish()

    def reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Counts the tokens that were reasoning."""
        return int(self._parser.count_reasoning_tokens(token_ids))


class Assembler:
    """Assembles one generation's output. `parser` None passes text through untouched."""

    def __init__(self, text: Detokenizer, parser: OutputParser | None) -> None:
        self._text = text
        self._parser = parser
        self._token_ids: list[int] = []
        self._called_tools = False
        self._ended = False

    @property
    def token_count(self) -> int:
        """Tokens taken so far."""
        return len(self._token_ids)

    @property
    def called_tools(self) -> bool:
        """True once a tool call is complete."""
        return self._called_tools

    @property
    def ended(self) -> bool:
        """True once the generation has ended and nothing is held back."""
        return self._ended

    def reasoning_tokens(self) -> int:
        """Counts the tokens that were reasoning."""
        return self._parser.reasoning_tokens(self._token_ids) if self._parser else 0

    def add(self, token_ids: Sequence[int], *, ends: bool = False, by_stop_token: bool = False) -> Output:
        """Takes tokens up to the one that completes a stop text.

        `ends` says that the engine has finished with the last of them, `by_stop_token` that this
        last one is an end-of-sequence token.
        """
        output = Output()
        for position, token_id in enumerate(token_ids, start=1):
            is_last = ends and position == len(token_ids)
            self._token_ids.append(token_id)
            text, output.matched_stop = self._text.add(token_id, ends=is_last, is_stop_token=is_last and by_stop_token)
            output.tokens_used = position
            self._ended = is_last or bool(output.matched_stop)
            self._emit(text, [token_id], output)
            if self._ended:
                return output
        if ends and not self._ended:
            self._ended = True
            self._emit(self._text.flush(), [], output)
        return output

    def _emit(self, text: str, token_ids: list[int], output: Output) -> None:
        if self._parser is None:
            output.text.append(text)
            return
        self._parser.parse(text, token_ids, output, ends=self._ended)
        self._called_tools = self._called_tools or bool(output.tool_calls)


@dataclass(slots=True)
class _OpenCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ToolCallCollector:
    """Collects the fragments of one generation."""

    def __init__(self) -> None:
        self._open: dict[int, _OpenCall] = {}

    def add(self, fragments: Sequence[Any]) -> list[ToolCall]:
        """Takes DeltaToolCall fragments and returns the calls that are complete because a later one has begun."""
        done: list[ToolCall] = []
        for fragment in fragments:
            done += self._close(before=fragment.index)
            call = self._open.setdefault(fragment.index, _OpenCall())
            call.id = call.id or fragment.id or ""
            if fragment.function is not None:
                call.name = call.name or fragment.function.name or ""
                call.arguments.append(fragment.function.arguments or "")
        return done

    def finish(self) -> list[ToolCall]:
        """Returns the open calls. One whose arguments are cut short is left out: half a call must not be run."""
        return self._close(before=None)

    def _close(self, before: int | None) -> list[ToolCall]:
        indexes = sorted(index for index in self._open if before is None or index < before)
        calls = [_complete(self._open.pop(index)) for index in indexes]
        return [call for call in calls if call is not None]


def _complete(call: _OpenCall) -> ToolCall | None:
    arguments = "".join(call.arguments).strip() or "{}"
    try:
        is_object = isinstance(json.loads(arguments), dict)
    except ValueError:
        is_object = False
    if not call.name or not is_object:
        return None
    return ToolCall(id=call.id or f"call_{uuid4().hex[:24]}", name=call.name, arguments_json=arguments)
