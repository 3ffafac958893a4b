"""Who gets a place, who leaves and who sleeps follows from the machine's state alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllama_balancer.scheduler.decisions import (
    End,
    EndSleeper,
    Evict,
    Pause,
    Refuse,
    ScaleDown,
    ScaleUp,
    Sleep,
    Start,
    Wait,
    Wake,
    next_step,
    restore_replicas,
    scale_up,
    unload_action,
)
from vllama_balancer.scheduler.settings import SchedulerSettings
from vllama_balancer.scheduler.state import MachineState, ModelState, SleeperState

RULES = SchedulerSettings(scale_up_after_seconds=3, min_tenure_seconds=30, sleep_seconds=100)
WANTED = ModelState("wanted", users=1)


def serving(key: str, *places: int, **changes: object) -> ModelState:
    """A model that has loaded and is idle."""
    return replace(ModelState(key, places, is_loaded=True), **changes)


def machine(*models: ModelState, free: tuple[int, ...] = (), now: float = 100.0, **changes: object) -> MachineState:
    """A machine on which one more model is wanted."""
    return replace(MachineState(now, free, (*models, WANTED)), **changes)


def test_a_free_place_is_taken_first() -> None:
    """Nobody has to leave while there is room."""
    assert next_step(machine(serving("idle", 0), free=(1,)), "wanted", RULES) == Start(1)


def test_a_place_at_which_nobody_sleeps_is_better() -> None:
    """Whoever is awake at a sleeper's place keeps it from waking."""
    state = machine(free=(0, 1), sleepers=(SleeperState("other", 0),))
    assert next_step(state, "wanted", RULES) == Start(1)


def test_who_has_several_places_gives_one_before_anybody_leaves() -> None:
    """The youngest worker goes, of the model that is idle."""
    state = machine(serving("busy", 0, 1, users=3), serving("calm", 2, 3), serving("single", 4))
    assert next_step(state, "wanted", RULES) == ScaleDown("calm", 3)


def test_the_idle_model_that_was_used_longest_ago_leaves() -> None:
    """Busy, pinned, starting and leaving ones stay."""
    state = machine(
        serving("recent", 0, last_used=90),
        serving("old", 1, last_used=50),
        serving("busy", 2, last_used=10, users=1),
        serving("pinned", 3, last_used=5, is_pinned=True),
        serving("leaving", 4, last_used=1, is_leaving=True),
        ModelState("starting", (5,), last_used=2),
    )
    assert next_step(state, "wanted", RULES) == Evict("old")


def test_a_model_that_is_back_serves_for_some_loads_though_it_is_idle() -> None:
    """Two loads of 8 s after it began to serve; any other idle model goes before it."""
    back = serving("back", 0, ready_at=90, load_seconds=8, was_just_evicted=True)
    rules = replace(RULES, min_residency_loads=2)
    assert next_step(machine(back), "wanted", rules) == Wait(6)
    assert next_step(machine(back, serving("idle", 1, last_used=99)), "wanted", rules) == Evict("idle")
    assert next_step(machine(back, now=106), "wanted", rules) == Evict("back")
    assert next_step(machine(replace(back, was_just_evicted=False)), "wanted", rules) == Evict("back")


def test_nobody_waits_longer_for_an_idle_model_than_for_a_busy_one() -> None:
    """A turn is the most, however long the load was."""
    back = serving("back", 0, ready_at=100, load_seconds=300, was_just_evicted=True)
    assert next_step(machine(back), "wanted", RULES) == Wait(RULES.min_tenure_seconds)


@pytest.mark.parametrize(
    ("deadline", "step"),
    [(130, Wait(10)), (111, Wait(3)), (107, Evict("back")), (103, Wait(10))],
    ids=["far", "near", "just in time", "too late anyway"],
)
def test_who_came_back_goes_in_time_for_those_who_wait(deadline: float, step: object) -> None:
    """A load of 8 s has to be over by the deadline, if it can be."""
    back = serving("back", 0, ready_at=94, load_seconds=8, was_just_evicted=True)
    state = machine(back)
    state = replace(state, models=(back, replace(WANTED, deadlines=(deadline, 500.0))))
    assert next_step(state, "wanted", replace(RULES, min_residency_loads=2)) == step


def test_a_busy_model_has_its_turn_first() -> None:
    """Until its turn is over the one that waits is told how long to wait at most."""
    state = machine(serving("busy", 0, users=1, ready_at=80))
    assert next_step(state, "wanted", RULES) == Wait(10)


def test_after_its_turn_a_busy_model_makes_way() -> None:
    """The one that has served longest; it takes no new requests from then on, and is not asked twice."""
    state = machine(serving("busy", 0, users=1, ready_at=69), serving("later", 1, users=1, ready_at=70))
    assert next_step(state, "wanted", RULES) == Pause("busy")
    yielding = machine(serving("busy", 0, users=1, ready_at=69, paused=True))
    assert next_step(yielding, "wanted", RULES) == Wait()


def test_while_only_starting_models_hold_places_there_is_nothing_to_decide() -> None:
    """A model that starts is somebody's wish."""
    assert next_step(machine(ModelState("starting", (0,), users=1)), "wanted", RULES) == Wait()


def test_pinned_models_everywhere_mean_never() -> None:
    """Waiting would be for ever."""
    step = next_step(machine(serving("pinned", 0, is_pinned=True)), "wanted", RULES)
    assert isinstance(step, Refuse) and "--workers" in step.reason


def test_the_bound_on_models_makes_one_leave_although_there_is_room() -> None:
    """OLLAMA_MAX_LOADED_MODELS counts models that are awake."""
    state = machine(serving("a", 0), free=(1,))
    assert next_step(state, "wanted", replace(RULES, max_loaded_models=1)) == Evict("a")


@pytest.mark.parametrize(
    ("occupant", "step"),
    [
        (None, Wake(0)),
        (serving("idle", 0), Evict("idle")),
        (serving("wide", 0, 2, users=1), ScaleDown("wide", 0)),
        (serving("busy", 0, users=1), Start(1)),
        (serving("pinned", 0, is_pinned=True), Start(1)),
    ],
)
def test_a_sleeper_wakes_at_its_own_place_if_that_can_be_had(occupant: ModelState | None, step: object) -> None:
    """Waking takes seconds, loading minutes; but it can wake nowhere else."""
    free = (0, 1) if occupant is None else (1,)
    state = machine(*([occupant] if occupant else []), free=free, sleepers=(SleeperState("wanted", 0),))
    assert next_step(state, "wanted", RULES) == step


def test_growth_takes_free_places_only_and_only_after_a_while() -> None:
    """A model grows when requests have waited for long enough; nobody is pushed out for it."""
    full = serving("full", 0, users=9, saturated_since=97)
    assert scale_up(machine(full, free=(1,)), RULES) == ScaleUp("full", 1)
    assert scale_up(machine(full, serving("idle", 1)), RULES) is None
    assert scale_up(machine(replace(full, saturated_since=98), free=(1,)), RULES) is None


def test_the_smaller_of_two_full_models_grows_first() -> None:
    """Places are shared out."""
    state = machine(
        serving("wide", 0, 1, saturated_since=1),
        serving("small", 2, saturated_since=90),
        serving("slim", 3, saturated_since=80),
        free=(4,),
    )
    assert scale_up(state, RULES) == ScaleUp("slim", 4)


def test_who_lost_a_place_that_was_new_waits_before_the_next() -> None:
    """This is what keeps two models from taking a place from each other again and again."""
    held_back = serving("full", 0, saturated_since=1, no_scale_up_until=101, share=2)
    assert scale_up(machine(held_back, free=(1,)), RULES) is None
    assert restore_replicas(machine(held_back, free=(1,))) is None
    assert restore_replicas(machine(held_back, free=(1,), now=101)) == ScaleUp("full", 1)


def test_an_idle_model_sleeps_where_it_can() -> None:
    """An engine without sleep mode, or a setting of 0, ends the process."""
    model = serving("m", 0, can_sleep=True, size_bytes=10)
    state = machine(model, host_memory_bytes=10)
    assert unload_action(state, model, RULES) == Sleep()
    assert unload_action(state, replace(model, can_sleep=False), RULES) == End()
    assert unload_action(state, model, replace(RULES, sleep_seconds=0)) == End()


def test_the_longest_sleeper_makes_room_in_the_hosts_memory() -> None:
    """Ended only when that is enough; a model that will not fit at all ends by itself."""
    model = serving("m", 0, can_sleep=True, size_bytes=30)
    sleepers = (SleeperState("a", 1, since=5, size_bytes=10), SleeperState("b", 2, since=3, size_bytes=10))
    assert unload_action(machine(model, sleepers=sleepers, host_memory_bytes=10), model, RULES) == EndSleeper("b")
    assert unload_action(machine(model, sleepers=sleepers, host_memory_bytes=9), model, RULES) == End()
