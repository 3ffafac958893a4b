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

    from vllama_balancer.scheduler.settings import SchedulerSettings
    from vllama_balancer.scheduler.state import MachineState, ModelState


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker at a free place."""

    place: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the model where it sleeps; its place is free."""

    place: int


@dataclass(frozen=True, slots=True)
class ScaleDown:
    """Start one place of a model that has several."""

    key: str
    place: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Let an idle model go."""

    key: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Give a busy model no new requests until the one that waits has had its turn."""

    key: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done before something changes, or the seconds have passed."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """There will never be a place."""

    reason: str


Step = Start | Wake | ScaleDown | Evict | Pause | Wait | Refuse
"""The next thing to do so that a model gets a place; ask again when it is done, unless it was Start, Wake or Refuse."""


@dataclass(frozen=True, slots=True)
class ScaleUp:
    """Give a model one more worker at a free place."""

    key: str
    place: int


@dataclass(frozen=True, slots=True)
class Sleep:
    """Move an idle model's weights to the host's memory."""


@dataclass(frozen=True, slots=True)
class EndSleeper:
    """End a sleeping model first: it takes the memory that another needs more."""

    key: str


@dataclass(frozen=True, slots=True)
class End:
    """End an idle model's processes."""


UnloadAction = Sleep | EndSleeper | End
"""How an idle model goes; ask again after EndSleeper."""


def next_step(machine: MachineState, key: str, rules: SchedulerSettings) -> Step:
    """Decides what brings a model that has no place nearer to one."""
    holders = [model for model in machine.models if model.places]
    if not 0 < rules.max_loaded_models <= len(holders) and (step := _within_bounds(machine, key)) is not None:
        return step
    if idle := [model for model in holders if model.is_idle and not model.is_pinned]:
        return _evict_or_wait(idle, machine, key, rules)
    if all(model.is_pinned for model in holders):
        return Refuse(
            "every worker is kept for the models that the server was started with; start it with more "
            "--workers, or name no models, so that they come and go"
        )
    return _turn_or_wait(machine, rules)


def scale_up(machine: MachineState, rules: SchedulerSettings) -> ScaleUp | None:
    """Decides which model gets one more worker: requests have waited for room on all that it has, for a while."""
    if not machine.free:
        return None
    due = [
        model
        for model in machine.models
        if model.saturated_since is not None
        and machine.now - model.saturated_since >= rules.scale_up_after_seconds
        and _may_grow(model, machine.now)
    ]
    if not due:
        return None
    smallest = min(due, key=lambda model: (len(model.places), model.saturated_since))
    return ScaleUp(smallest.key, _quietest_place(machine))


def restore_replicas(machine: MachineState) -> ScaleUp | None:
    """Decides which model gets a place back that it had been started with."""
    for model in machine.models:
        if machine.free and model.places and len(model.places) < model.share and _may_grow(model, machine.now):
            return ScaleUp(model.key, _quietest_place(machine))
    return None


def unload_action(machine: MachineState, model: ModelState, rules: SchedulerSettings) -> UnloadAction:
    """Decides how an idle model goes."""
    if not model.can_sleep or rules.sleep_seconds <= 0:
        return End()
    if model.size_bytes <= machine.host_memory_bytes:
        return Sleep()
    # Who is no longer wanted at all makes room for who was wanted just now, if that is enough.
    if model.size_bytes > machine.host_memory_bytes + sum(sleeper.size_bytes for sleeper in machine.sleepers):
        return End()
    return EndSleeper(min(machine.sleepers, key=lambda sleeper: sleeper.since).key)


def reclaim_gpu(machine: MachineState, key: str, places: Collection[int]) -> EndSleeper | Evict | None:
    """Decides who gives memory of a GPU back to a model, given the GPU's places; None when nobody can be spared."""
    if sleepers := [sleeper for sleeper in machine.sleepers if sleeper.place in places and sleeper.key != key]:
        return EndSleeper(min(sleepers, key=lambda sleeper: sleeper.since).key)
    idle = [model for model in machine.models if model.is_idle and not model.is_pinned and {*model.places} & {*places}]
    return Evict(min(idle, key=_last_used).key) if idle else None


def _within_bounds(machine: MachineState, key: str) -> Step | None:
    """What can be done as long as one model more may be loaded; None: only another's leaving helps."""
    if (step := _wake_action(machine, key)) is not None:
        return step
    if machine.free:
        return Start(_quietest_place(machine))
    if rich := [model for model in machine.models if model.has_spare_replica]:
        # Its streams there finish first, and new ones go to its other places.
        spared = min(rich, key=lambda model: (model.users > 0, model.last_used))
        return ScaleDown(spared.key, spared.places[-1])
    return None


def _wake_action(machine: MachineState, key: str) -> Step | None:
    """A sleeping model wakes at its own place, within seconds, if that can be had; no other place is as good."""
    sleeper = machine.sleeper(key)
    if sleeper is None:
        return None
    if sleeper.place in machine.free:
        return Wake(sleeper.place)
    occupant = machine.holder(sleeper.place)
    if occupant is not None and occupant.has_spare_replica:
        return ScaleDown(occupant.key, sleeper.place)
    if occupant is not None and occupant.is_idle and not occupant.is_pinned:
        return Evict(occupant.key)
    return None


def _evict_or_wait(idle: Sequence[ModelState], machine: MachineState, key: str, rules: SchedulerSettings) -> Step:
    """The idle model that was used longest ago goes; one that has just come back serves for a while first."""
    now, deadlines = machine.now, machine.deadlines(key)
    remaining = {
        model.key: min(model.ready_at + _stay_seconds(model, rules), _latest_start(model, deadlines, now)) - now
        for model in idle
    }
    if spared := [model for model in idle if remaining[model.key] <= 0]:
        return Evict(min(spared, key=_last_used).key)
    return Wait(min(remaining.values()))


def _stay_seconds(model: ModelState, rules: SchedulerSettings) -> float:
    """How long a model serves at least, though it is idle: nobody waits longer for that than for a busy one."""
    return (
        min(rules.min_residency_loads * model.load_seconds, rules.min_tenure_seconds) if model.was_just_evicted else 0.0
    )


def _latest_start(model: ModelState, deadlines: Sequence[float], now: float) -> float:
    """Until when a model may stay so that a load like its own is done before the first deadline that can be met."""
    seconds = model.load_seconds
    # Loads differ; with less than half of one left it is too late anyway.
    return min((deadline - seconds for deadline in deadlines if deadline - now > seconds / 2), default=math.inf)


def _turn_or_wait(machine: MachineState, rules: SchedulerSettings) -> Step:
    serving = [model for model in machine.models if model.is_loaded and not model.is_leaving and not model.is_pinned]
    if not serving or any(model.paused for model in serving):
        return Wait()
    longest = min(serving, key=lambda model: model.ready_at)
    remaining = longest.ready_at + rules.min_tenure_seconds - machine.now
    return Wait(remaining) if remaining > 0 else Pause(longest.key)


def _may_grow(model: ModelState, now: float) -> bool:
    return model.is_loaded and not model.is_leaving and now >= model.no_scale_up_until


def _quietest_place(machine: MachineState) -> int:
    """The free place at which the fewest models sleep: whoever is awake there keeps them from waking."""
    asleep = [sleeper.place for sleeper in machine.sleepers]
    return min(machine.free, key=lambda place: (asleep.count(place), machine.free.index(place)))


def _last_used(model: ModelState) -> float:
    return model.last_used
