"""The interface of a placement in the simulator: it chooses workers and is notified of every event."""

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
    """Chooses a worker for each request and keeps its own state of the fleet."""

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        """Picks one of the available workers, at least one, and counts the request there."""
        ...

    def started(self, now: float, request: Request, cached_tokens: int) -> None:
        """The worker has started the request and had so much of its prompt cached."""
        ...

    def first_token(self, now: float, request: Request) -> None:
        """The attempt has its first token."""
        ...

    def ended(self, now: float, request: Request, output_tokens: int) -> None:
        """The request is complete, with the output tokens of this attempt."""
        ...

    def lost(self, now: float, request: Request) -> None:
        """The request's worker has died; the request will be placed on another one."""
        ...

    def report(self, now: float, worker: int, report: LoadReport) -> None:
        """A worker has reported its load."""
        ...

    def left(self, now: float, worker: int) -> None:
        """A worker has died."""
        ...

    def joined(self, now: float, worker: int) -> None:
        """A worker serves again, with empty caches."""
        ...


@dataclass(frozen=True, slots=True)
class PlacementContext:
    """What a placement may be built from."""

    workers: int
    """Number of workers."""
    rng: random.Random
    """Its own random source."""
    engines: Sequence[EngineModel]
    """The true state of the workers, for the oracle only."""


PlacementFactory = Callable[[PlacementContext], Placement]
"""Builds a placement for one run."""
