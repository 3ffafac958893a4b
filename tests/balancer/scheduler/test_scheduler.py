"""Models are loaded by their first request, share the slots, and are unloaded when they are idle."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import replace

import pytest

from vllama_balancer.errors import DeadlineExceeded, NoWorker, QueueFull
from vllama_balancer.fleet.assignment import HostedModel
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.scheduler.autoscale import note_saturation
from vllama_balancer.scheduler.model import LoadedModel
from vllama_protos.v1 import fleet_pb2


async def test_a_model_is_loaded_by_its_first_request_and_stays(harness_of) -> None:
    """The second request finds it loaded."""
    harness = harness_of()
    await harness.touch("a")
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0"]


async def test_requests_at_the_same_time_load_once(harness_of) -> None:
    """Many first requests wait for one load."""
    harness = harness_of()
    harness.fleet.slow.add("a")
    waiting = [asyncio.create_task(harness.touch("a")) for _ in range(20)]
    await harness.logged("+a@0")
    harness.fleet.finish("a")
    await asyncio.gather(*waiting)
    assert harness.fleet.log == ["+a@0"]


async def test_the_idle_model_that_was_used_longest_ago_makes_room(harness_of) -> None:
    """Least recent use goes first."""
    harness = harness_of(slot_count=2)
    for model in ("a", "b", "a", "c"):
        await harness.touch(model)
    assert harness.fleet.log == ["+a@0", "+b@1", "-b@1", "+c@1"]


async def test_a_busy_model_is_never_unloaded(harness_of) -> None:
    """A request for another model waits until the running one has ended."""
    harness = harness_of()
    async with harness.use("a"):
        other = asyncio.create_task(harness.touch("b"))
        await harness.waiting("b")
        await harness.touch("a")
        assert harness.fleet.log == ["+a@0"] and not other.done()
    await other
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_waiting_models_take_turns_in_order(harness_of) -> None:
    """The model that was requested first is loaded first."""
    harness = harness_of()
    async with harness.use("a"):
        tasks = []
        for model in ("b", "c"):
            tasks.append(asyncio.create_task(harness.touch(model)))
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0", "-b@0", "+c@0"]


async def test_an_idle_model_expires(harness_of) -> None:
    """After keep_alive without a request its worker ends; the clock starts when the last request has ended."""
    harness = harness_of(keep_alive_seconds=0.02)
    async with harness.use("a"):
        await asyncio.sleep(0.05)
        assert harness.fleet.log == ["+a@0"]
    await harness.logged("-a@0")


async def test_a_request_in_time_keeps_the_model(harness_of) -> None:
    """Every request restarts the expiry and reports it."""
    harness = harness_of(keep_alive_seconds=1000)
    await harness.touch("a")
    assert harness.expiries == {"a": 1000}


@pytest.mark.parametrize("seconds", [-1.0, math.inf])
async def test_forever_means_no_expiry(harness_of, seconds: float) -> None:
    """A negative or infinite keep_alive never runs out."""
    harness = harness_of(keep_alive_seconds=seconds)
    await harness.touch("a")
    assert harness.expiries == {"a": None}


@pytest.mark.parametrize("seconds", [315_360_001.0, 1e15, 2.0**63, 1e300, math.inf, math.nan, -1e300])
async def test_a_keep_alive_beyond_ten_years_is_forever(harness_of, seconds: float) -> None:
    """No date is computed from it, and the model can still be unloaded, so that others are loaded."""
    harness = harness_of()
    await harness.touch("a")
    harness.scheduler.keep("a", seconds)
    await harness.touch("a")
    assert harness.expiries == {"a": None}
    await harness.touch("b")
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_a_request_that_fails_before_it_is_served_is_not_counted(harness_of) -> None:
    """Whatever fails after a model has been found: the model can be unloaded."""
    harness = harness_of()
    await harness.touch("a")
    harness.expiries.fails = True
    with pytest.raises(OverflowError):
        await harness.touch("a")
    harness.expiries.fails = False
    assert [status.requests for status in harness.scheduler.statuses()] == [0]
    await harness.scheduler.unload("a")
    assert harness.fleet.log == ["+a@0", "-a@0"]


async def test_keep_replaces_the_expiry_before_and_after_loading(harness_of) -> None:
    """For a model that is not loaded it counts for the next load only."""
    harness = harness_of(keep_alive_seconds=500)
    harness.scheduler.keep("a", 7)
    await harness.touch("a")
    assert harness.expiries["a"] == 7
    harness.scheduler.keep("a", 0)
    await harness.logged("-a@0")
    await harness.touch("a")
    assert harness.expiries["a"] == 500


async def test_keep_zero_lets_running_requests_finish(harness_of) -> None:
    """keep_alive 0 unloads once the model is idle."""
    harness = harness_of()
    async with harness.use("a"):
        harness.scheduler.keep("a", 0)
        await asyncio.sleep(0.01)
        assert harness.fleet.log == ["+a@0"]
    await harness.logged("-a@0")


async def test_unload_waits_for_nothing_when_idle(harness_of) -> None:
    """An idle model is gone when unload returns; an unknown one needs nothing."""
    harness = harness_of()
    await harness.touch("a")
    await harness.scheduler.unload("a")
    await harness.scheduler.unload("never loaded")
    assert harness.fleet.log == ["+a@0", "-a@0"]


async def test_unload_of_a_busy_model_happens_when_it_is_idle(harness_of) -> None:
    """Running requests finish first."""
    harness = harness_of()
    async with harness.use("a"):
        await harness.scheduler.unload("a")
        assert harness.fleet.log == ["+a@0"]
    await harness.logged("-a@0")


async def test_a_request_during_unloading_loads_again(harness_of) -> None:
    """A model that is leaving is waited for and loaded anew; the request does not fail."""
    harness = harness_of()
    await harness.touch("a")
    leaving = asyncio.create_task(harness.scheduler.unload("a"))
    await asyncio.sleep(0)
    await harness.touch("a")
    await leaving
    assert harness.fleet.log == ["+a@0", "-a@0", "+a@0"]


async def test_a_failed_load_answers_every_waiter_with_the_cause(harness_of) -> None:
    """All waiting requests fail with it, the slot is free again, and the next request loads anew."""
    harness = harness_of(failure_memory_seconds=0)
    harness.fleet.failures["a"] = "failed to start: no memory"
    results = await asyncio.gather(*(harness.touch("a") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [NoWorker] * 3
    assert "no memory" in str(results[0])
    await harness.touch("b")
    harness.fleet.failures.clear()
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0", "-b@0", "+a@0"]


async def test_a_failed_load_is_remembered(harness_of) -> None:
    """Retries get its error and evict nothing; after some time the model is loaded anew."""
    harness = harness_of(failure_memory_seconds=0.2)
    harness.fleet.failures["b"] = "failed to start 1 times: no memory"
    await harness.touch("a")
    errors = []
    for _ in range(5):
        with pytest.raises(NoWorker) as caught:
            await harness.touch("b")
        errors.append(str(caught.value))
        await harness.touch("a")
    assert set(errors) == {"the model could not be loaded: its worker failed to start 1 times: no memory"}
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0", "-b@0", "+a@0"]
    harness.fleet.failures.clear()
    await loaded_in_the_end(harness, "b")


async def loaded_in_the_end(harness, model: str) -> None:
    """Asks for a model until it has been loaded."""
    async with asyncio.timeout(10):
        while f"+{model}@0" not in harness.fleet.log[-1:]:
            with contextlib.suppress(NoWorker):
                await harness.touch(model)
            await asyncio.sleep(0.005)


async def test_a_failed_load_of_other_files_is_not_remembered(harness_of) -> None:
    """The model was pulled again: what is loaded differs."""
    harness = harness_of(failure_memory_seconds=1000)
    harness.fleet.failures["a"] = "failed to start 1 times: damaged"
    with pytest.raises(NoWorker):
        await harness.touch("a")
    harness.fleet.failures.clear()
    harness.fleet.weights["a"] = 7
    await harness.touch("a")


async def test_an_operators_order_forgets_a_failed_load(harness_of) -> None:
    """After `stop` a model is loaded by its next request."""
    harness = harness_of(failure_memory_seconds=1000)
    harness.fleet.failures["a"] = "failed to start 1 times: damaged"
    with pytest.raises(NoWorker):
        await harness.touch("a")
    harness.fleet.failures.clear()
    await harness.scheduler.unload("a")
    await harness.touch("a")


async def test_a_load_that_fails_unforeseen_leaves_nothing_behind(harness_of) -> None:
    """The request gets a sentence, the slot is free, and the model can be loaded later."""
    harness = harness_of(failure_memory_seconds=0)
    harness.fleet.cannot_add = OSError(24, "Too many open files")
    with pytest.raises(NoWorker, match="Too many open files"):
        await harness.touch("a")
    assert harness.scheduler.statuses() == []
    harness.fleet.cannot_add = None
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0"]


async def test_models_resume_when_the_load_that_they_were_paused_for_fails(harness_of) -> None:
    """A busy model takes new requests again."""
    harness = harness_of(min_tenure_seconds=0)
    harness.fleet.failures["b"] = "failed to start 1 times: damaged"
    async with harness.use("a"):
        other = asyncio.create_task(harness.touch("b"))
        await paused(harness, "a")
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        await harness.touch("a")
    assert harness.fleet.log == ["+a@0"]


async def paused(harness, model: str) -> None:
    """Waits until a model takes no new requests."""
    await harness.until(lambda: harness.scheduler._models[model].paused)


async def test_a_load_that_no_request_waits_for_takes_nothing(harness_of) -> None:
    """The client has left before there was a slot: no model is paused, evicted or loaded for it."""
    harness = harness_of()
    async with harness.use("a"):
        left = asyncio.create_task(harness.touch("b"))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
    await harness.until(lambda: [status.model for status in harness.scheduler.statuses()] == ["a"])
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0"]


async def test_a_request_for_a_load_that_is_given_up_starts_it_anew(harness_of) -> None:
    """It comes in the moment after the last one that waited has left."""
    harness = harness_of()
    async with harness.use("a"):
        left = asyncio.create_task(harness.touch("b"))
        await asyncio.sleep(0)
        left.cancel()
        waiting = [asyncio.create_task(harness.touch("b")) for _ in range(3)]
        with pytest.raises(asyncio.CancelledError):
            await left
    await asyncio.gather(*waiting)
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_the_scheduler_survives_a_moment_without_file_descriptors(harness_of) -> None:
    """Neither scaling nor loading ends for good while the machine's memory cannot be read."""
    harness = harness_of(slot_count=2, scale_up_after_seconds=0.01, poll_seconds=0.005)
    await harness.touch("a")
    harness.fleet.memory_error = OSError(24, "Too many open files")
    await harness.touch("b")
    await harness.scheduler.unload("b")
    harness.fleet.workers["worker-0"].has_room = False
    await harness.logged("+a@1")


async def test_the_autoscaler_survives_an_error(harness_of, caplog) -> None:
    """It is logged, and the next look scales up."""
    harness = harness_of(slot_count=2, scale_up_after_seconds=0.01, poll_seconds=0.005)
    await harness.touch("a")
    harness.fleet.workers["worker-0"].has_room = False
    harness.fleet.cannot_add = RuntimeError("out of luck")
    await harness.until(lambda: "out of luck" in caplog.text)
    harness.fleet.cannot_add = None
    await harness.logged("+a@1")


async def test_a_model_whose_workers_were_given_up_is_loaded_anew(harness_of) -> None:
    """A crash loop after loading is not the end: the next request starts over."""
    harness = harness_of()
    await harness.touch("a")
    worker = harness.fleet.workers["worker-0"]
    worker.process = replace(worker.process, state=ProcessState.FAILED)
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0", "-a@0", "+a@0"]


async def test_a_load_without_progress_is_given_up(harness_of) -> None:
    """A worker that hangs while it starts does not block its slot forever."""
    harness = harness_of(stall_seconds=0.01)
    harness.fleet.slow.add("a")
    with pytest.raises(NoWorker, match=r"no progress for .* --load-timeout"):
        await harness.touch("a")
    assert harness.fleet.log == ["+a@0", "-a@0"]


async def test_a_deadline_ends_the_wait_and_not_the_load(harness_of) -> None:
    """The request fails; the model is loaded for the next one."""
    harness = harness_of()
    harness.fleet.slow.add("a")
    with pytest.raises(DeadlineExceeded):
        async with harness.use("a", asyncio.get_running_loop().time() + 0.02):
            pass
    harness.fleet.finish("a")
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0"]


async def test_a_model_that_was_just_evicted_makes_way_in_time_for_a_deadline(harness_of) -> None:
    """Its residency ends so early that a load like its own is over at the deadline."""
    harness = harness_of(min_residency_loads=10.0, min_tenure_seconds=3600.0)
    await harness.touch("a")
    model = harness.scheduler._models["a"]
    model.was_just_evicted, model.placed_at = True, model.ready_at - 100.0
    async with harness.use("b", asyncio.get_running_loop().time() + 100.05):
        assert harness.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_too_many_waiters_are_refused(harness_of) -> None:
    """The wait for a load is bounded as every queue is."""
    harness = harness_of(max_waiting=2)
    harness.fleet.slow.add("a")
    waiting = [asyncio.create_task(harness.touch("a")) for _ in range(2)]
    await harness.logged("+a@0")
    with pytest.raises(QueueFull):
        await harness.touch("a")
    harness.fleet.finish("a")
    await asyncio.gather(*waiting)


async def test_pinned_models_share_all_slots_and_are_never_unloaded(harness_of) -> None:
    """Two pinned models on four slots have two each; keep and unload do not change that."""
    harness = harness_of(slot_count=4, keep_alive_seconds=0)
    harness.preload("a", "b")
    await harness.touch("a")
    harness.scheduler.keep("a", 0)
    await harness.scheduler.unload("a")
    await asyncio.sleep(0.01)
    assert harness.fleet.log == ["+a@0", "+b@1", "+a@2", "+b@3"]
    assert harness.expiries["a"] is None and harness.scheduler.is_pinned("a")


async def test_a_pinned_model_is_unloaded_by_an_operators_order(harness_of) -> None:
    """With all its replicas; its next request loads it, as pinned as before, and the others are restored."""
    harness = harness_of(slot_count=2, poll_seconds=0.005)
    harness.preload("a")
    await harness.touch("a")
    unload = harness.scheduler.unload
    assert await unload("a", even_pinned=True) == fleet_pb2.UNLOAD_OUTCOME_UNLOADED
    assert sorted(harness.fleet.log) == ["+a@0", "+a@1", "-a@0", "-a@1"]
    assert await unload("a", even_pinned=True) == fleet_pb2.UNLOAD_OUTCOME_NOT_LOADED
    assert harness.scheduler.is_pinned("a") and not harness.scheduler.loads_on_demand
    await harness.touch("a")
    assert await unload("a") == fleet_pb2.UNLOAD_OUTCOME_NOT_LOADED
    assert harness.scheduler.is_loaded("a") and harness.expiries["a"] is None
    await harness.until(lambda: harness.fleet.log.count("+a@0") + harness.fleet.log.count("+a@1") == 4)


async def test_a_busy_pinned_model_is_unloaded_when_it_is_idle(harness_of) -> None:
    """The order is answered at once, and no request is cut."""
    harness = harness_of()
    harness.preload("a")
    async with harness.use("a"):
        assert await harness.scheduler.unload("a", even_pinned=True) == fleet_pb2.UNLOAD_OUTCOME_WHEN_IDLE
        assert harness.fleet.log == ["+a@0"]
    await harness.logged("-a@0")


async def test_a_model_with_a_spare_replica_gives_it_up_and_gets_it_back(harness_of) -> None:
    """A pinned model keeps one slot; the other is restored when the guest is unloaded."""
    harness = harness_of(slot_count=2)
    harness.preload("a")
    await harness.touch("guest")
    assert harness.fleet.log == ["+a@0", "+a@1", "-a@1", "+guest@1"]
    await harness.scheduler.unload("guest")
    assert harness.fleet.log[-2:] == ["-guest@1", "+a@1"]


async def test_without_a_slot_that_can_ever_be_free_a_request_fails_with_the_cause(harness_of) -> None:
    """When every slot is pinned the request fails at once, and the message says what to change."""
    harness = harness_of()
    harness.preload("a")
    with pytest.raises(NoWorker, match="start it with more --workers, or name no models"):
        await harness.touch("b")


async def test_requests_that_come_before_the_named_models_wait_for_them(harness_of) -> None:
    """The ports open first: an early request takes no slot from the operator's models."""
    harness = harness_of(slot_count=2, awaits_preload=True)
    early = asyncio.create_task(harness.touch("a"))
    unloading = asyncio.create_task(harness.scheduler.unload("b"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert harness.fleet.log == [] and not early.done() and not unloading.done()
    harness.preload("a", "b")
    await asyncio.gather(early, unloading)
    assert harness.fleet.log == ["+a@0", "+b@1"]


async def test_an_early_request_keeps_its_deadline(harness_of) -> None:
    """It does not wait for models that are still being fetched."""
    harness = harness_of(awaits_preload=True)
    with pytest.raises(DeadlineExceeded):
        async with harness.use("a", asyncio.get_running_loop().time() + 0.01):
            pass


async def test_a_preloaded_model_that_is_not_pinned_makes_room(harness_of) -> None:
    """A model that was preloaded without being named is evicted as any other idle one."""
    harness = harness_of()
    harness.preload("a", pinned=False)
    await harness.touch("b")
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_the_expiry_of_a_preloaded_model_starts_with_its_first_use(harness_of) -> None:
    """A server that has just been started stays ready for its first client, and then keeps to keep_alive."""
    harness = harness_of(keep_alive_seconds=0.02)
    harness.preload("a", pinned=False)
    await asyncio.sleep(0.05)
    assert harness.fleet.log == ["+a@0"] and harness.expiries == {"a": None}
    await harness.touch("a")
    await harness.logged("-a@0")


async def test_max_loaded_models_bounds_the_models(harness_of) -> None:
    """OLLAMA_MAX_LOADED_MODELS leaves slots empty rather than load one model more."""
    harness = harness_of(slot_count=3, max_loaded_models=1)
    for model in ("a", "b"):
        await harness.touch(model)
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@1"]


async def test_two_loads_under_the_bound_take_turns(harness_of) -> None:
    """With a bound of one, two models that are requested at once are loaded one after the other."""
    harness = harness_of(slot_count=2, max_loaded_models=1)
    await asyncio.gather(harness.touch("a"), harness.touch("b"))
    assert sorted(harness.fleet.log[:1] + harness.fleet.log[2:]) == ["+a@0", "+b@1"]


async def test_a_cancelled_request_releases_the_model(harness_of) -> None:
    """A client that leaves while it waits does not keep the model busy."""
    harness = harness_of()
    harness.fleet.slow.add("a")
    waiting = asyncio.create_task(harness.touch("a"))
    await harness.logged("+a@0")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    harness.fleet.finish("a")
    await harness.touch("b")
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0"]


async def test_a_saturated_model_is_scaled_up_to_a_free_slot(harness_of) -> None:
    """After some time it gets one more worker, and no further one while that starts."""
    harness = harness_of(slot_count=3, scale_up_after_seconds=0.01, poll_seconds=0.005)
    async with harness.use("a"):
        harness.fleet.slow.add("a")
        harness.fleet.workers["worker-0"].has_room = False
        await harness.logged("+a@1")
        await harness.looked(10)
    assert harness.fleet.log == ["+a@0", "+a@1"]


async def test_a_model_without_workers_is_not_saturated(harness_of) -> None:
    """All were retired by hand: only a request loads it again."""
    model = LoadedModel("a", HostedModel("a", ("a",)), load_pending=False)
    assert model.is_loaded
    note_saturation(model, harness_of().fleet, 5.0)
    assert model.saturated_since is None


async def test_a_model_with_free_streams_is_not_scaled_up(harness_of) -> None:
    """Being used is no reason to take a slot."""
    harness = harness_of(slot_count=2, scale_up_after_seconds=0, poll_seconds=0.001)
    async with harness.use("a"):
        await harness.looked(10)
    assert harness.fleet.log == ["+a@0"]


async def test_a_scaled_up_model_gives_a_slot_up_while_it_is_busy(harness_of) -> None:
    """Another model gets the second slot at once; the first keeps the other."""
    harness = harness_of(slot_count=2, scale_up_after_seconds=0.01, poll_seconds=0.005)
    async with harness.use("a"):
        harness.fleet.workers["worker-0"].has_room = False
        await harness.logged("+a@1")
        await harness.touch("b")
    assert harness.fleet.log == ["+a@0", "+a@1", "-a@1", "+b@1"]


async def test_alternating_loads_do_not_flap(harness_of) -> None:
    """Two saturated models on two slots stay where they are, however long they alternate."""
    harness = harness_of(slot_count=2, scale_up_after_seconds=0, poll_seconds=0.001)
    for model in ("a", "b") * 10:
        async with harness.use(model):
            for worker in harness.fleet.workers.values():
                worker.has_room = False
            await harness.looked()
    first_moves = harness.fleet.log[:4]
    assert harness.fleet.log == first_moves and first_moves[-1] == "+b@1"


async def test_a_busy_model_is_paused_after_its_tenure(harness_of) -> None:
    """Running requests finish, new ones wait until the other model has been loaded, and none starves."""
    harness = harness_of(min_tenure_seconds=0.02)
    async with harness.use("a"):
        other = asyncio.create_task(harness.touch("b"))
        await paused(harness, "a")
        late = asyncio.create_task(harness.touch("a"))
        await asyncio.sleep(0)
        assert harness.fleet.log == ["+a@0"] and not late.done()
    await asyncio.gather(other, late)
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@0", "-b@0", "+a@0"]


async def test_within_its_tenure_a_busy_model_takes_requests(harness_of) -> None:
    """A request that waits for another model does not delay them."""
    harness = harness_of(min_tenure_seconds=1000)
    async with harness.use("a"):
        other = asyncio.create_task(harness.touch("b"))
        await harness.waiting("b")
        await harness.touch("a")
    await other


async def test_the_deadline_holds_while_the_model_leaves(harness_of) -> None:
    """Waiting for a model to make way is waiting for the load."""
    harness = harness_of(min_tenure_seconds=0)
    async with harness.use("a"):
        other = asyncio.create_task(harness.touch("b"))
        await paused(harness, "a")
        with pytest.raises(DeadlineExceeded):
            async with harness.use("a", asyncio.get_running_loop().time() + 0.02):
                pass
    await other


async def test_a_replica_that_is_lost_soon_is_not_restored_at_once(harness_of) -> None:
    """A guest that comes and goes takes the same slot every time, without a reload of the pinned model."""
    harness = harness_of(slot_count=2, poll_seconds=0.005)
    harness.preload("a")
    for _ in range(4):
        await harness.touch("guest")
        await harness.scheduler.unload("guest")
        await harness.looked()
    assert harness.fleet.log[2:] == ["-a@1", "+guest@1", "-guest@1", "+a@1", "-a@1"] + ["+guest@1", "-guest@1"] * 3


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_model_whose_only_worker_was_drained_is_loaded_by_the_next_request(harness_of, pinned: bool) -> None:
    """Its slot is free until then, for any model."""
    harness = harness_of()
    harness.preload("a", pinned=pinned)
    await harness.touch("a")
    await harness.fleet.retire("worker-0")
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0", "-a@0", "+a@0"]
    assert harness.scheduler.is_pinned("a") == pinned


async def test_the_slot_of_a_drained_worker_is_free_for_another_model(harness_of) -> None:
    """The model that had it, and has others, does not take it again."""
    harness = harness_of(slot_count=2, poll_seconds=0.01)
    harness.preload("a")
    await harness.touch("a")
    await harness.fleet.retire("worker-1")
    await harness.looked()
    assert harness.fleet.log == ["+a@0", "+a@1", "-a@1"]
    await harness.touch("b")
    assert harness.fleet.log[-1] == "+b@1"
    await harness.scheduler.unload("b")
    assert harness.fleet.log[-1] == "-b@1"


async def test_a_drained_worker_of_an_idle_model_disturbs_no_expiry(harness_of) -> None:
    """Nothing of it is left to be put to sleep."""
    harness = harness_of(keep_alive_seconds=0.05, poll_seconds=0.01)
    await harness.touch("a")
    await harness.fleet.retire("worker-0")
    await harness.until(lambda: not harness.scheduler._models)
    await harness.touch("b")
    assert harness.fleet.log[-1] == "+b@0"


async def test_a_model_stays_loaded_when_only_a_starting_worker_is_left(harness_of) -> None:
    """The worker that served is retired by hand: requests wait in the dispatcher for the other one."""
    harness = harness_of(slot_count=2, scale_up_after_seconds=0.01, poll_seconds=0.005)
    async with harness.use("a"):
        harness.fleet.slow.add("a")
        harness.fleet.workers["worker-0"].has_room = False
        await harness.logged("+a@1")
    await harness.fleet.retire("worker-0")
    await harness.looked()
    assert harness.scheduler.is_loaded("a")
    await harness.scheduler.unload("a")
    assert harness.fleet.log == ["+a@0", "+a@1", "-a@0", "-a@1"]


async def test_the_status_of_each_model(harness_of) -> None:
    """Waiting for a slot, loading, loaded, asleep: with the workers and the requests of each."""
    harness = harness_of()
    harness.fleet.sizes["a"] = 10
    assert not harness.scheduler.loads_on_demand
    harness.fleet.slow.add("a")
    first = asyncio.create_task(harness.touch("a"))
    await harness.logged("+a@0")
    second = asyncio.create_task(harness.touch("b"))
    await asyncio.sleep(0.01)
    seen = [(one.model, one.state, list(one.workers), one.requests) for one in harness.scheduler.statuses()]
    assert seen == [
        ("a", fleet_pb2.MODEL_STATE_LOADING, ["worker-0"], 1),
        ("b", fleet_pb2.MODEL_STATE_WAITING, [], 1),
    ]
    harness.fleet.finish("a")
    await asyncio.gather(first, second)
    assert harness.scheduler.loads_on_demand
    seen = [(one.model, one.state, list(one.workers)) for one in harness.scheduler.statuses()]
    assert seen == [
        ("b", fleet_pb2.MODEL_STATE_LOADED, ["worker-0b"]),
        ("a", fleet_pb2.MODEL_STATE_SLEEPING, ["worker-0"]),
    ]
