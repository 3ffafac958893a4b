"""Which model gets a slot, is unloaded, or sleeps follows from the machine's state alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllama_balancer.fleet.assignment import HostedModel
from vllama_balancer.scheduler.decisions import (
    End,
    EndSleeping,
    Evict,
    MachineState,
    Pause,
    Refuse,
    ScaleDown,
    ScaleUp,
    Sleep,
    Start,
    Wait,
    Wake,
    next_step,
    reclaim_gpu,
    restore_replicas,
    scale_up,
    unload_action,
)
from vllama_balancer.scheduler.model import LoadedModel, SleepingModel
from vllama_balancer.scheduler.settings import SchedulerSettings
from vllama_balancer.scheduler.state import Replica, SlotState

SETTINGS = SchedulerSettings(scale_up_after_seconds=3, min_tenure_seconds=30, sleep_seconds=100)


def model(key: str, state: SlotState, *slots: int, **changes: object) -> LoadedModel:
    """A model whose workers are all in one state."""
    replicas = [Replica(slot, f"worker-{slot}", state) for slot in slots]
    is_loading = state in (SlotState.EMPTY, SlotState.LOADING)
    return replace(LoadedModel(key, HostedModel(key, (key,)), replicas, load_pending=is_loading), **changes)


def serving(key: str, *slots: int, **changes: object) -> LoadedModel:
    """A model that has loaded and is idle."""
    return model(key, SlotState.READY, *slots, **changes)


def wanted(**changes: object) -> LoadedModel:
    """A model that waits for its first slot."""
    return model("wanted", SlotState.EMPTY, requests=1, **changes)


def asleep(key: str, slot: int, since: float = 0.0, size_bytes: int = 0) -> SleepingModel:
    """A model that sleeps."""
    return SleepingModel(key, key, Replica(slot, f"worker-{slot}", SlotState.ASLEEP), since, size_bytes)


def machine(*models: LoadedModel, free: tuple[int, ...] = (), now: float = 100.0, **changes: object) -> MachineState:
    """A machine on which one more model is wanted."""
    return replace(MachineState(now, free, (*models, wanted())), **changes)


def test_a_free_slot_is_taken_first() -> None:
    """No model is evicted while there is room."""
    assert next_step(machine(serving("idle", 0), free=(1,)), "wanted", SETTINGS) == Start(1)


def test_a_slot_at_which_no_model_sleeps_is_better() -> None:
    """A worker that is awake there keeps the sleeping model from waking."""
    state = machine(free=(0, 1), sleeping=(asleep("other", 0),))
    assert next_step(state, "wanted", SETTINGS) == Start(1)


def test_a_model_with_several_slots_gives_one_before_any_is_evicted() -> None:
    """The youngest worker goes, of the model that is idle."""
    state = machine(serving("busy", 0, 1, requests=3), serving("calm", 2, 3), serving("single", 4))
    assert next_step(state, "wanted", SETTINGS) == ScaleDown("calm", 3)


def test_the_idle_model_that_was_used_longest_ago_is_evicted() -> None:
    """Busy, pinned, starting and leaving ones stay."""
    state = machine(
        serving("recent", 0, last_used=90),
        serving("old", 1, last_used=50),
        serving("busy", 2, last_used=10, requests=1),
        serving("pinned", 3, last_used=5, pinned=True),
        model("leaving", SlotState.DRAINING, 4, last_used=1),
        model("ending", SlotState.UNLOADING, 6, last_used=1),
        model("starting", SlotState.LOADING, 5, last_used=2),
    )
    assert next_step(state, "wanted", SETTINGS) == Evict("old")


def test_a_model_that_was_just_evicted_stays_for_some_loads_though_it_is_idle() -> None:
    """Two loads of 8 s after it began to serve; any other idle model goes before it."""
    back = serving("back", 0, ready_at=90, placed_at=82, was_just_evicted=True)
    settings = replace(SETTINGS, min_residency_loads=2)
    assert next_step(machine(back), "wanted", settings) == Wait(6)
    assert next_step(machine(back, serving("idle", 1, last_used=99)), "wanted", settings) == Evict("idle")
    assert next_step(machine(back, now=106), "wanted", settings) == Evict("back")
    assert next_step(machine(replace(back, was_just_evicted=False)), "wanted", settings) == Evict("back")


def test_no_request_waits_longer_for_an_idle_model_than_for_a_busy_one() -> None:
    """The tenure of a busy model is the most, however long the load was."""
    back = serving("back", 0, ready_at=100, placed_at=-200, was_just_evicted=True)
    assert next_step(machine(back), "wanted", SETTINGS) == Wait(SETTINGS.min_tenure_seconds)


@pytest.mark.parametrize(
    ("deadline", "step"),
    [(130, Wait(10)), (111, Wait(3)), (107, Evict("back")), (103, Wait(10))],
    ids=["far", "near", "just in time", "too late anyway"],
)
def test_a_model_that_was_just_evicted_goes_in_time_for_waiting_requests(deadline: float, step: object) -> None:
    """A load of 8 s has to be over by the deadline, if it can be."""
    back = serving("back", 0, ready_at=94, placed_at=86, was_just_evicted=True)
    state = replace(machine(), models=(back, wanted(deadlines=[deadline, 500.0])))
    assert next_step(state, "wanted", replace(SETTINGS, min_residency_loads=2)) == step


def test_a_busy_model_serves_for_its_tenure_first() -> None:
    """Until then the step says how long to wait at most."""
    state = machine(serving("busy", 0, requests=1, ready_at=80))
    assert next_step(state, "wanted", SETTINGS) == Wait(10)


def test_after_its_tenure_a_busy_model_is_paused() -> None:
    """The one that has served longest, and only one at a time."""
    state = machine(serving("busy", 0, requests=1, ready_at=69), serving("later", 1, requests=1, ready_at=70))
    assert next_step(state, "wanted", SETTINGS) == Pause("busy")
    paused = machine(serving("busy", 0, requests=1, ready_at=69, paused=True))
    assert next_step(paused, "wanted", SETTINGS) == Wait()


def test_while_only_starting_models_hold_slots_there_is_nothing_to_decide() -> None:
    """Requests wait for a model that starts."""
    assert next_step(machine(model("starting", SlotState.LOADING, 0, requests=1)), "wanted", SETTINGS) == Wait()


def test_pinned_models_everywhere_mean_never() -> None:
    """Waiting would be forever."""
    step = next_step(machine(serving("pinned", 0, pinned=True)), "wanted", SETTINGS)
    assert isinstance(step, Refuse) and "--workers" in step.reason


def test_the_bound_on_models_evicts_one_although_there_is_room() -> None:
    """OLLAMA_MAX_LOADED_MODELS counts models that are awake."""
    state = machine(serving("a", 0), free=(1,))
    assert next_step(state, "wanted", replace(SETTINGS, max_loaded_models=1)) == Evict("a")


@pytest.mark.parametrize(
    ("occupant", "step"),
    [
        (None, Wake(0)),
        (serving("idle", 0), Evict("idle")),
        (serving("wide", 0, 2, requests=1), ScaleDown("wide", 0)),
        (serving("busy", 0, requests=1), Start(1)),
        (serving("pinned", 0, pinned=True), Start(1)),
    ],
)
def test_a_sleeping_model_wakes_at_its_own_slot_if_it_can(occupant: LoadedModel | None, step: object) -> None:
    """Waking takes seconds, loading minutes; but it can wake nowhere else."""
    models = () if occupant is None else (occupant,)
    free = (0, 1) if occupant is None else (1,)
    state = machine(*models, free=free, sleeping=(asleep("wanted", 0),))
    assert next_step(state, "wanted", SETTINGS) == step


def test_scaling_up_takes_free_slots_only_and_only_after_a_while() -> None:
    """A model gets a replica when requests have waited for long enough; no model is evicted for it."""
    full = serving("full", 0, requests=9, saturated_since=97)
    assert scale_up(machine(full, free=(1,)), SETTINGS) == ScaleUp("full", 1)
    assert scale_up(machine(full, serving("idle", 1)), SETTINGS) is None
    assert scale_up(machine(replace(full, saturated_since=98), free=(1,)), SETTINGS) is None


def test_the_smaller_of_two_saturated_models_is_scaled_up_first() -> None:
    """Slots are shared out."""
    state = machine(
        serving("wide", 0, 1, saturated_since=1),
        serving("small", 2, saturated_since=90),
        serving("slim", 3, saturated_since=80),
        free=(4,),
    )
    assert scale_up(state, SETTINGS) == ScaleUp("slim", 4)


def test_a_model_that_lost_a_new_replica_waits_before_the_next() -> None:
    """This is what keeps two models from taking a slot from each other again and again."""
    held_back = serving("full", 0, saturated_since=1, no_scale_up_until=101, share=2)
    assert scale_up(machine(held_back, free=(1,)), SETTINGS) is None
    assert restore_replicas(machine(held_back, free=(1,))) is None
    assert restore_replicas(machine(held_back, free=(1,), now=101)) == ScaleUp("full", 1)


def test_an_idle_model_sleeps_where_it_can() -> None:
    """An engine without sleep mode, or a setting of 0, ends the process."""
    idle = serving("m", 0, can_sleep=True, size_bytes=10)
    state = machine(idle, host_memory_bytes=10)
    assert unload_action(state, idle, SETTINGS) == Sleep()
    assert unload_action(state, replace(idle, can_sleep=False), SETTINGS) == End()
    assert unload_action(state, idle, replace(SETTINGS, sleep_seconds=0)) == End()


def test_the_longest_sleeping_model_makes_room_in_the_hosts_memory() -> None:
    """It ends only when that is enough; a model that will not fit at all ends itself."""
    idle = serving("m", 0, can_sleep=True, size_bytes=30)
    sleeping = (asleep("a", 1, since=5, size_bytes=10), asleep("b", 2, since=3, size_bytes=10))
    assert unload_action(machine(idle, sleeping=sleeping, host_memory_bytes=10), idle, SETTINGS) == EndSleeping("b")
    assert unload_action(machine(idle, sleeping=sleeping, host_memory_bytes=9), idle, SETTINGS) == End()


def test_gpu_memory_is_reclaimed_from_sleeping_models_first() -> None:
    """Then from the idle one on that GPU that was used longest ago; from no model elsewhere."""
    idle = (serving("idle", 0, last_used=9), serving("older", 1, last_used=5), serving("elsewhere", 2, last_used=1))
    state = machine(*idle, sleeping=(asleep("a", 0, since=5), asleep("b", 1, since=3), asleep("wanted", 1, since=1)))
    assert reclaim_gpu(state, "wanted", (0, 1)) == EndSleeping("b")
    assert reclaim_gpu(machine(*idle), "wanted", (0, 1)) == Evict("older")
    assert reclaim_gpu(machine(serving("busy", 0, requests=1)), "wanted", (0, 1)) is None
