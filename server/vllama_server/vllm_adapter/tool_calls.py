"""Complete tool calls from a parser's fragments.

vLLM's parsers stream a call as it is written: the name first, then pieces of its arguments. The
contract carries whole calls, so fragments are gathered here until the next call begins or the
generation ends.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vllama_server.engine.requests import ToolCall

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class _OpenCall:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ToolCallGatherer:
    """Gathers the fragments of one generation."""

    def __init__(self) -> None:
        self._open: dict[int, _OpenCall] = {}

    def add(self, fragments: Sequence[Any]) -> list[ToolCall]:
        """Takes DeltaToolCall fragments and returns the calls that a later one's beginning has closed."""
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
        """Closes what is open. A call whose arguments were cut short is left out: half a call must not be run."""
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
