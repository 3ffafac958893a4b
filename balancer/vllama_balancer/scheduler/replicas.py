"""The slots of the machine and the workers at them: starts and ends workers, and keeps the free slots.

A worker that sleeps has left its slot but not the machine, so a name belongs to a worker and not to a slot: the first
worker of slot 0 is "worker-0", one that starts while that one sleeps is "worker-0b".
"""

from __future__ import annotations

import string
from dataclasses import replace
from typing import TYPE_CHECKING

from vllama_balancer.scheduler.memory import selector_of
from vllama_balancer.scheduler.state import OCCUPIED, Replica, SlotState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.fleet.assignment import HostedModel, Slot, WorkerSpec
    from vllama_balancer.scheduler.settings import WorkerLauncher


class Replicas:
    """Starts and ends workers at slots; the only place where a slot's state changes."""

    def __init__(
        self, launcher: WorkerLauncher, slots: Sequence[Slot], make_spec: Callable[[Slot, HostedModel], WorkerSpec]
    ) -> None:
        self._launcher = launcher
        self._slots = {slot.index: slot for slot in slots}
        self._free = [slot.index for slot in slots]
        self._make_spec = make_spec
        self._names: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._slots)

    @property
    def free(self) -> tuple[int, ...]:
        """Slots without a worker that is awake, the one that has been free longest first."""
        return tuple(self._free)

    def slot(self, index: int) -> Slot:
        return self._slots[index]

    def slots(self) -> Sequence[Slot]:
        return tuple(self._slots.values())

    def same_gpu(self, index: int) -> list[int]:
        """Lists the slots on the same GPU, itself included; none off GPUs."""
        gpu = selector_of(self._slots[index])
        return [other for other, slot in self._slots.items() if gpu and selector_of(slot) == gpu]

    def start(self, slot: int, hosted: HostedModel, *, fail_fast: bool = False) -> Replica:
        """Starts a worker at a free slot."""
        spec = self._make_spec(self._slots[slot], hosted)
        suffixes = ("", *string.ascii_lowercase[1:])
        spec = replace(spec, suffix=next(suffix for suffix in suffixes if f"{spec.name}{suffix}" not in self._names))
        self._launcher.add(spec, fail_fast=fail_fast)
        replica = Replica(slot, spec.name)
        self._enter(replica, SlotState.LOADING)
        self._names.add(spec.name)
        return replica

    def ready(self, replica: Replica) -> None:
        """Records that a load is over."""
        self._enter(replica, SlotState.READY)

    def drain(self, replica: Replica) -> None:
        """Records that the worker sleeps or ends next."""
        self._enter(replica, SlotState.DRAINING)

    async def end(self, replica: Replica) -> None:
        """Drains and ends a worker, awake or asleep; it holds no slot afterwards, whatever happens."""
        if replica.state is not SlotState.ASLEEP:
            self._enter(replica, SlotState.UNLOADING)
        try:
            await self._launcher.retire(replica.worker)
        finally:
            self._forget(replica)

    def is_kept(self, replica: Replica) -> bool:
        """Returns whether the fleet keeps the worker alive; an operator may have retired it."""
        return self._launcher.owns(replica.worker)

    def retired(self, replica: Replica) -> None:
        """Records that an operator has retired the worker."""
        self._forget(replica)

    def fell_asleep(self, replica: Replica) -> None:
        """Records that the worker sleeps: its slot is free."""
        self._enter(replica, SlotState.ASLEEP)

    def wakes(self, replica: Replica) -> None:
        """Takes the slot, which is free, for a worker that wakes."""
        self._enter(replica, SlotState.LOADING)

    def _forget(self, replica: Replica) -> None:
        self._names.discard(replica.worker)
        self._enter(replica, SlotState.EMPTY)

    def _enter(self, replica: Replica, state: SlotState) -> None:
        was_occupied = replica.state in OCCUPIED
        replica.enter(state)
        if was_occupied and state not in OCCUPIED:
            self._free.append(replica.slot)
        elif not was_occupied and state in OCCUPIED:
            self._free.remove(replica.slot)
