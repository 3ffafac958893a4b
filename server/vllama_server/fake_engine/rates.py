"""Measured speeds of an engine's steps: moving averages for the load report."""

from __future__ import annotations

import math

HALF_LIFE_SECONDS = 1.0
"""After so long without tokens the reported decode speed has halved."""
_WEIGHT = 0.1
"""Share of a new step in the moving averages."""


class Rates:
    """Averages over the steps of one engine."""

    def __init__(self) -> None:
        self._decode = 0.0
        self._updated_at = 0.0
        self._prefill_tokens = 0.0
        self._prefill_seconds = 0.0
        self.step_seconds = 0.0
        """Time of a step that only decodes; 0 until there was one."""
        self.last_step_at: float | None = None
        """When the last step ended, by the engine's clock; None before the first."""
        self._work_since = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Speed of prefill without the fixed time of a step; 0 until measured."""
        return self._prefill_tokens / self._prefill_seconds if self._prefill_seconds else 0.0

    def work_begins(self, now: float) -> None:
        """Records that an idle engine has got work."""
        self._work_since = now

    def last_step_age_seconds(self, now: float) -> float | None:
        """Time without a step while there was work, as long as there is work; None before the first step."""
        return None if self.last_step_at is None else now - max(self.last_step_at, self._work_since)

    def record(self, now: float, seconds: float, decode_tokens: int, prefill_tokens: int) -> None:
        """Records a step that ended now."""
        self.last_step_at = now
        if prefill_tokens:
            self._record_prefill(seconds - self.step_seconds, prefill_tokens)
        elif decode_tokens:
            self.step_seconds += (_WEIGHT if self.step_seconds else 1.0) * (seconds - self.step_seconds)
        # Each token adds an impulse that decays; a steady stream of r tokens per second settles at r.
        self._decode = self.decode_tokens_per_second(now) + decode_tokens * math.log(2) / HALF_LIFE_SECONDS
        self._updated_at = now

    def decode_tokens_per_second(self, now: float) -> float:
        """Speed of all streams together; decays while the engine is idle."""
        return self._decode * math.pow(2.0, (self._updated_at - now) / HALF_LIFE_SECONDS)

    def _record_prefill(self, seconds: float, tokens: int) -> None:
        # The fixed time of a step must be measured first: in a small chunk it is nearly all of the time.
        # Tokens and seconds are averaged apart, so that a chunk counts by its size.
        if self.step_seconds and seconds > 0:
            self._prefill_tokens += _WEIGHT * (tokens - self._prefill_tokens)
            self._prefill_seconds += _WEIGHT * (seconds - self._prefill_seconds)
