"""The places of the machine and the workers at them: who started where, under which name, and what is free.

A worker that sleeps has left its place but not the machine, so a name belongs to a worker and not to a place: the
first worker of place 0 is "worker-0", one that comes while that sleeps is "worker-0b".
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllama_balancer.scheduler.memory import selector_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.fleet.assignment import HostedModel, Slot, WorkerSpec
    from vllama_balancer.scheduler.settings import WorkerLauncher


@dataclass(frozen=True, slots=True)
class Replica:
    """One worker and its place."""

    place: int
    """Number of the place."""
    worker: str
    """Name of the worker."""


class Replicas:
    """Starts and ends workers at places."""

    def __init__(
        self, workshop: WorkerLauncher, places: Sequence[Slot], make_spec: Callable[[Slot, HostedModel], WorkerSpec]
    ) -> None:
        self._workshop = workshop
        self._slots = {slot.index: slot for slot in places}
        self._free = [slot.index for slot in places]
        self._make_spec = make_spec
        self._names: set[str] = set()

    @property
    def count(self) -> int:
        """Number of places, free or not."""
        return len(self._slots)

    @property
    def free(self) -> tuple[int, ...]:
        """Places without a worker that is awake, the one that has been free longest first."""
        return tuple(self._free)

    def slot(self, place: int) -> Slot:
        """Tells what a place is."""
        return self._slots[place]

    def neighbours(self, place: int) -> list[int]:
        """Lists the places on the same GPU, itself included; none off GPUs."""
        gpu = selector_of(self._slots[place])
        return [index for index, slot in self._slots.items() if gpu and selector_of(slot) == gpu]

    def start(self, place: int, model: HostedModel, *, fail_fast: bool = False) -> Replica:
        """Starts a worker at a free place."""
        self._free.remove(place)
        spec = self._make_spec(self._slots[place], model)
        suffixes = ("", *string.ascii_lowercase[1:])
        spec = replace(spec, suffix=next(suffix for suffix in suffixes if f"{spec.name}{suffix}" not in self._names))
        self._names.add(spec.name)
        self._workshop.add(spec, fail_fast=fail_fast)
        return Replica(place, spec.name)

    async def end(self, replica: Replica) -> None:
        """Drains and ends a worker that is awake; its place is free afterwards, whatever happens."""
        try:
            await self._workshop.retire(replica.worker)
        finally:
            self._names.discard(replica.worker)
            self._free.append(replica.place)

    def is_kept(self, replica: Replica) -> bool:
        """Tells whether the worker is still kept alive; somebody else may have retired it."""
        return self._workshop.owns(replica.worker)

    def forget(self, replica: Replica) -> None:
        """Frees the place of a worker that somebody else has retired."""
        self._names.discard(replica.worker)
        self._free.append(replica.place)

    def leave(self, replica: Replica) -> None:
        """Frees the place of a worker that has fallen asleep."""
        self._free.append(replica.place)

    def return_to(self, replica: Replica) -> None:
        """Takes the place, which is free, for a worker that wakes."""
        self._free.remove(replica.place)

    async def end_asleep(self, replica: Replica) -> None:
        """Ends a worker that sleeps."""
        try:
            await self._workshop.retire(replica.worker)
        finally:
            self._names.discard(replica.worker)
