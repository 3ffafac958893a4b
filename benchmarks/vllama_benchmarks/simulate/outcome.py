"""The counts of one run, and the score of several runs of one cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.simulate.workload import Request


class Outcome:
    """Counts of one run."""

    def __init__(self, workers: int) -> None:
        self.ttft_seconds: list[float] = []
        """From the request to the first token, one for each request."""
        self.tpot_seconds: list[float] = []
        """Mean time between tokens, one for each request with several."""
        self.makespan_seconds = 0.0
        """When the last request ended."""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self._streams = [0] * workers
        self._since = [0.0] * workers
        self._stream_seconds = [0.0] * workers

    def count(self, now: float, worker: int, change: int) -> None:
        """Counts a stream that a worker gains or loses."""
        self._stream_seconds[worker] += self._streams[worker] * (now - self._since[worker])
        self._since[worker] = now
        self._streams[worker] += change

    def add(self, request: Request) -> None:
        """Counts a request that is complete."""
        self.ttft_seconds.append(request.first_token_seconds - request.asked_seconds)
        if request.turn.output_tokens > 1:
            decode = request.ended_seconds - request.first_token_seconds
            self.tpot_seconds.append(decode / (request.turn.output_tokens - 1))
        self.makespan_seconds = max(self.makespan_seconds, request.ended_seconds)
        self.prompt_tokens += request.turn.prompt_tokens
        self.cached_tokens += min(request.cached_tokens, request.turn.prompt_tokens)

    @property
    def imbalance(self) -> float:
        """The busiest worker's mean number of streams over the mean worker's; 1 is even."""
        mean = sum(self._stream_seconds) / len(self._stream_seconds)
        return max(self._stream_seconds) / mean if mean else 1.0


@dataclass(frozen=True, slots=True)
class Score:
    """One policy in one cell, all seeds together."""

    ttft_p50_seconds: float
    """Median over the requests of all seeds."""
    ttft_p99_seconds: float
    """99th percentile over the requests of all seeds."""
    tpot_seconds: float
    """Mean over requests of the mean time between tokens."""
    makespan_seconds: float
    """Mean over seeds."""
    hit_rate: float
    """Share of the prompt tokens that were cached."""
    imbalance: float
    """Mean over seeds of the busiest worker's share over the mean share."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Interpolates a percentile of sorted values; 0 for none."""
    if not ordered:
        return 0.0
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def mean(values: Sequence[float]) -> float:
    """Averages; 0 for none."""
    return sum(values) / len(values) if values else 0.0


def score(outcomes: Sequence[Outcome]) -> Score:
    """Sums up the runs of one policy in one cell."""
    ttft = sorted(value for outcome in outcomes for value in outcome.ttft_seconds)
    return Score(
        ttft_p50_seconds=percentile(ttft, 0.50),
        ttft_p99_seconds=percentile(ttft, 0.99),
        tpot_seconds=mean([value for outcome in outcomes for value in outcome.tpot_seconds]),
        makespan_seconds=mean([outcome.makespan_seconds for outcome in outcomes]),
        hit_rate=sum(o.cached_tokens for o in outcomes) / max(1, sum(o.prompt_tokens for o in outcomes)),
        imbalance=mean([outcome.imbalance for outcome in outcomes]),
    )
