"""The Gateway that loads a model before the dispatcher gets the request."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from vllama_balancer.errors import DeadlineExceeded, ModelNotFound, NoWorker, QueueFull
from vllama_balancer.fake_gateway import FakeGateway, finished, model, started
from vllama_balancer.fleet.assignment import HostedModel
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.gateway import Call
from vllama_balancer.metrics import Metrics
from vllama_balancer.names import model_key
from vllama_balancer.scheduler.on_demand import OnDemand
from vllama_protos.v1 import fleet_pb2, generation_pb2


class OneModel:
    """A catalog of one model."""

    def expects(self, name: str) -> bool:
        """Another one is being installed, forever."""
        return name == "late"

    def hosted(self, name: str) -> HostedModel | None:
        return HostedModel("a", ("a:latest",)) if name.startswith("a") else None


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def reported_load_seconds(gateway: OnDemand) -> float:
    """Generates, and returns the load time that the last event reports."""
    request = generation_pb2.GenerateRequest(model="a", prompt="hi")
    events = [event async for event in gateway.generate(request, Call("me"))]
    return events[-1].finished.timings.load.ToTimedelta().total_seconds()


async def test_the_time_of_a_load_is_reported_once(harness_of) -> None:
    """The first request gets it; the second one found the model loaded."""
    harness, clock = harness_of(), Clock()
    harness.fleet.slow.add("a")
    inner = FakeGateway(model("a:latest"))
    for _ in range(2):
        inner.play(started(), finished())
    gateway = OnDemand(inner, OneModel(), harness.scheduler, clock)
    first = asyncio.create_task(reported_load_seconds(gateway))
    await harness.logged("+a@0")
    clock.now = 4.5
    harness.fleet.finish("a")
    assert await first == 4.5
    assert await reported_load_seconds(gateway) == 0.002, "the worker's own figure stays"


class NeverInstalled(FakeGateway):
    """A gateway whose catalog waits for a model forever."""

    async def find_or_wait(self, name: str, deadline: float | None = None):
        await asyncio.Event().wait()


async def test_waiting_for_a_model_that_is_being_installed_ends_at_the_deadline(harness_of) -> None:
    """As the wait for a load is: in time by the deadline."""
    gateway = OnDemand(NeverInstalled(), OneModel(), harness_of().scheduler)
    request = generation_pb2.GenerateRequest(model="late", prompt="hi")
    with pytest.raises(DeadlineExceeded):
        await anext(gateway.generate(request, Call("me", asyncio.get_running_loop().time() + 0.01)))


async def test_requests_that_wait_for_a_model_that_is_being_installed_are_bounded(harness_of) -> None:
    """And in number by the queue's length."""
    gateway = OnDemand(NeverInstalled(), OneModel(), harness_of(max_waiting=1).scheduler)
    waiting = asyncio.create_task(gateway.find_or_wait("late"))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await gateway.find_or_wait("late")
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_room_is_expected_of_models_that_are_loaded_only(harness_of) -> None:
    """Requests for other models wait for the load first, in a queue of their own."""
    harness = harness_of()
    inner = FakeGateway(model("a:latest"))
    inner.full = QueueFull("full")
    gateway = OnDemand(inner, OneModel(), harness.scheduler)
    gateway.raise_if_full("a")
    async with harness.scheduler.in_use(model_key("a"), HostedModel("a", ("a:latest",))):
        with pytest.raises(QueueFull):
            gateway.raise_if_full("a")


class Counted:
    """A gateway whose requests are counted while their models load."""

    def __init__(self, harness, inner: FakeGateway | None = None) -> None:
        self.registry = CollectorRegistry()
        inner = inner or FakeGateway(model("a:latest"))
        self.gateway = OnDemand(inner, OneModel(), harness.scheduler, metrics=Metrics(self.registry))

    def ended(self, outcome: str, name: str = "a:latest") -> float:
        """Returns the requests with that outcome."""
        return self.registry.get_sample_value("vllama_requests_total", {"model": name, "outcome": outcome}) or 0.0

    @property
    def in_flight(self) -> tuple[float, int]:
        """The requests inside, as the metrics and the drain count them."""
        return self.registry.get_sample_value("vllama_requests_in_flight") or 0.0, self.gateway.loading

    async def generate(self, call: Call | None = None, name: str = "a") -> None:
        """Generates to the end."""
        request = generation_pb2.GenerateRequest(model=name, prompt="hi")
        async for _ in self.gateway.generate(request, call or Call("me")):
            pass


async def test_requests_that_fail_while_their_model_loads_are_counted(harness_of) -> None:
    """With the load's reason; none of them is in flight afterwards."""
    harness = harness_of()
    harness.fleet.slow.add("a")
    counted = Counted(harness)
    waiting = [asyncio.create_task(counted.generate()) for _ in range(3)]
    await harness.logged("+a@0")
    assert counted.in_flight == (3, 3)
    worker = harness.fleet.workers["worker-0"]
    worker.process = replace(worker.process, state=ProcessState.FAILED, reason="failed to start")
    harness.fleet.changes.increment()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [NoWorker] * 3
    assert (counted.ended("NO_WORKER"), counted.in_flight) == (3, (0, 0))


async def test_requests_that_leave_while_their_model_loads_are_counted(harness_of) -> None:
    """By their deadline, and by their client."""
    harness = harness_of()
    harness.fleet.slow.add("a")
    counted = Counted(harness)
    leaving = asyncio.create_task(counted.generate())
    await harness.logged("+a@0")
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(DeadlineExceeded):
        await counted.generate(Call("me", asyncio.get_running_loop().time() + 0.01))
    assert (counted.ended("cancelled"), counted.ended("DEADLINE_EXCEEDED"), counted.in_flight) == (1, 1, (0, 0))


async def test_a_request_whose_model_is_loaded_is_counted_by_the_dispatcher(harness_of) -> None:
    """Once; what fails there is not the load's."""
    harness, inner = harness_of(), FakeGateway(model("a:latest"))
    inner.play(started(), finished())
    inner.play(NoWorker("no"))
    counted = Counted(harness, inner)
    await counted.generate()
    with pytest.raises(NoWorker):
        await counted.generate()
    assert (counted.ended("ok"), counted.ended("NO_WORKER"), counted.in_flight) == (0, 0, (0, 0))


async def test_a_model_is_unloaded_by_the_name_of_an_alias(harness_of) -> None:
    """The reply names the model; an unknown name is an error."""
    harness = harness_of()
    gateway = OnDemand(FakeGateway(model("a:latest")), OneModel(), harness.scheduler)
    await gateway.load("a", None)
    done = await gateway.unload_model("alias")
    assert (done.model, done.outcome) == ("a:latest", fleet_pb2.UNLOAD_OUTCOME_UNLOADED)
    assert harness.fleet.log == ["+a@0", "-a@0"]
    with pytest.raises(ModelNotFound):
        await gateway.unload_model("unknown")


async def test_an_alias_is_served_by_the_workers_of_its_model(harness_of) -> None:
    """The dispatcher gets the model's name; a model that is not installed here goes on as it is named."""
    harness, inner = harness_of(), FakeGateway(model("a:latest"))
    gateway = OnDemand(inner, OneModel(), harness.scheduler)
    for name in ("alias", "elsewhere"):
        inner.play(started(), finished())
        request = generation_pb2.GenerateRequest(model=name, prompt="hi")
        assert [event async for event in gateway.generate(request, Call("me"))]
    assert [request.model for request in inner.requests] == ["a:latest", "elsewhere"]
    assert harness.fleet.log == ["+a@0"]
