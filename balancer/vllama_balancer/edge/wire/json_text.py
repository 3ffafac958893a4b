"""JSON values as text, for the proto fields that carry JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from vllama_balancer.errors import InvalidRequest

MOST_LEVELS = 100
"""Deeper than real schemas, and far below the recursion limit of encoders."""


def json_text(value: Any, field: str) -> str:
    """Returns a value as JSON text, keys in their order. Raises InvalidRequest when it is nested too deeply."""
    check_levels(value, MOST_LEVELS, field)
    return msgspec.json.encode(value).decode()


def check_levels(value: Any, most: int, field: str) -> None:
    """Raises InvalidRequest, naming `field`, when arrays and objects are nested more than `most` times."""
    level = [value]
    for _ in range(most):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise InvalidRequest(f"{field} is nested more than {most} levels deep", field=field)


def _inside(value: Any) -> list[Any]:
    """Returns the arrays and objects directly inside a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inner if isinstance(each, dict | list)]
