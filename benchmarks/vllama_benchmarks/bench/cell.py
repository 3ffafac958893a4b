"""One cell of the measurement: one target at one concurrency for one repeat, and its statistics."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_benchmarks.bench.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllama_benchmarks.bench.sample import Request
    from vllama_benchmarks.bench.target import Session, Target

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Cell:
    """The result of one run."""

    target: str
    """Name of the target."""
    concurrency: int
    """Requests under way at any time."""
    repeat: int
    """Which of the repeats, from 0."""
    seconds: float
    """From the first request to the last answer."""
    samples: Sequence[Sample]
    """Every request."""
    cpu_seconds: float | None = None
    """CPU time that the watched process and its children used; None when none is watched."""
    resident_bytes: int | None = None
    """Memory of the watched process alone at the end."""
    is_interleaved: bool = False
    """Whether its requests alternated with those of the other targets, one by one; `seconds` are then its own only."""

    @property
    def errors(self) -> int:
        """Requests that were not answered to their end."""
        return sum(bool(sample.error) for sample in self.samples)

    @property
    def tokens(self) -> int:
        """Generated tokens of all answers that came to their end."""
        return sum(sample.tokens for sample in self.samples)

    @property
    def tokens_per_second(self) -> float:
        """Throughput of all requests together."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def requests_per_second(self) -> float:
        """Answers that came to their end, per second."""
        return (len(self.samples) - self.errors) / self.seconds if self.seconds else 0.0

    @property
    def cpu_microseconds_per_token(self) -> float | None:
        """CPU time of the watched process per token."""
        return None if self.cpu_seconds is None or not self.tokens else self.cpu_seconds * 1e6 / self.tokens

    def values(self, measure: str) -> list[float]:
        """Lists one measure ("ttft_seconds", "tpot_seconds", "seconds") of all complete answers."""
        found = (getattr(sample, measure) for sample in self.samples if not sample.error)
        return [value for value in found if value is not None]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Returns a percentile by linear interpolation between the closest ranks; None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


async def measure(
    target: Target,
    requests: Iterator[Request],
    number: int,
    concurrency: int,
    *,
    timeout_seconds: float,
    done: Callable[[Sample], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Sample], float]:
    """Sends `number` requests, `concurrency` at a time, and returns the samples and the time it all took.

    A closed loop: each session sends its next request when the one before has been answered.
    """
    samples: list[Sample] = []
    left = iter(range(number))

    async def user(session: Session) -> None:
        for _ in left:
            sample = await run_within(session, next(requests), timeout_seconds)
            samples.append(sample)
            done(sample)

    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(target.session()) for _ in range(min(concurrency, number))]
        begun = clock()
        async with asyncio.TaskGroup() as users:
            for session in sessions:
                users.create_task(user(session))
        return samples, clock() - begun


async def run_within(session: Session, request: Request, timeout_seconds: float) -> Sample:
    """Runs a request; one that has not ended in time is a broken sample."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await session.run(request)
    except TimeoutError:
        return Sample(timeout_seconds, error=f"no end within {timeout_seconds:g} s")
