"""The gateway that loads a model before it passes a request on."""

from __future__ import annotations

import asyncio

from vllama_balancer.fake_gateway import FakeGateway, finished, model, started
from vllama_balancer.fleet.assignment import HostedModel
from vllama_balancer.gateway import Call
from vllama_balancer.loading.on_demand import OnDemand
from vllama_protos.v1 import generation_pb2


class OneModel:
    """Knows one model, as the catalog does."""

    def find(self, name: str):
        """Finds it."""
        return model("a:latest") if name == "a" else None

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


async def test_the_time_of_a_load_is_told_and_no_other(loading_of) -> None:
    """The first request learns how long the model took; the second one, which found it loaded, learns of none."""
    loading, clock = loading_of(), Clock()
    loading.machine.slow.add("a")
    inner = FakeGateway(model("a:latest"))
    for _ in range(2):
        inner.play(started(), finished())
    gateway = OnDemand(inner, OneModel(), loading.residents, clock)
    first = asyncio.create_task(told_load_seconds(gateway))
    await loading.logged("+a@0")
    clock.now = 4.5
    loading.machine.finish("a")
    assert await first == 4.5
    assert await told_load_seconds(gateway) == 0.002, "what the worker said stays"
