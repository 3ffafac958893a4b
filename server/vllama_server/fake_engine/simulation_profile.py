"""The simulation profile: speed, size and faults of a simulated engine.

The defaults are round numbers of the order of a small model on one GPU, so that a balancing result reads like a real
one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[[str, str], Any]


@dataclass(frozen=True, slots=True)
class SimulationProfile:
    """Speed and size of a simulated engine."""

    step_seconds: float = 0.010
    """Fixed time of one step."""
    step_seconds_per_stream: float = 0.0002
    """Time that each decoding stream adds to a step."""
    prefill_tokens_per_second: float = 20_000.0
    """Prompt tokens computed per second, beside the fixed time; 0 means in no time."""
    speed: float = 1.0
    """Divides every time: 0.5 is an engine of half the speed."""
    max_streams: int = 64
    """Streams in the batch at once; more wait."""
    step_tokens: int = 2048
    """Tokens that one step may compute: one for each decoding stream, the rest for prompts."""
    kv_cache_tokens: int = 200_000
    """Tokens that the KV cache holds, for running streams and cached prefixes together."""
    block_tokens: int = 16
    """Tokens of one block of the cache."""
    can_sleep: bool = False
    """True if sleep and wake work, as on a GPU."""
    wake_seconds: float = 0.0
    """How long waking takes."""
    accepts_formats: bool = False
    """True if requests for constrained output are served, without the constraint."""

    @property
    def cache_blocks(self) -> int:
        """Blocks that the KV cache holds."""
        return self.kv_cache_tokens // self.block_tokens

    def step_time(self, decoding_streams: int, prefill_tokens: int) -> float:
        """Seconds that a step takes."""
        seconds = self.step_seconds + self.step_seconds_per_stream * decoding_streams
        if self.prefill_tokens_per_second:
            seconds += prefill_tokens / self.prefill_tokens_per_second
        return seconds / self.speed


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults, all off by default."""

    start_seconds: float = 0.0
    """How long the start takes."""
    crash_after_tokens: int | None = None
    """The process dies once it has generated so many tokens."""
    hang_after_tokens: int | None = None
    """No further step is made once so many tokens have been generated."""
    error_rate: float = 0.0
    """Share of requests that fail before their first token, 0 to 1."""
    poison: str = ""
    """A prompt that contains this text kills the process."""


def from_arguments(arguments: Mapping[str, str], max_streams: int | None = None) -> tuple[SimulationProfile, Faults]:
    """Reads key=value arguments over the defaults; `max_streams` is the worker's own flag and yields to the argument.

    Raises ValueError, one sentence, for an unknown key or a value out of range.
    """
    profile = SimulationProfile() if max_streams is None else replace(SimulationProfile(), max_streams=max_streams)
    faults = Faults()
    for key, text in arguments.items():
        if key in _PROFILE_READERS:
            profile = replace(profile, **{key: _PROFILE_READERS[key](key, text)})
        elif key in _FAULT_READERS:
            faults = replace(faults, **{key: _FAULT_READERS[key](key, text)})
        else:
            raise ValueError(f"{key} is no setting of the simulated engine; it knows {', '.join(KEYS)}.")
    if profile.cache_blocks < 1:
        raise ValueError("kv_cache_tokens is less than one block; raise it or lower block_tokens.")
    return profile, faults


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{key}={text} does not work; give a number of 0 or more.")
    return number


def _positive_number(key: str, text: str) -> float:
    number = _number(key, text)
    if not number:
        raise ValueError(f"{key}={text} does not work; give a number above 0.")
    return number


def _share(key: str, text: str) -> float:
    number = _number(key, text)
    if number > 1:
        raise ValueError(f"{key}={text} does not work; give a share from 0 to 1.")
    return number


def _count(key: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{key}={text} does not work; give a whole number of 1 or more.")
    return int(text)


def _switch(key: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{key}={text} does not work; give 1 or 0.")
    return text == "1"


def _text(key: str, text: str) -> str:
    if not text:
        raise ValueError(f"{key} is empty; give the text that kills the process.")
    return text


_PROFILE_READERS: dict[str, Reader] = {
    "step_seconds": _number,
    "step_seconds_per_stream": _number,
    "prefill_tokens_per_second": _number,
    "speed": _positive_number,
    "max_streams": _count,
    "step_tokens": _count,
    "kv_cache_tokens": _count,
    "block_tokens": _count,
    "can_sleep": _switch,
    "wake_seconds": _number,
    "accepts_formats": _switch,
}
_FAULT_READERS: dict[str, Reader] = {
    "start_seconds": _number,
    "crash_after_tokens": _count,
    "hang_after_tokens": _count,
    "error_rate": _share,
    "poison": _text,
}
KEYS = tuple(field.name for kind in (SimulationProfile, Faults) for field in fields(kind))
"""Every key of `from_arguments`."""
