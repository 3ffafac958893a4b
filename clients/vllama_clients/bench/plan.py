"""The whole measurement: every concurrency, every repeat, and in each repeat every target in turn.

A B A B rather than A A B B: what changes slowly on a machine (heat, other programs) then changes
for all targets alike, and each repeat gives one honest ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from vllama_clients.bench.cell import Cell, measure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from vllama_clients.bench.sample import Sample
    from vllama_clients.bench.target import Target
    from vllama_clients.bench.watch import Watch
    from vllama_clients.bench.workload import Workload

WARM_UP = "warm-up"


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
    """Requests of a cell; None: three for each that is under way, 10 at least."""
    repeats: int = 3
    """How often each target is measured at each concurrency."""
    warm_up: int = 2
    """Requests to each target before anything is measured."""
    timeout_seconds: float = 600.0
    """Most time for one request."""
    seed: int = 0
    """Seed of the lengths and words."""

    def requests_at(self, concurrency: int) -> int:
        """Tells how many requests a cell has."""
        return max(3 * concurrency, 10) if self.requests is None else self.requests


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
    # The same lengths for every target, but a prefix that no cache has seen.
    random = Random(f"{plan.seed}.{concurrency}.{repeat}")
    requests = plan.workload.requests(random, f"{concurrency}.{repeat}.{name}")
    before = watch.cpu_seconds() if watch else 0.0
    done = begin(name, concurrency, repeat, number)
    samples, seconds = await measure(
        plan.targets[name], requests, number, concurrency, timeout_seconds=plan.timeout_seconds, done=done
    )
    cpu_seconds = watch.cpu_seconds() - before if watch else None
    return Cell(name, concurrency, repeat, seconds, samples, cpu_seconds, watch.resident_bytes() if watch else None)
