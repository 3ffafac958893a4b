"""The whole measurement: every concurrency, every repeat, and in each repeat every target in turn.

A B A B rather than A A B B: slow changes of the machine (heat, other programs) then affect all targets alike, and each
repeat gives one ratio. For differences far smaller than the changes between two turns, targets alternate with every
request (interleaved.py).
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
"""A cell of one stream has the requests of two: a single answer varies too much."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a measurement."""

    targets: Mapping[str, Target]
    """Targets by name, in the order in which they take turns; the others are compared with the first."""
    workload: Workload
    """The requests."""
    concurrencies: Sequence[int] = (1, 5, 10, 20, 50)
    """Requests under way at any time."""
    requests: int | None = None
    """Requests of a cell; None: `requests_each` for each stream."""
    repeats: int = 3
    """How often each target is measured at each concurrency."""
    warm_up: int = 2
    """Requests to each target before anything is measured."""
    timeout_seconds: float = 600.0
    """Most time for one request."""
    seed: int = 0
    """Seed of the lengths and words."""
    requests_each: int = 3
    """Requests of each stream; at least LEAST_STREAMS streams are counted."""
    is_interleaved: bool = False
    """True to alternate targets with every request, which needs a single stream."""

    def requests_at(self, concurrency: int) -> int:
        """Returns the number of requests of a cell."""
        return self.requests_each * max(concurrency, LEAST_STREAMS) if self.requests is None else self.requests


async def run(
    plan: Plan,
    watches: Mapping[str, Watch],
    begin: Callable[[str, int, int, int], Callable[[Sample], None]],
) -> AsyncIterator[Cell]:
    """Yields the cells as they are measured.

    `begin` is called with target, concurrency, repeat (-1: warm-up) and number of requests of the next cell, and
    returns the function to call with every sample.
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
    """Returns requests of the same lengths for every target, with a prefix that no cache holds."""
    random = Random(f"{plan.seed}.{concurrency}.{repeat}")
    return plan.workload.requests(random, f"{concurrency}.{repeat}.{name}")
