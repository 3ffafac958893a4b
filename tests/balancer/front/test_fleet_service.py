"""Orders to the fleet: lists, drains, restarts, and unloading."""

import asyncio

import grpc
import pytest

from tests.balancer.front.front_door import Code, details_of, events_of, is_whole, request
from tests.balancer.scripted_worker import Script, eventually, text_of
from vllama_balancer.errors import ModelNotFound
from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_protos.v1 import (
    fleet_pb2,
    worker_pb2,
)


async def test_the_fleet_is_listed(open_door):
    """Every worker, with why it is out when it is."""
    door = await open_door(2)
    door.fleet.workers[0].become(worker_pb2.WORKER_STATE_DRAINING)
    await eventually(lambda: door.fleet.pool.find("w0").unavailable)
    reply = await door.fleet_service.ListWorkers(fleet_pb2.ListWorkersRequest())
    assert [(worker.name, worker.available, worker.reason) for worker in reply.workers] == [
        ("w0", False, "is draining"),
        ("w1", True, ""),
    ]
    assert reply.workers[1].description.max_streams == 8
    assert reply.workers[1].report.state == worker_pb2.WORKER_STATE_READY


async def test_the_fleet_is_watched(open_door):
    """At once, and on changes."""
    door = await open_door(1)
    watch = door.fleet_service.WatchFleet(fleet_pb2.WatchFleetRequest())
    assert (await watch.read()).workers[0].available
    door.fleet.workers[0].become(worker_pb2.WORKER_STATE_DRAINING)
    async with asyncio.timeout(5):
        while (await watch.read()).workers[0].available:
            pass
    watch.cancel()


async def test_a_drained_worker_finishes_its_streams_first(open_door):
    """And is ended afterwards where it was started here."""
    door = await open_door(2)
    for worker in door.fleet.workers:
        worker.script = Script(pause_after_tokens=2)
    reading = asyncio.create_task(events_of(door.generation.Generate(request())))
    await eventually(lambda: sum(worker.running for worker in door.fleet.workers) == 1)
    busy = next(worker for worker in door.fleet.workers if worker.running)
    draining = asyncio.ensure_future(door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker=busy.name)))
    await eventually(lambda: "held" in door.fleet.pool.find(busy.name).unavailable)
    assert not draining.done()
    busy.go_on.set()
    assert is_whole(await reading)
    assert (await draining).remaining_streams == 0
    assert door.control.retired == [busy.name]


async def test_an_unknown_worker_cannot_be_drained(open_door):
    """NOT_FOUND, with its name."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError, match="there is no worker 'ghost'") as caught:
        await door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker="ghost"))
    assert caught.value.code() is Code.NOT_FOUND


async def test_a_rolling_restart_fails_no_request(open_door):
    """One worker after the other, each drained first, while requests keep coming."""
    door = await open_door(3)
    before = {worker.name: worker.boot_id for worker in door.fleet.workers}
    results = []

    async def keep_asking():
        while True:
            results.append(await events_of(door.generation.Generate(request())))

    askers = [asyncio.create_task(keep_asking()) for _ in range(4)]
    lists = await events_of(door.fleet_service.RestartWorkers(fleet_pb2.RestartWorkersRequest()))
    for asker in askers:
        asker.cancel()
    outcomes = await asyncio.gather(*askers, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert door.control.restarted == ["w0", "w1", "w2"]
    assert len(lists) == 3
    assert results
    assert all("".join(event.delta.text for event in events) == text_of(8) for events in results)
    assert all(worker.boot_id != before[worker.name] for worker in door.fleet.workers)


async def test_a_rolling_restart_stops_at_the_first_worker_that_does_not_come_back(open_door):
    """The error says which, why, and what was not touched; the others serve."""
    door = await open_door(3)

    async def fail(name):
        await next(worker for worker in door.fleet.workers if worker.name == name).die()
        door.fleet.pool.apply(Changed(name, ProcessState.FAILED, "failed to start 3 times: no such release"))

    door.control.restart = fail
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(door.fleet_service.RestartWorkers(fleet_pb2.RestartWorkersRequest()))
    assert caught.value.code() is Code.FAILED_PRECONDITION
    assert caught.value.details() == (
        "worker w0 did not come back: it failed to start 3 times: no such release; not restarted: w1, w2"
    )
    assert [worker.name for worker in door.fleet.pool.workers() if not worker.unavailable] == ["w1", "w2"]


async def test_a_cancelled_drain_leaves_the_worker_in_service(open_door):
    """Ctrl-C of the command: the call ends, and the worker takes requests again."""
    door = await open_door(1)
    worker = door.fleet.workers[0]
    worker.script = Script(pause_after_tokens=2)
    reading = asyncio.create_task(events_of(door.generation.Generate(request())))
    await eventually(lambda: worker.running == 1)
    draining = door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker="w0"))
    await eventually(lambda: "held" in door.fleet.pool.find("w0").unavailable)
    draining.cancel()
    await eventually(lambda: not door.fleet.pool.find("w0").unavailable)
    worker.go_on.set()
    assert is_whole(await reading)


async def test_a_drain_is_taken_back(open_door):
    """By a call; its own caller is told."""
    door = await open_door(1)
    worker = door.fleet.workers[0]
    worker.script = Script(pause_after_tokens=2)
    reading = asyncio.create_task(events_of(door.generation.Generate(request())))
    await eventually(lambda: worker.running == 1)
    draining = asyncio.ensure_future(door.fleet_service.DrainWorker(fleet_pb2.DrainWorkerRequest(worker="w0")))
    await eventually(lambda: "held" in door.fleet.pool.find("w0").unavailable)
    await door.fleet_service.UndrainWorker(fleet_pb2.UndrainWorkerRequest(worker="w0"))
    with pytest.raises(grpc.aio.AioRpcError, match="was taken back") as caught:
        await draining
    assert caught.value.code() is Code.FAILED_PRECONDITION
    assert not door.fleet.pool.find("w0").unavailable
    worker.go_on.set()
    assert is_whole(await reading)


@pytest.mark.parametrize(
    ("worker", "code", "message"),
    [
        ("ghost", Code.NOT_FOUND, "there is no worker 'ghost'"),
        ("w0", Code.FAILED_PRECONDITION, "worker w0 is not drained by this balancer"),
    ],
)
async def test_nothing_to_take_back_is_an_error(open_door, worker, code, message):
    """With the worker's name."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
        await door.fleet_service.UndrainWorker(fleet_pb2.UndrainWorkerRequest(worker=worker))
    assert caught.value.code() is code


class Unloader:
    """Unloads the model m."""

    async def unload_model(self, name):
        """Refuses every other one."""
        if name != "m":
            raise ModelNotFound(f"model '{name}' not found", field="model")
        return fleet_pb2.UnloadModelResponse(model="m:latest", outcome=fleet_pb2.UNLOAD_OUTCOME_UNLOADED)


async def test_a_model_is_unloaded(open_door):
    """By its name; an unknown one is not found."""
    door = await open_door(1, unloader=Unloader())
    reply = await door.fleet_service.UnloadModel(fleet_pb2.UnloadModelRequest(model="m"))
    assert (reply.model, reply.outcome) == ("m:latest", fleet_pb2.UNLOAD_OUTCOME_UNLOADED)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.fleet_service.UnloadModel(fleet_pb2.UnloadModelRequest(model="x"))
    assert caught.value.code() is Code.NOT_FOUND
    assert details_of(caught.value)[0].metadata["field"] == "model"


async def test_models_of_workers_elsewhere_are_not_unloaded(open_door):
    """FAILED_PRECONDITION, with the place where to do it."""
    door = await open_door(1)
    with pytest.raises(grpc.aio.AioRpcError, match="stop their workers where they run") as caught:
        await door.fleet_service.UnloadModel(fleet_pb2.UnloadModelRequest(model="m"))
    assert caught.value.code() is Code.FAILED_PRECONDITION


async def test_workers_that_were_not_started_here_are_not_restarted(open_door):
    """FAILED_PRECONDITION, with the place where to do it."""
    door = await open_door(1, owned=False)
    with pytest.raises(grpc.aio.AioRpcError, match="not started by this balancer") as caught:
        await events_of(door.fleet_service.RestartWorkers(fleet_pb2.RestartWorkersRequest()))
    assert caught.value.code() is Code.FAILED_PRECONDITION
