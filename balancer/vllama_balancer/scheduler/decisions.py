"""Which model gets which slot, which one is unloaded, and which one sleeps: pure functions of the machine's state.

A requested model gets its first slot from the first of these that can be had:

1. the slot where it sleeps;
2. a free slot;
3. a slot of a model that has several;
4. the slot of the idle model that was used longest ago;
5. the slot of a busy model that has served for `min_tenure_seconds`: it is paused, which means that it takes no new
   requests until another model has been loaded. Running requests are never cut.

These rules keep models from evicting each other again and again:

- Scaling up takes free slots only.
- A busy model serves for at least `min_tenure_seconds`.
- A model that loses a replica within `regrow_seconds` is not scaled up again for as long.
- A model that is requested again within one load time of being evicted stays for `min_residency_loads` load times,
  idle or not.

A first switch is never delayed, no wait for a switch exceeds `min_tenure_seconds`, and none lasts so long that a
waiting request misses a deadline that could be met.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllama_balancer.scheduler.model import LoadedModel, SleepingModel
    from vllama_balancer.scheduler.settings import SchedulerSettings


@dataclass(frozen=True, slots=True)
class MachineState:
    """The machine at one moment; read it before anything else runs, because the models are not copied."""

    now: float
    """The time, in seconds on any clock."""
    free: tuple[int, ...]
    """Slots without a worker that is awake."""
    models: tuple[LoadedModel, ...] = ()
    """Models that are awake, starting or leaving."""
    sleeping: tuple[SleepingModel, ...] = ()
    """Models that are asleep."""
    host_memory_bytes: int = 0
    """Memory of the host that sleeping models may still take."""

    def asleep(self, key: str) -> SleepingModel | None:
        return next((model for model in self.sleeping if model.key == key), None)

    def deadlines(self, key: str) -> Sequence[float]:
        """Returns the deadlines of the requests that wait for a model's load."""
        return next((model.deadlines for model in self.models if model.key == key), ())

    def occupant(self, slot: int) -> LoadedModel | None:
        """Returns the model that is awake at a slot."""
        return next((model for model in self.models if slot in model.slots), None)


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker at a free slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the model where it sleeps; its slot is free."""

    slot: int


@dataclass(frozen=True, slots=True)
class ScaleDown:
    """End one replica of a model that has several."""

    key: str
    slot: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload an idle model."""

    key: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Give a busy model no new requests until the waiting one has been loaded."""

    key: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing until something changes, or the seconds have passed."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail the load: there will never be a slot."""

    reason: str


Step = Start | Wake | ScaleDown | Evict | Pause | Wait | Refuse
"""The next thing to do so that a model gets a slot; all but Start, Wake and Refuse need a further decision."""


@dataclass(frozen=True, slots=True)
class ScaleUp:
    """Give a model one more worker at a free slot."""

    key: str
    slot: int


@dataclass(frozen=True, slots=True)
class Sleep:
    """Move an idle model's weights to the host's memory."""


@dataclass(frozen=True, slots=True)
class EndSleeping:
    """End a sleeping model, whose memory is needed."""

    key: str


@dataclass(frozen=True, slots=True)
class End:
    """End an idle model's workers."""


UnloadAction = Sleep | EndSleeping | End
"""How to unload an idle model; decide again after EndSleeping."""


def next_step(machine: MachineState, key: str, settings: SchedulerSettings) -> Step:
    """Decides what brings a model without a slot nearer to one."""
    holders = [model for model in machine.models if model.replicas]
    if not 0 < settings.max_loaded_models <= len(holders) and (step := _without_eviction(machine, key)) is not None:
        return step
    if idle := [model for model in holders if model.is_idle and not model.pinned]:
        return _evict_or_wait(idle, machine, key, settings)
    if all(model.pinned for model in holders):
        return Refuse(
            "every worker is kept for the models that the server was started with; start it with more "
            "--workers, or name no models, so that they come and go"
        )
    return _pause_or_wait(machine, settings)


def scale_up(machine: MachineState, settings: SchedulerSettings) -> ScaleUp | None:
    """Decides which model gets one more worker: the smallest of those that have been saturated for long enough."""
    if not machine.free:
        return None
    due = [
        model
        for model in machine.models
        if model.saturated_since is not None
        and machine.now - model.saturated_since >= settings.scale_up_after_seconds
        and _may_scale_up(model, machine.now)
    ]
    if not due:
        return None
    smallest = min(due, key=lambda model: (len(model.replicas), model.saturated_since))
    return ScaleUp(smallest.key, _quietest_slot(machine))


def restore_replicas(machine: MachineState) -> ScaleUp | None:
    """Decides which model gets back a replica that it was started with."""
    for model in machine.models:
        if machine.free and 0 < len(model.replicas) < model.share and _may_scale_up(model, machine.now):
            return ScaleUp(model.key, _quietest_slot(machine))
    return None


def unload_action(machine: MachineState, model: LoadedModel, settings: SchedulerSettings) -> UnloadAction:
    """Decides how to unload an idle model."""
    if not model.can_sleep or settings.sleep_seconds <= 0:
        return End()
    if model.size_bytes <= machine.host_memory_bytes:
        return Sleep()
    # The longest sleeping models make room for one that was just in use, if that is enough.
    if model.size_bytes > machine.host_memory_bytes + sum(other.size_bytes for other in machine.sleeping):
        return End()
    return EndSleeping(_longest_asleep(machine.sleeping).key)


def reclaim_gpu(machine: MachineState, key: str, slots: Collection[int]) -> EndSleeping | Evict | None:
    """Decides which model gives memory of a GPU back to another, given the GPU's slots; None if none can."""
    if asleep := [model for model in machine.sleeping if model.replica.slot in slots and model.key != key]:
        return EndSleeping(_longest_asleep(asleep).key)
    idle = [model for model in machine.models if model.is_idle and not model.pinned and {*model.slots} & {*slots}]
    return Evict(_longest_unused(idle).key) if idle else None


def _without_eviction(machine: MachineState, key: str) -> Step | None:
    """Decides what to do while one more model may be loaded; None: another one has to be unloaded."""
    if (step := _wake_action(machine, key)) is not None:
        return step
    if machine.free:
        return Start(_quietest_slot(machine))
    if spare := [model for model in machine.models if model.has_spare_replica]:
        # Its streams there finish first, and new ones go to its other replicas.
        chosen = min(spare, key=lambda model: (model.requests > 0, model.last_used))
        return ScaleDown(chosen.key, chosen.slots[-1])
    return None


def _wake_action(machine: MachineState, key: str) -> Step | None:
    """Decides what brings a sleeping model to its own slot, where it wakes within seconds; None: it cannot."""
    asleep = machine.asleep(key)
    if asleep is None:
        return None
    slot = asleep.replica.slot
    if slot in machine.free:
        return Wake(slot)
    occupant = machine.occupant(slot)
    if occupant is not None and occupant.has_spare_replica:
        return ScaleDown(occupant.key, slot)
    if occupant is not None and occupant.is_idle and not occupant.pinned:
        return Evict(occupant.key)
    return None


def _evict_or_wait(
    idle: Sequence[LoadedModel], machine: MachineState, key: str, settings: SchedulerSettings
) -> Evict | Wait:
    """Decides which idle model is evicted: the longest unused of those that need not stay."""
    now, deadlines = machine.now, machine.deadlines(key)
    remaining = {
        model.key: min(model.ready_at + _residency_seconds(model, settings), _latest_start(model, deadlines, now)) - now
        for model in idle
    }
    if evictable := [model for model in idle if remaining[model.key] <= 0]:
        return Evict(_longest_unused(evictable).key)
    return Wait(min(remaining.values()))


def _residency_seconds(model: LoadedModel, settings: SchedulerSettings) -> float:
    """Returns how long an idle model stays at least; no request waits longer for it than for a busy one."""
    if not model.was_just_evicted:
        return 0.0
    return min(settings.min_residency_loads * model.load_seconds, settings.min_tenure_seconds)


def _latest_start(model: LoadedModel, deadlines: Sequence[float], now: float) -> float:
    """Returns until when a model may stay, so that a load like its own still meets the first deadline that it can."""
    seconds = model.load_seconds
    # Loads differ; with less than half of one left it is too late anyway.
    return min((deadline - seconds for deadline in deadlines if deadline - now > seconds / 2), default=math.inf)


def _pause_or_wait(machine: MachineState, settings: SchedulerSettings) -> Pause | Wait:
    """Decides whether a busy model is paused: the one that has served longest, one at a time."""
    serving = [model for model in machine.models if model.is_loaded and not model.pinned]
    if not serving or any(model.paused for model in serving):
        return Wait()
    longest = min(serving, key=lambda model: model.ready_at)
    remaining = longest.ready_at + settings.min_tenure_seconds - machine.now
    return Wait(remaining) if remaining > 0 else Pause(longest.key)


def _may_scale_up(model: LoadedModel, now: float) -> bool:
    return model.is_loaded and now >= model.no_scale_up_until


def _quietest_slot(machine: MachineState) -> int:
    """Returns the free slot where the fewest models sleep: a worker that is awake there keeps them from waking."""
    asleep = [model.replica.slot for model in machine.sleeping]
    return min(machine.free, key=lambda slot: (asleep.count(slot), machine.free.index(slot)))


def _longest_asleep(models: Sequence[SleepingModel]) -> SleepingModel:
    return min(models, key=lambda model: model.since)


def _longest_unused(models: Sequence[LoadedModel]) -> LoadedModel:
    return min(models, key=lambda model: model.last_used)
