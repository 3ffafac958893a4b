"""`keep_alive`: how long a model stays loaded after its last request, as Ollama writes it."""

from __future__ import annotations

import math
import re

from vllama_balancer.errors import InvalidRequest

FOREVER = math.inf

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")
_INTEGER = re.compile(r"[+-]?[0-9]+")


def parse_keep_alive(value: object) -> float | None:
    """Reads seconds out of a number, or of a Go duration such as "1h30m".

    None means not given; negative values are forever. A string with a bare integer counts as
    seconds. Raises InvalidRequest for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _forever_if_negative(_parse_text(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _forever_if_negative(float(min(value, 2**63)))
    raise _invalid(value)


def _parse_text(text: str) -> float:
    if _INTEGER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise _invalid(text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match[2]))
    return -seconds if match[1] == "-" else seconds


def _forever_if_negative(seconds: float) -> float:
    return FOREVER if seconds < 0 else seconds


def _invalid(value: object) -> InvalidRequest:
    message = f'invalid keep_alive {str(value)[:40]!r}: give seconds, or a duration such as "5m" or "1h30m"'
    return InvalidRequest(message, field="keep_alive")
