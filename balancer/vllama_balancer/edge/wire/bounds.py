"""JSON numbers, which have no bounds, brought into the wire's ranges."""

from __future__ import annotations

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def clamp_int32(value: int | None) -> int | None:
    """Serves an integer of any size as the nearest that the wire carries."""
    return None if value is None else max(-INT32_MAX, min(value, INT32_MAX))


def clamp_count(value: int | None) -> int | None:
    """Serves an integer of any size as the nearest count, 0 or more."""
    return None if value is None else max(0, min(value, INT32_MAX))


def clamp_unit(value: float | None) -> float | None:
    """Serves a number as the nearest from 0 to 1."""
    return None if value is None else max(0.0, min(value, 1.0))
