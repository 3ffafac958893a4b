"""Whatever happens in whatever order, no slot is lost or shared, and no transition is illegal."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllama_balancer.errors import NoWorker
from vllama_balancer.scheduler.state import OCCUPIED

SLOTS = 2
ACTIONS = st.one_of(
    st.tuples(st.just("use"), st.sampled_from("abc"), st.integers(0, 3)),
    st.tuples(st.just("unload"), st.sampled_from("abc"), st.just(0)),
    st.tuples(st.just("keep"), st.sampled_from("abc"), st.integers(0, 1)),
    st.tuples(st.just("retire"), st.just(""), st.integers(0, 3)),
    st.tuples(st.just("slow"), st.sampled_from("abc"), st.just(0)),
    st.tuples(st.just("finish"), st.sampled_from("abc"), st.just(0)),
    st.tuples(st.just("saturate"), st.just(""), st.integers(0, 3)),
    st.tuples(st.just("pause"), st.just(""), st.integers(0, 3)),
)


async def use(harness, model: str, milliseconds: int) -> None:
    """Uses a model for a while; a worker that is retired during its load fails the request."""
    try:
        async with harness.use(model):
            await asyncio.sleep(milliseconds / 1000)
    except NoWorker:
        pass


async def retire(harness, number: int) -> None:
    """Retires a worker by hand."""
    names = sorted(harness.fleet.workers)
    if names and harness.fleet.workers[names[number % len(names)]].unavailable != "is asleep":
        await harness.fleet.retire(names[number % len(names)])


def check_slots(machine) -> None:
    """Every slot is free, or occupied by one worker at most."""
    occupied = [one.slot for model in machine.models.values() for one in model.replicas if one.state in OCCUPIED]
    slots = [*occupied, *machine.replicas.free]
    assert len(set(slots)) == len(slots) <= SLOTS


@pytest.mark.parametrize("sleeps", [False, True])
@given(actions=st.lists(ACTIONS, min_size=5, max_size=30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_slot_is_lost(harness_of, caplog, sleeps: bool, actions: list[tuple[str, str, int]]) -> None:
    """At the end all requests are answered, and all models can be unloaded."""
    caplog.clear()
    harness = harness_of(
        slot_count=SLOTS, keep_alive_seconds=0.004, min_tenure_seconds=0.0, scale_up_after_seconds=0.0,
        regrow_seconds=0.0, poll_seconds=0.001, stall_seconds=0.05, sleep_seconds=0.02 if sleeps else 0.0,
    )  # fmt: skip
    fleet, machine = harness.fleet, harness.scheduler._machine
    fleet.sizes |= {"a": 400, "b": 400, "c": 400}
    tasks: list[asyncio.Task[None]] = []
    for action, model, number in actions:
        match action:
            case "use":
                tasks.append(asyncio.create_task(use(harness, model, number)))
            case "unload":
                tasks.append(asyncio.create_task(harness.scheduler.unload(model)))
            case "keep":
                harness.scheduler.keep(model, number / 100)
            case "retire":
                await retire(harness, number)
            case "slow":
                fleet.slow.add(model)
            case "finish":
                fleet.slow.discard(model)
                fleet.finish(model)
            case "saturate":
                for worker in list(fleet.workers.values())[number:]:
                    worker.has_room = False
            case "pause":
                await asyncio.sleep(number / 1000)
        await asyncio.sleep(0)
        check_slots(machine)
    fleet.slow.clear()
    for model in "abc":
        fleet.finish(model)
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    async with asyncio.timeout(20):
        for model in "abc":
            while model in machine.models or machine.snapshot().asleep(model):
                await harness.scheduler.unload(model)
                await asyncio.sleep(0.001)
    assert sorted(machine.replicas.free) == list(range(SLOTS))
    await harness.scheduler.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
