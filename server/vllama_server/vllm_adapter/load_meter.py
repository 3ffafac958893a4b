"""The engine's load from vLLM's statistics: one call per engine step, a few sums each.

vLLM sends nothing while it is idle, so speeds decay by the clock when they are read.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from vllm.v1.metrics.loggers import StatLoggerBase

from vllama_server.engine.protocol import EngineLoad

if TYPE_CHECKING:
    from collections.abc import Callable

HALF_LIFE_SECONDS = 2.0
"""Age at which a measurement counts half in a speed."""
STEP_WEIGHT = 0.1
"""Share of the newest step in the moving average of step times."""

LEAST_PREFILL_TOKENS = 32
"""Least prompt tokens of a step whose time measures the speed of prefill."""


class Rate:
    """Amount per second, weighted towards the recent past."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._amount = 0.0
        self._seconds = 0.0
        self._updated = clock()

    def add(self, amount: float, seconds: float) -> None:
        """Adds an amount that took so many seconds of work."""
        weight = self._decay()
        self._amount = self._amount * weight + amount
        self._seconds = self._seconds * weight + seconds
        self._updated = self._clock()

    def while_working(self) -> float:
        """Returns the speed of the recent work, however long ago it was."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0

    def now(self) -> float:
        """Returns the speed, decaying to 0 while nothing is done."""
        return self.while_working() * self._decay()

    def _decay(self) -> float:
        return math.pow(0.5, (self._clock() - self._updated) / HALF_LIFE_SECONDS)


class LoadMeter:
    """Statistics of the last step and moving averages over the steps before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_step: float | None = None
        self._idle_at = clock()
        self._running = 0
        self._kv_use = 0.0
        self._step_seconds = 0.0
        self._prefill = Rate(clock)
        self._decode = Rate(clock)
        self._hits = Rate(clock)

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Takes one step's SchedulerStats and IterationStats, either of which may be missing."""
        elapsed = self._step_time(iteration)
        self._last_step = self._clock()
        if scheduler is not None:
            self._running = scheduler.num_running_reqs
            self._kv_use = scheduler.kv_cache_usage
            cache = scheduler.prefix_cache_stats
            if cache is not None and cache.queries:
                self._hits.add(cache.hits, cache.queries)
        if iteration is not None and elapsed > 0:
            self._record_speed(iteration, elapsed)

    def load(self, unfinished_requests: int, queued_prompt_tokens: int) -> EngineLoad:
        """Returns the load now.

        The last step's counts are corrected: requests that came since are waiting, and requests that ended since are
        not running, even if the engine makes no step. The age of the last step leaves out idle time that was seen: the
        reporter and the watchdog look at least once a second.
        """
        running = min(self._running, unfinished_requests)
        if not unfinished_requests:
            self._idle_at = self._clock()
        age = None if self._last_step is None else self._clock() - max(self._last_step, self._idle_at)
        return EngineLoad(
            running=running,
            waiting=unfinished_requests - running,
            kv_cache_use=min(max(self._kv_use, 0.0), 1.0),
            queued_prompt_tokens=queued_prompt_tokens,
            prefill_tokens_per_second=self._prefill.while_working(),
            decode_tokens_per_second=self._decode.now(),
            step_seconds=self._step_seconds,
            prefix_hit_rate=min(self._hits.while_working(), 1.0),
            last_step_age_seconds=age,
        )

    def _step_time(self, iteration: Any) -> float:
        """Returns how long the step took; 0 when that is unknown.

        While requests run, steps follow each other without a pause. The first one after an idle time began when its
        request came; only the time to its first token shows that.
        """
        if self._last_step is not None and self._running:
            return self._clock() - self._last_step
        first_tokens = iteration.time_to_first_tokens_iter if iteration is not None else ()
        return max(first_tokens, default=0.0)

    def _record_speed(self, iteration: Any, elapsed: float) -> None:
        computed = iteration.prompt_token_stats.computed
        if computed >= LEAST_PREFILL_TOKENS:
            self._prefill.add(computed, max(elapsed - self._step_seconds, elapsed / 2))
        if iteration.num_generation_tokens:
            self._decode.add(iteration.num_generation_tokens, elapsed)
        if iteration.num_generation_tokens and not computed:
            old = self._step_seconds or elapsed
            self._step_seconds = old + STEP_WEIGHT * (elapsed - old)


class MeterLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is not analysed
    """vLLM's stat logger that passes the statistics to a meter."""

    def __init__(self, meter: LoadMeter) -> None:
        self._meter = meter

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Records one step. Called on the event loop."""
        self._meter.record(scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Does nothing: the start is logged elsewhere."""
