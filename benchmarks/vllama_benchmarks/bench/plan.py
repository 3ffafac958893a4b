"""The whole measurement: every concurrency, every repeat, and in each repeat every target in turn.

A B A B rather than A A B B: what changes slowly on a machine (heat, other programs) then changes
for all targets alike, and each repeat gives one honest ratio. Where a difference is far smaller than
what changes between two turns, the targets take turns with every single request (interleaved.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from vllama_benchmarks.bench.cell import Cell, measure
from vllama_benchmarks.bench.interleaved import measure_in_turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from vllama_benchmarks.bench.sample import Request, Sample
    from vllama_benchmarks.bench.target import Target
    from vllama_benchmarks.bench.watch import Watch
    from vllama_benchmarks.bench.workload import Workload

WARM_UP = "warm-up"
LEAST_STREAMS = 2
"""A cell of one stream has the requests of two: one answer alone says little."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    targets: Mapping[str, Target]
    """Targets by name, in the order in which they take turns; the first is what others are compared with."""
    workload: Workload
    """What is sent."""
    concurrencies: Sequence[int] = (1, 5, 10, 20, 50)
    """Requests under way at any time."""
    requests: int | None = None
    """Requests of a cell; None: so many for each that is under way as `requests_each` says."""
    repeats: int = 3
    """How often each target is measured at each concurrency."""
    warm_up: int = 2
    """Requests to each target before anything is measured."""
    timeout_seconds: float = 600.0
    """Most time for one request."""
    seed: int = 0
    """Seed of the lengths and words."""
    requests_each: int = 3
    """Requests of each stream, of which there count LEAST_STREAMS at least."""
    is_interleaved: bool = False
    """Whether targets take turns with every request, which is possible at one stream only."""

    def requests_at(self, concurrency: int) -> int:
        """Tells how many requests a cell has."""
        return self.requests_each * max(concurrency, LEAST_STREAMS) if self.requests is None else self.requests


async def run(
    plan: Plan,
    watches: Mapping[str, Watch],
    begin: Callable[[str, int, int, int], Callable[[Sample], None]],
) -> AsyncIterator[Cell]:
    """Yields the cells as they are measured.

    `begin` is told target, concurrency, repeat (-1: warm-up) and number of requests of what comes
    next, and returns what is to be called with every sample.
    """
    for name, target in plan.targets.items():
        requests = plan.workload.requests(Random(plan.seed), f"{WARM_UP}.{name}")
        number = plan.warm_up
        if number:
            done = begin(name, number, -1, number)
            await measure(target, requests, number, number, timeout_seconds=plan.timeout_seconds, done=done)
    for concurrency in plan.concurrencies:
        for repeat in range(plan.repeats):
            if plan.is_interleaved and concurrency == 1:
                for cell in await _interleaved(plan, repeat, watches, begin):
                    yield cell
                continue
            for name in plan.targets:
                yield await _cell(plan, name, concurrency, repeat, watches.get(name), begin)


async def _cell(
    plan: Plan,
    name: str,
    concurrency: int,
    repeat: int,
    watch: Watch | None,
    begin: Callable[[str, int, int, int], Callable[[Sample], None]],
) -> Cell:
    number = plan.requests_at(concurrency)
    requests = _requests(plan, name, concurrency, repeat)
    before = watch.cpu_seconds() if watch else 0.0
    done = begin(name, concurrency, repeat, number)
    samples, seconds = await measure(
        plan.targets[name], requests, number, concurrency, timeout_seconds=plan.timeout_seconds, done=done
    )
    cpu_seconds = watch.cpu_seconds() - before if watch else None
    return Cell(name, concurrency, repeat, seconds, samples, cpu_seconds, watch.resident_bytes() if watch else None)


async def _interleaved(
    plan: Plan,
    repeat: int,
    watches: Mapping[str, Watch],
    begin: Callable[[str, int, int, int], Callable[[Sample], None]],
) -> list[Cell]:
    number = plan.requests_at(1)
    requests = {name: _requests(plan, name, 1, repeat) for name in plan.targets}
    done = {name: begin(name, 1, repeat, number) for name in plan.targets}
    measured = await measure_in_turn(
        plan.targets, requests, number, watches, timeout_seconds=plan.timeout_seconds, done=done
    )
    return [
        Cell(
            name,
            1,
            repeat,
            sum(sample.seconds for sample in found.samples),
            found.samples,
            found.cpu_seconds if name in watches else None,
            watches[name].resident_bytes() if name in watches else None,
            is_interleaved=True,
        )
        for name, found in measured.items()
    ]


def _requests(plan: Plan, name: str, concurrency: int, repeat: int) -> Iterator[Request]:
    """Draws the same lengths for every target, but a prefix that no cache has seen."""
    random = Random(f"{plan.seed}.{concurrency}.{repeat}")
    return plan.workload.requests(random, f"{concurrency}.{repeat}.{name}")
