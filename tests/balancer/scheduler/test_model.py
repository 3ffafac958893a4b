"""A model's state follows from its slots and its load; an evicted model that comes back at once is noticed."""

from __future__ import annotations

import pytest

from vllama_balancer.fleet.assignment import HostedModel
from vllama_balancer.scheduler.model import EvictionHistory, LoadedModel
from vllama_balancer.scheduler.state import Replica, SlotState
from vllama_protos.v1 import fleet_pb2

READY, LOADING = SlotState.READY, SlotState.LOADING
DRAINING, UNLOADING, EMPTY = SlotState.DRAINING, SlotState.UNLOADING, SlotState.EMPTY


@pytest.mark.parametrize(
    ("states", "load_pending", "expected"),
    [
        ((), True, fleet_pb2.MODEL_STATE_WAITING),
        ((LOADING,), True, fleet_pb2.MODEL_STATE_LOADING),
        ((READY,), False, fleet_pb2.MODEL_STATE_LOADED),
        ((READY, LOADING), False, fleet_pb2.MODEL_STATE_LOADED),
        ((DRAINING,), False, fleet_pb2.MODEL_STATE_LEAVING),
        ((UNLOADING, DRAINING), False, fleet_pb2.MODEL_STATE_LEAVING),
        ((UNLOADING, EMPTY), False, fleet_pb2.MODEL_STATE_LEAVING),
        ((DRAINING,), True, fleet_pb2.MODEL_STATE_LEAVING),
        ((), False, fleet_pb2.MODEL_STATE_LOADED),
    ],
    ids=["no slot yet", "first load", "one serves", "scaled up", "unload begins", "one ends", "one has ended",
         "load failed", "all retired by hand"],
)  # fmt: skip
def test_the_state_follows_from_the_slots(
    states: tuple[SlotState, ...], load_pending: bool, expected: fleet_pb2.ModelState
) -> None:
    """One function derives it, for decisions and for the fleet's page."""
    replicas = [Replica(slot, f"worker-{slot}", state) for slot, state in enumerate(states)]
    model = LoadedModel("m", HostedModel("m", ("m:latest",)), replicas, load_pending)
    assert model.state == expected == model.status().state


def test_only_a_loaded_model_without_requests_is_idle() -> None:
    """Not one that is in use, loads, or leaves."""
    model = LoadedModel("m", HostedModel("m", ("m",)), [Replica(0, "worker-0", READY)], load_pending=False)
    assert model.is_idle
    model.requests = 1
    assert not model.is_idle
    model.requests, model.replicas[0].state = 0, LOADING
    assert not model.is_idle
    model.replicas[0].state = DRAINING
    assert not model.is_idle


def test_a_model_is_just_evicted_within_one_load_time() -> None:
    """Of its own load."""
    history = EvictionHistory()
    history.evicted("m", now=100.0, load_seconds=12.0)
    assert history.was_just_evicted("m", 112.0)
    history.evicted("m", now=200.0, load_seconds=12.0)
    assert not history.was_just_evicted("m", 212.1)


def test_an_eviction_counts_once() -> None:
    """A model that left for another reason in between comes as any other."""
    history = EvictionHistory()
    history.evicted("m", now=100.0, load_seconds=12.0)
    assert history.was_just_evicted("m", 101.0)
    assert not history.was_just_evicted("m", 102.0)
    assert not history.was_just_evicted("other", 102.0)
