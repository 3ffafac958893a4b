"""The gateway that loads a model before it passes a request on."""

from __future__ import annotations

import asyncio

import pytest

from vllama_balancer.errors import DeadlineExceeded, QueueFull
from vllama_balancer.fake_gateway import FakeGateway, finished, model, started
from vllama_balancer.fleet.assignment import HostedModel
from vllama_balancer.gateway import Call
from vllama_balancer.names import model_key
from vllama_balancer.scheduler.on_demand import OnDemand
from vllama_protos.v1 import generation_pb2


class OneModel:
    """Knows one model, as the catalog does."""

    def find(self, name: str):
        """Finds it."""
        return model("a:latest") if name == "a" else None

    def expects(self, name: str) -> bool:
        """Another one is on its way for ever."""
        return name == "late"

    def hosted(self, name: str) -> HostedModel | None:
        """Hosts it."""
        return HostedModel("a", ("a:latest",)) if name.startswith("a") else None


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The present."""
        return self.now


async def told_load_seconds(gateway: OnDemand) -> float:
    """Generates and returns how long the load took, as the last event tells."""
    request = generation_pb2.GenerateRequest(model="a", prompt="hi")
    events = [event async for event in gateway.generate(request, Call("me"))]
    return events[-1].finished.timings.load.ToTimedelta().total_seconds()


async def test_the_time_of_a_load_is_told_and_no_other(harness_of) -> None:
    """The first request learns how long the model took; the second one, which found it loaded, learns of none."""
    harness, clock = harness_of(), Clock()
    harness.fleet.slow.add("a")
    inner = FakeGateway(model("a:latest"))
    for _ in range(2):
        inner.play(started(), finished())
    gateway = OnDemand(inner, OneModel(), harness.scheduler, clock)
    first = asyncio.create_task(told_load_seconds(gateway))
    await harness.logged("+a@0")
    clock.now = 4.5
    harness.fleet.finish("a")
    assert await first == 4.5
    assert await told_load_seconds(gateway) == 0.002, "what the worker said stays"


class NeverInstalled(FakeGateway):
    """A gateway whose catalog waits for a model for ever."""

    async def search(self, name: str, deadline: float | None = None):
        """Waits."""
        await asyncio.Event().wait()


async def test_waiting_for_a_model_that_is_being_installed_ends_at_the_deadline(harness_of) -> None:
    """It is as good as waiting for one that loads: in time by the deadline."""
    gateway = OnDemand(NeverInstalled(), OneModel(), harness_of().scheduler)
    request = generation_pb2.GenerateRequest(model="late", prompt="hi")
    with pytest.raises(DeadlineExceeded):
        await anext(gateway.generate(request, Call("me", asyncio.get_running_loop().time() + 0.01)))


async def test_those_who_wait_for_a_model_that_is_being_installed_are_bounded(harness_of) -> None:
    """And in number by the queue's length."""
    gateway = OnDemand(NeverInstalled(), OneModel(), harness_of(max_waiting=1).scheduler)
    waiting = asyncio.create_task(gateway.search("late"))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await gateway.search("late")
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_room_is_expected_of_models_that_are_loaded_only(harness_of) -> None:
    """The others are loaded first, and their requests wait for that in a queue of their own."""
    harness = harness_of()
    inner = FakeGateway(model("a:latest"))
    inner.full = QueueFull("nobody fits in")
    gateway = OnDemand(inner, OneModel(), harness.scheduler)
    gateway.expect_room("a")
    async with harness.scheduler.in_use(model_key("a"), HostedModel("a", ("a:latest",))):
        with pytest.raises(QueueFull):
            gateway.expect_room("a")
