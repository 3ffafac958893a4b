"""The life of one slot: the states of a worker there, and the transitions between them.

    EMPTY -> LOADING -> READY -> DRAINING -> UNLOADING -> EMPTY
                                 DRAINING -> ASLEEP -> LOADING

A worker that sleeps has left its slot, which another worker may take meanwhile. It wakes at that slot only, because its
process is tied to the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class SlotState(Enum):
    """What the scheduler does with a slot for one of its workers."""

    EMPTY = "empty"
    """No worker: not started yet, or ended."""
    LOADING = "loading"
    """The worker starts or wakes."""
    READY = "ready"
    """The load is over. Whether the worker serves right now is in the pool: the fleet restarts one that dies."""
    DRAINING = "draining"
    """The worker takes no new requests, and sleeps or ends next."""
    UNLOADING = "unloading"
    """The worker finishes its streams and ends."""
    ASLEEP = "asleep"
    """The weights are in the host's memory, and the slot is free for another worker."""


TRANSITIONS: Mapping[SlotState, frozenset[SlotState]] = MappingProxyType(
    {
        SlotState.EMPTY: frozenset({SlotState.LOADING}),
        # To EMPTY at once: an operator has retired the worker.
        SlotState.LOADING: frozenset({SlotState.READY, SlotState.DRAINING, SlotState.UNLOADING, SlotState.EMPTY}),
        SlotState.READY: frozenset({SlotState.DRAINING, SlotState.UNLOADING, SlotState.EMPTY}),
        SlotState.DRAINING: frozenset({SlotState.UNLOADING, SlotState.ASLEEP}),
        SlotState.UNLOADING: frozenset({SlotState.EMPTY}),
        # A worker that ends in its sleep holds no slot, so it is never UNLOADING.
        SlotState.ASLEEP: frozenset({SlotState.LOADING, SlotState.EMPTY}),
    }
)
"""The states that may follow each state."""

OCCUPIED = frozenset({SlotState.LOADING, SlotState.READY, SlotState.DRAINING, SlotState.UNLOADING})
"""The states in which no other worker may take the slot."""


class IllegalTransition(RuntimeError):
    """A change of state that is not in TRANSITIONS: a bug in the scheduler."""


@dataclass(eq=False, slots=True)
class Replica:
    """One worker of a model and its slot."""

    slot: int
    """Number of the slot."""
    worker: str
    """Name of the worker."""
    state: SlotState = SlotState.EMPTY
    """Where the worker is in its life; `enter` changes it."""

    def enter(self, state: SlotState) -> None:
        """Changes the state. Raises IllegalTransition."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"{self.worker} cannot become {state.value}: it is {self.state.value}")
        self.state = state
