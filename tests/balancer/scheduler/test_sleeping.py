"""An idle model sleeps first where its engine can, and wakes when it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from vllama_balancer.fleet.events import ProcessState


async def test_an_expired_model_sleeps_and_wakes(loading_of) -> None:
    """The process stays, its place is free, and the next request wakes it."""
    loading = loading_of(keep_alive_seconds=0.01)
    loading.fleet.sizes["a"] = 10
    await loading.touch("a")
    await loading.logged("za@0")
    await loading.touch("a")
    assert loading.fleet.log == ["+a@0", "za@0", "wa@0"]


async def test_two_models_take_turns_at_one_place_without_loading_again(loading_of) -> None:
    """After their first loads they only sleep and wake; a second worker of a place has a name of its own."""
    loading = loading_of()
    loading.fleet.sizes |= {"a": 10, "b": 10}
    for model in ("a", "b", "a", "b"):
        await loading.touch(model)
    assert loading.fleet.log == ["+a@0", "za@0", "+b@0b", "zb@0b", "wa@0", "za@0", "wb@0b"]


async def test_stop_ends_a_model_that_sleeps_or_could(loading_of) -> None:
    """Who says that a model is not needed wants the memory back."""
    loading = loading_of(keep_alive_seconds=0.01)
    loading.fleet.sizes |= {"a": 10, "b": 10}
    await loading.touch("a")
    await loading.logged("za@0")
    await loading.residents.unload("a")
    loading.residents.keep("b", 1000)
    await loading.touch("b")
    await loading.residents.unload("b")
    assert loading.fleet.log == ["+a@0", "za@0", "-a@0", "+b@0", "-b@0"]


async def test_a_keep_alive_of_zero_ends_the_process(loading_of) -> None:
    """It says the same as stop."""
    loading = loading_of(keep_alive_seconds=0)
    loading.fleet.sizes["a"] = 10
    await loading.touch("a")
    await loading.logged("-a@0")
    assert loading.fleet.log == ["+a@0", "-a@0"]


async def test_a_sleeper_ends_when_nobody_wakes_it(loading_of) -> None:
    """The host's memory is not taken for ever."""
    loading = loading_of(keep_alive_seconds=0.01, sleep_seconds=0.02)
    loading.fleet.sizes["a"] = 10
    await loading.touch("a")
    await loading.logged("-a@0")
    assert loading.fleet.log == ["+a@0", "za@0", "-a@0"]


async def test_a_sleeper_whose_process_dies_is_not_started_again(loading_of) -> None:
    """A restarted process would be awake, at a place that may be another model's."""
    loading = loading_of(keep_alive_seconds=0.01)
    loading.fleet.sizes["a"] = 10
    await loading.touch("a")
    await loading.logged("za@0")
    worker = loading.fleet.workers["worker-0"]
    worker.process = replace(worker.process, state=ProcessState.RESTARTING)
    loading.fleet.changes.tell()
    await loading.logged("-a@0")
    await loading.touch("a")
    assert loading.fleet.log == ["+a@0", "za@0", "-a@0", "+a@0"]


async def test_an_older_sleeper_makes_room_in_memory(loading_of) -> None:
    """Least recently used goes first in the host's memory as well."""
    loading = loading_of()
    loading.fleet.sizes |= {"a": 600, "b": 600}
    for model in ("a", "b", "c"):
        await loading.touch(model)
    assert loading.fleet.log == ["+a@0", "za@0", "+b@0b", "-a@0", "zb@0b", "+c@0"]


async def test_a_model_that_cannot_fall_asleep_is_ended(loading_of) -> None:
    """A failure costs the sleep and nothing else."""
    loading = loading_of()
    loading.fleet.sizes["a"] = 10
    loading.fleet.insomniacs.add("a")
    await loading.touch("a")
    await loading.touch("b")
    assert loading.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_a_model_that_does_not_wake_is_loaded_anew(loading_of) -> None:
    """The request that woke it waits longer and does not fail."""
    loading = loading_of(keep_alive_seconds=0.01)
    loading.fleet.sizes["a"] = 10
    loading.fleet.dead_asleep.add("a")
    await loading.touch("a")
    await loading.logged("za@0")
    await loading.touch("a")
    assert loading.fleet.log == ["+a@0", "za@0", "-a@0", "+a@0"]


async def test_a_sleeper_whose_place_is_busy_is_loaded_elsewhere(loading_of) -> None:
    """One process of a model is enough: the sleeping one ends first."""
    loading = loading_of(places=2)
    loading.fleet.sizes["a"] = 10
    for model in ("a", "b", "c"):
        await loading.touch(model)
    assert loading.fleet.log == ["+a@0", "+b@1", "za@0", "+c@0b"]
    async with loading.use("c"):
        await loading.touch("a")
    assert loading.fleet.log[4:] == ["-b@1", "-a@0", "+a@1"]


async def test_only_one_of_several_workers_sleeps(loading_of) -> None:
    """One brings the model back within seconds; it grows again if it has to."""
    loading = loading_of(places=2, scale_up_after_seconds=0.01, poll_seconds=0.005, keep_alive_seconds=0.05)
    loading.fleet.sizes["a"] = 10
    async with loading.use("a"):
        loading.fleet.workers["worker-0"].has_room = False
        await loading.logged("+a@1")
    await loading.logged("-a@1")
    assert sorted(loading.fleet.log[2:]) == ["-a@1", "za@0"]


async def test_a_request_while_it_falls_asleep_wakes_it(loading_of) -> None:
    """The request waits for the sleep to be complete and then for the waking."""
    loading = loading_of()
    loading.fleet.sizes["a"] = 10
    await loading.touch("a")
    other = asyncio.create_task(loading.touch("b"))
    await loading.logged("za@0")
    await loading.touch("a")
    await other
    assert loading.fleet.log == ["+a@0", "za@0", "+b@0b", "-b@0b", "wa@0"]
