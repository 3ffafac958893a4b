"""What the simulator asks of a placement: where a request goes, and news of what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from vllama_benchmarks.simulate.engine_model import EngineModel, LoadReport
    from vllama_benchmarks.simulate.workload import Request


class Placement(Protocol):
    """Chooses a worker for each request and keeps its own books on the fleet."""

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        """Picks one of the available workers, at least one, and counts the request there."""
        ...

    def started(self, now: float, request: Request, cached_tokens: int) -> None:
        """Hears that the worker computes the request, and how much of its prompt it had cached."""
        ...

    def first_token(self, now: float, request: Request) -> None:
        """Hears of the first token of an attempt."""
        ...

    def ended(self, now: float, request: Request, output_tokens: int) -> None:
        """Hears that the request is complete, with the output tokens of this attempt."""
        ...

    def lost(self, now: float, request: Request) -> None:
        """Hears that the request's worker died under it; the request is placed anew, elsewhere."""
        ...

    def report(self, now: float, worker: int, report: LoadReport) -> None:
        """Hears a worker's report of its load."""
        ...

    def left(self, now: float, worker: int) -> None:
        """Hears that a worker has died."""
        ...

    def joined(self, now: float, worker: int) -> None:
        """Hears that a worker serves again, with empty caches."""
        ...


@dataclass(frozen=True, slots=True)
class PlacementContext:
    """What a placement may be built from."""

    workers: int
    """How many there are."""
    rng: random.Random
    """Its own random source."""
    engines: Sequence[EngineModel]
    """The true state of the workers. Only the oracle looks."""


PlacementFactory = Callable[[PlacementContext], Placement]
"""Builds a placement for one run."""
