"""Targets that alternate with every request, so that other load on the machine affects all of them alike.

One stream at a time. The first target changes from round to round: after another engine the processor's caches hold
that engine's weights.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_benchmarks.bench.cell import run_within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vllama_benchmarks.bench.sample import Request, Sample
    from vllama_benchmarks.bench.target import Target
    from vllama_benchmarks.bench.watch import Watch


@dataclass(slots=True)
class Measured:
    """The measurements of one target."""

    samples: list[Sample] = field(default_factory=list)
    """A sample of each round, in order."""
    cpu_seconds: float = 0.0
    """CPU time of the watched process while this target had its turns."""


async def measure_in_turn(
    targets: Mapping[str, Target],
    requests: Mapping[str, Iterator[Request]],
    rounds: int,
    watches: Mapping[str, Watch],
    *,
    timeout_seconds: float,
    done: Mapping[str, Callable[[Sample], None]],
) -> dict[str, Measured]:
    """Sends each target one request a round, one after the other, and returns their measurements."""
    measured = {name: Measured() for name in targets}
    names = list(targets)
    async with AsyncExitStack() as stack:
        sessions = {name: await stack.enter_async_context(target.session()) for name, target in targets.items()}
        for number in range(rounds):
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                before = watches[name].cpu_seconds() if name in watches else 0.0
                sample = await run_within(sessions[name], next(requests[name]), timeout_seconds)
                if name in watches:
                    measured[name].cpu_seconds += watches[name].cpu_seconds() - before
                measured[name].samples.append(sample)
                done[name](sample)
    return measured
