"""A slot's life: which states may follow which, and which of them take the slot."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama_balancer.fleet.assignment import HostedModel, Slot, WorkerSpec
from vllama_balancer.scheduler.replicas import Replicas
from vllama_balancer.scheduler.state import OCCUPIED, TRANSITIONS, IllegalTransition, Replica, SlotState

LEGAL = {
    ("empty", "loading"),  # a worker starts
    ("loading", "ready"),  # the load is over
    ("loading", "draining"),  # the load has failed
    ("loading", "unloading"),  # the worker did not wake, or its slot is needed
    ("loading", "empty"),  # an operator has retired the worker
    ("ready", "draining"),  # the model is unloaded
    ("ready", "unloading"),  # the model is scaled down
    ("ready", "empty"),  # an operator has retired the worker
    ("draining", "asleep"),
    ("draining", "unloading"),
    ("unloading", "empty"),
    ("asleep", "loading"),  # the worker wakes
    ("asleep", "empty"),  # the worker ends in its sleep
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(SlotState, SlotState)))
def test_every_transition_is_legal_or_raises(before: SlotState, after: SlotState) -> None:
    """Those of the table change the state, all others leave it and name both states."""
    replica = Replica(0, "worker-0", before)
    if (before.value, after.value) in LEGAL:
        replica.enter(after)
        assert replica.state is after
    else:
        with pytest.raises(IllegalTransition, match=f"worker-0 cannot become {after.value}: it is {before.value}"):
            replica.enter(after)
        assert replica.state is before


def test_every_state_is_left_and_reached() -> None:
    """No worker is stuck in a state, and none is unreachable."""
    assert set(TRANSITIONS) == set(SlotState)
    assert all(TRANSITIONS.values()) and frozenset().union(*TRANSITIONS.values()) == set(SlotState)


class InstantLauncher:
    """Starts and ends workers without doing anything."""

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        pass

    def owns(self, name: str) -> bool:
        return True

    async def retire(self, name: str) -> None:
        pass


@given(
    st.lists(
        st.tuples(st.sampled_from(["start", "ready", "drain", "sleep", "wake", "end", "retired"]), st.integers(0, 9))
    )
)
@settings(deadline=None)
async def test_a_slot_is_free_unless_a_worker_occupies_it(actions: list[tuple[str, int]]) -> None:
    """Whatever is done in whatever order, a slot has one occupant at most and is free exactly when it has none."""
    slots = [Slot(index, "cpu", {}) for index in range(3)]
    replicas = Replicas(InstantLauncher(), slots, lambda slot, model: WorkerSpec(slot.index, model))
    hosted = HostedModel("m", ("m",))
    made: list[Replica] = []
    for action, number in actions:
        if action == "start" and replicas.free and len(made) < 12:
            made.append(replicas.start(replicas.free[0], hosted))
            continue
        if not made or (action == "start"):
            continue
        replica = made[number % len(made)]
        if action == "wake" and (replica.state is not SlotState.ASLEEP or replica.slot not in replicas.free):
            continue
        try:
            match action:
                case "ready":
                    replicas.ready(replica)
                case "drain":
                    replicas.drain(replica)
                case "sleep":
                    replicas.fell_asleep(replica)
                case "wake":
                    replicas.wakes(replica)
                case "retired":
                    replicas.retired(replica)
                case "end":
                    await replicas.end(replica)
        except IllegalTransition:
            pass
        occupied = [one.slot for one in made if one.state in OCCUPIED]
        assert sorted(occupied + list(replicas.free)) == [0, 1, 2]
        living = [one.worker for one in made if one.state is not SlotState.EMPTY]
        assert len(set(living)) == len(living)
