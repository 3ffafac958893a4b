"""Clamps JSON numbers, which have no bounds, to the ranges of the protos."""

from __future__ import annotations

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def clamp_int32(value: int | None) -> int | None:
    return None if value is None else max(-INT32_MAX, min(value, INT32_MAX))


def clamp_count(value: int | None) -> int | None:
    """Returns the nearest uint32 that is an int32 as well."""
    return None if value is None else max(0, min(value, INT32_MAX))


def clamp_unit(value: float | None) -> float | None:
    """Returns the nearest number from 0 to 1."""
    return None if value is None else max(0.0, min(value, 1.0))
