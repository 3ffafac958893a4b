"""What the decisions about loading are made from: the models and the places of a machine at one moment.

Frozen and free of tasks, workers and clocks, so that a simulator can play a day of load through the same decisions
in a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model that has places, or waits for its first; times are on the clock of `MachineState.now`."""

    key: str
    """Comparable name of the model."""
    places: tuple[int, ...] = ()
    """Where its workers are, the oldest first."""
    users: int = 0
    """Requests that use it or wait for it."""
    is_loaded: bool = False
    """Whether it has been able to serve."""
    is_leaving: bool = False
    """Whether its workers are being ended."""
    paused: bool = False
    """Whether it takes no new requests, so that a model that waits has its turn."""
    is_pinned: bool = False
    """Whether it never leaves."""
    can_sleep: bool = False
    """Whether its engine can move the weights to the host's memory and back."""
    size_bytes: int = 0
    """Bytes of its weights; 0: unknown."""
    share: int = 1
    """Places that it is given back when others leave."""
    ready_at: float = 0.0
    """When it began to serve."""
    deadlines: tuple[float, ...] = ()
    """When those that wait for its load give up, as far as they do."""
    load_seconds: float = 0.0
    """How long it took from its place to its first token."""
    was_just_evicted: bool = False
    """Whether it was wanted back sooner than a load after it had to leave for another one."""
    last_used: float = 0.0
    """When its last request ended."""
    saturated_since: float | None = None
    """Since when requests have waited for room on its workers; None while none does."""
    no_scale_up_until: float = -math.inf
    """Before that it takes no further place: it lost the last one soon after it had got it."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it now."""
        return self.users == 0 and self.is_loaded and not self.is_leaving

    @property
    def has_spare_replica(self) -> bool:
        """Whether it can do with one place less."""
        return len(self.places) > 1 and self.is_loaded and not self.is_leaving


@dataclass(frozen=True, slots=True)
class SleeperState:
    """A model whose weights are in the host's memory; it wakes at its own place only."""

    key: str
    """Comparable name of the model."""
    place: int
    """Where its process is tied to."""
    since: float = 0.0
    """When it fell asleep."""
    size_bytes: int = 0
    """Bytes of the host's memory that it takes; 0: unknown."""


@dataclass(frozen=True, slots=True)
class MachineState:
    """All that is decided upon."""

    now: float
    """The time, in seconds on any clock."""
    free: tuple[int, ...]
    """Places without a worker that is awake."""
    models: tuple[ModelState, ...] = ()
    """Models that are awake, starting or leaving."""
    sleepers: tuple[SleeperState, ...] = ()
    """Models that are asleep."""
    host_memory_bytes: int = 0
    """Memory of the host that sleepers may still take."""

    def sleeper(self, key: str) -> SleeperState | None:
        """Finds a sleeping model."""
        return next((sleeper for sleeper in self.sleepers if sleeper.key == key), None)

    def deadlines(self, key: str) -> tuple[float, ...]:
        """Tells when those give up that wait for a model's load."""
        return next((model.deadlines for model in self.models if model.key == key), ())

    def holder(self, place: int) -> ModelState | None:
        """Finds who is awake at a place."""
        return next((model for model in self.models if place in model.places), None)
