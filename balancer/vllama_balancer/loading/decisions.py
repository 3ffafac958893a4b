"""Who gets which place, who leaves, and who sleeps: pure functions of the machine's state.

A model that is asked for wakes where it sleeps, else takes a free place, else one of a model that has several, else
that of the idle model that was used longest ago. When everybody is busy, a model that has had its turn takes no new
requests until another one has had its own; running requests are never cut. Four rules keep models from pushing each
other to and fro: growth takes free places only; a turn lasts `turn_seconds` at least; who loses a place soon after
he got it does not ask for another for a while; and who is wanted back sooner than a load after he had to leave stays
for `stay_loads` loads, though he is idle. A first switch is never held up, no wait for a switch exceeds a turn,
and none lasts so long that a deadline of those who wait could not be met any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllama_balancer.loading.settings import LoadingSettings
    from vllama_balancer.loading.state import MachineState, ModelState


@dataclass(frozen=True, slots=True)
class Take:
    """Start a worker at a free place."""

    place: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the model where it sleeps; its place is free."""

    place: int


@dataclass(frozen=True, slots=True)
class Shrink:
    """Take one place of a model that has several."""

    key: str
    place: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Let an idle model go."""

    key: str


@dataclass(frozen=True, slots=True)
class Yield:
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


Step = Take | Wake | Shrink | Evict | Yield | Wait | Refuse
"""The next thing to do so that a model gets a place; ask again when it is done, unless it was Take, Wake or Refuse."""


@dataclass(frozen=True, slots=True)
class Grow:
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


Farewell = Sleep | EndSleeper | End
"""How an idle model goes; ask again after EndSleeper."""


def next_step(machine: MachineState, key: str, rules: LoadingSettings) -> Step:
    """Decides what brings a model that has no place nearer to one."""
    holders = [model for model in machine.models if model.places]
    if not 0 < rules.most_loaded <= len(holders) and (step := _within_bounds(machine, key)) is not None:
        return step
    if idle := [model for model in holders if model.is_idle and not model.is_pinned]:
        return _evict_or_wait(idle, machine, key, rules)
    if all(model.is_pinned for model in holders):
        return Refuse(
            "every worker is kept for the models that the server was started with; start it with more "
            "--workers, or name no models, so that they come and go"
        )
    return _turn_or_wait(machine, rules)


def growth(machine: MachineState, rules: LoadingSettings) -> Grow | None:
    """Decides which model gets one more worker: requests have waited for room on all that it has, for a while."""
    if not machine.free:
        return None
    due = [
        model
        for model in machine.models
        if model.full_since is not None
        and machine.now - model.full_since >= rules.grow_after_seconds
        and _may_grow(model, machine.now)
    ]
    if not due:
        return None
    smallest = min(due, key=lambda model: (len(model.places), model.full_since))
    return Grow(smallest.key, _quietest_place(machine))


def refill(machine: MachineState) -> Grow | None:
    """Decides which model gets a place back that it had been started with."""
    for model in machine.models:
        if machine.free and model.places and len(model.places) < model.share and _may_grow(model, machine.now):
            return Grow(model.key, _quietest_place(machine))
    return None


def farewell(machine: MachineState, model: ModelState, rules: LoadingSettings) -> Farewell:
    """Decides how an idle model goes."""
    if not model.can_sleep or rules.sleep_seconds <= 0:
        return End()
    if model.size_bytes <= machine.host_memory_bytes:
        return Sleep()
    # Who is no longer wanted at all makes room for who was wanted just now, if that is enough.
    if model.size_bytes > machine.host_memory_bytes + sum(sleeper.size_bytes for sleeper in machine.sleepers):
        return End()
    return EndSleeper(min(machine.sleepers, key=lambda sleeper: sleeper.since).key)


def relief(machine: MachineState, key: str, places: Collection[int]) -> EndSleeper | Evict | None:
    """Decides who gives memory of a GPU back to a model, given the GPU's places; None when nobody can be spared."""
    if sleepers := [sleeper for sleeper in machine.sleepers if sleeper.place in places and sleeper.key != key]:
        return EndSleeper(min(sleepers, key=lambda sleeper: sleeper.since).key)
    idle = [model for model in machine.models if model.is_idle and not model.is_pinned and {*model.places} & {*places}]
    return Evict(min(idle, key=_last_used).key) if idle else None


def _within_bounds(machine: MachineState, key: str) -> Step | None:
    """What can be done as long as one model more may be loaded; None: only another's leaving helps."""
    if (step := _homecoming(machine, key)) is not None:
        return step
    if machine.free:
        return Take(_quietest_place(machine))
    if rich := [model for model in machine.models if model.is_generous]:
        # Its streams there finish first, and new ones go to its other places.
        spared = min(rich, key=lambda model: (model.users > 0, model.last_used))
        return Shrink(spared.key, spared.places[-1])
    return None


def _homecoming(machine: MachineState, key: str) -> Step | None:
    """A sleeping model wakes at its own place, within seconds, if that can be had; no other place is as good."""
    sleeper = machine.sleeper(key)
    if sleeper is None:
        return None
    if sleeper.place in machine.free:
        return Wake(sleeper.place)
    occupant = machine.holder(sleeper.place)
    if occupant is not None and occupant.is_generous:
        return Shrink(occupant.key, sleeper.place)
    if occupant is not None and occupant.is_idle and not occupant.is_pinned:
        return Evict(occupant.key)
    return None


def _evict_or_wait(idle: Sequence[ModelState], machine: MachineState, key: str, rules: LoadingSettings) -> Step:
    """The idle model that was used longest ago goes; one that has just come back serves for a while first."""
    now, deadlines = machine.now, machine.deadlines(key)
    remaining = {
        model.key: min(model.ready_at + _stay_seconds(model, rules), _latest_start(model, deadlines, now)) - now
        for model in idle
    }
    if spared := [model for model in idle if remaining[model.key] <= 0]:
        return Evict(min(spared, key=_last_used).key)
    return Wait(min(remaining.values()))


def _stay_seconds(model: ModelState, rules: LoadingSettings) -> float:
    """How long a model serves at least, though it is idle: nobody waits longer for that than for a busy one."""
    return min(rules.stay_loads * model.load_seconds, rules.turn_seconds) if model.is_back else 0.0


def _latest_start(model: ModelState, deadlines: Sequence[float], now: float) -> float:
    """Until when a model may stay so that a load like its own is done before the first deadline that can be met."""
    seconds = model.load_seconds
    # Loads differ; with less than half of one left it is too late anyway.
    return min((deadline - seconds for deadline in deadlines if deadline - now > seconds / 2), default=math.inf)


def _turn_or_wait(machine: MachineState, rules: LoadingSettings) -> Step:
    serving = [model for model in machine.models if model.is_loaded and not model.is_leaving and not model.is_pinned]
    if not serving or any(model.is_yielding for model in serving):
        return Wait()
    longest = min(serving, key=lambda model: model.ready_at)
    remaining = longest.ready_at + rules.turn_seconds - machine.now
    return Wait(remaining) if remaining > 0 else Yield(longest.key)


def _may_grow(model: ModelState, now: float) -> bool:
    return model.is_loaded and not model.is_leaving and now >= model.stays_small_until


def _quietest_place(machine: MachineState) -> int:
    """The free place at which the fewest models sleep: whoever is awake there keeps them from waking."""
    asleep = [sleeper.place for sleeper in machine.sleepers]
    return min(machine.free, key=lambda place: (asleep.count(place), machine.free.index(place)))


def _last_used(model: ModelState) -> float:
    return model.last_used
