"""An idle model sleeps first where its engine can, and its next request wakes it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from vllama_balancer.fleet.events import ProcessState


async def test_an_expired_model_sleeps_and_wakes(harness_of) -> None:
    """The process stays, its slot is free, and the next request wakes it."""
    harness = harness_of(keep_alive_seconds=0.01)
    harness.fleet.sizes["a"] = 10
    await harness.touch("a")
    await harness.logged("za@0")
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0", "za@0", "wa@0"]


async def test_two_models_take_turns_at_one_slot_without_loading_again(harness_of) -> None:
    """After their first loads they only sleep and wake; a second worker of a slot has a name of its own."""
    harness = harness_of()
    harness.fleet.sizes |= {"a": 10, "b": 10}
    for model in ("a", "b", "a", "b"):
        await harness.touch(model)
    assert harness.fleet.log == ["+a@0", "za@0", "+b@0b", "zb@0b", "wa@0", "za@0", "wb@0b"]


async def test_stop_ends_a_model_that_sleeps_or_could(harness_of) -> None:
    """A client that stops a model wants the memory back."""
    harness = harness_of(keep_alive_seconds=0.01)
    harness.fleet.sizes |= {"a": 10, "b": 10}
    await harness.touch("a")
    await harness.logged("za@0")
    await harness.scheduler.unload("a")
    harness.scheduler.keep("b", 1000)
    await harness.touch("b")
    await harness.scheduler.unload("b")
    assert harness.fleet.log == ["+a@0", "za@0", "-a@0", "+b@0", "-b@0"]


async def test_a_keep_alive_of_zero_ends_the_process(harness_of) -> None:
    """It means the same as stop."""
    harness = harness_of(keep_alive_seconds=0)
    harness.fleet.sizes["a"] = 10
    await harness.touch("a")
    await harness.logged("-a@0")
    assert harness.fleet.log == ["+a@0", "-a@0"]


async def test_a_sleeping_model_ends_when_no_request_wakes_it(harness_of) -> None:
    """The host's memory is not taken forever."""
    harness = harness_of(keep_alive_seconds=0.01, sleep_seconds=0.02)
    harness.fleet.sizes["a"] = 10
    await harness.touch("a")
    await harness.logged("-a@0")
    assert harness.fleet.log == ["+a@0", "za@0", "-a@0"]


async def test_a_sleeping_model_whose_process_dies_is_not_started_again(harness_of) -> None:
    """A restarted process would be awake, at a slot that may belong to another model."""
    harness = harness_of(keep_alive_seconds=0.01)
    harness.fleet.sizes["a"] = 10
    await harness.touch("a")
    await harness.logged("za@0")
    worker = harness.fleet.workers["worker-0"]
    worker.process = replace(worker.process, state=ProcessState.RESTARTING)
    harness.fleet.changes.increment()
    await harness.logged("-a@0")
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0", "za@0", "-a@0", "+a@0"]


async def test_the_longest_sleeping_model_makes_room_in_memory(harness_of) -> None:
    """Least recently used goes first in the host's memory as well."""
    harness = harness_of()
    harness.fleet.sizes |= {"a": 600, "b": 600}
    for model in ("a", "b", "c"):
        await harness.touch(model)
    assert harness.fleet.log == ["+a@0", "za@0", "+b@0b", "-a@0", "zb@0b", "+c@0"]


async def test_a_model_that_cannot_fall_asleep_is_ended(harness_of) -> None:
    """A failure costs the sleep and nothing else."""
    harness = harness_of()
    harness.fleet.sizes["a"] = 10
    harness.fleet.cannot_sleep.add("a")
    await harness.touch("a")
    await harness.touch("b")
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_a_model_that_does_not_wake_is_loaded_anew(harness_of) -> None:
    """The request that woke it waits longer and does not fail."""
    harness = harness_of(keep_alive_seconds=0.01)
    harness.fleet.sizes["a"] = 10
    harness.fleet.cannot_wake.add("a")
    await harness.touch("a")
    await harness.logged("za@0")
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0", "za@0", "-a@0", "+a@0"]


async def test_a_sleeping_model_whose_slot_is_busy_is_loaded_elsewhere(harness_of) -> None:
    """One process of a model is enough: the sleeping one ends first."""
    harness = harness_of(slot_count=2)
    harness.fleet.sizes["a"] = 10
    for model in ("a", "b", "c"):
        await harness.touch(model)
    assert harness.fleet.log == ["+a@0", "+b@1", "za@0", "+c@0b"]
    async with harness.use("c"):
        await harness.touch("a")
    assert harness.fleet.log[4:] == ["-b@1", "-a@0", "+a@1"]


async def test_only_one_of_several_workers_sleeps(harness_of) -> None:
    """One brings the model back within seconds; it is scaled up again if need be."""
    harness = harness_of(slot_count=2, scale_up_after_seconds=0.01, poll_seconds=0.005, keep_alive_seconds=0.05)
    harness.fleet.sizes["a"] = 10
    async with harness.use("a"):
        harness.fleet.workers["worker-0"].has_room = False
        await harness.logged("+a@1")
    await harness.logged("-a@1")
    assert sorted(harness.fleet.log[2:]) == ["-a@1", "za@0"]


async def test_a_request_while_it_falls_asleep_wakes_it(harness_of) -> None:
    """The request waits for the sleep to be complete and then for the waking."""
    harness = harness_of()
    harness.fleet.sizes["a"] = 10
    await harness.touch("a")
    other = asyncio.create_task(harness.touch("b"))
    await harness.logged("za@0")
    await harness.touch("a")
    await other
    assert harness.fleet.log == ["+a@0", "za@0", "+b@0b", "-b@0b", "wa@0"]
