"""Two models and too few slots: how often the model scheduler switches models when the load alternates.

The scheduler is the balancer's own, tasks and timers included, in virtual time. It flaps if a model is unloaded soon
after its load, only to be loaded again. So the measures are the length of residencies, the number of loads, and the
waits of clients.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from vllama_balancer.fleet.assignment import HostedModel, Slot, WorkerSpec
from vllama_balancer.scheduler.machine import Machine
from vllama_balancer.scheduler.memory import GpuMemory
from vllama_balancer.scheduler.replicas import Replicas
from vllama_balancer.scheduler.scheduler import ModelScheduler
from vllama_balancer.scheduler.settings import SchedulerSettings
from vllama_benchmarks.simulate import virtual_time
from vllama_benchmarks.simulate.charts import Span, timeline
from vllama_benchmarks.simulate.outcome import percentile
from vllama_benchmarks.simulate.simulated_fleet import LOAD_SECONDS, Residency, SimulatedFleet
from vllama_benchmarks.simulate.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWER_SECONDS = 2.0
"""Mean time of a generation."""
PAUSE_SECONDS = 1.0
"""Mean time from an answer to the client's next request."""


@dataclass(frozen=True, slots=True)
class LoadPattern:
    """When the clients of a model send requests."""

    clients: int
    """Number of clients."""
    period_seconds: float = math.inf
    """Length of one cycle of the pattern."""
    busy_seconds: float = math.inf
    """How long the clients send in each period..."""
    offset_seconds: float = 0.0
    """...beginning so long after its start."""

    def idle_seconds(self, now: float) -> float:
        """Returns the seconds until the clients send again; 0 while they do."""
        if math.isinf(self.period_seconds):
            return 0.0
        phase = (now - self.offset_seconds) % self.period_seconds
        return 0.0 if phase < self.busy_seconds else self.period_seconds - phase


@dataclass(frozen=True, slots=True)
class Scenario:
    """A machine and the load on it."""

    title: str
    """What it shows."""
    slots: int
    """Workers that the machine has room for."""
    patterns: tuple[LoadPattern, ...]
    """One for each model."""
    seconds: float = 600.0
    """How long it is watched."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple("ABCDEFGH"[: len(self.patterns)])


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """The result of one scenario."""

    scenario: Scenario
    residencies: tuple[Residency, ...]
    """Every load, in order."""
    waits_seconds: dict[str, list[float]]
    """From each request to its first token, by model."""

    @property
    def shortest_residency_seconds(self) -> float:
        """The shortest time that an unloaded model served; infinite if none was unloaded."""
        served = [
            residency.ended - (residency.ready or residency.ended)
            for residency in self.residencies
            if residency.ended is not None
        ]
        return min(served, default=math.inf)


def _turns(seconds: float, clients: int = 6) -> tuple[LoadPattern, ...]:
    return tuple(LoadPattern(clients, 2 * seconds, seconds, offset) for offset in (0.0, seconds))


SCENARIOS = (
    Scenario("one place, turns of two minutes", 1, _turns(120.0)),
    Scenario("one place, both models all the time", 1, (LoadPattern(6), LoadPattern(6))),
    Scenario("one place, turns of a minute", 1, _turns(60.0)),
    Scenario("one place, turns of twenty seconds", 1, _turns(20.0)),
    Scenario("one place, turns of five seconds", 1, _turns(5.0)),
    Scenario("one place, one client each, turns of twenty seconds", 1, _turns(20.0, clients=1)),
    Scenario("one place, one client each, turns of five seconds", 1, _turns(5.0, clients=1)),
    Scenario("two places, turns of five seconds", 2, _turns(5.0)),
    Scenario("three places, turns of a minute", 3, _turns(60.0)),
    Scenario("four places, both models all the time", 4, (LoadPattern(12), LoadPattern(12))),
    Scenario("two places, three models all the time", 2, (LoadPattern(6), LoadPattern(6), LoadPattern(6))),
)
"""From one that needs a switch of models at every turn to one that needs none after the first minute."""


def play(scenario: Scenario, settings: SchedulerSettings | None = None, seed: int = 0) -> ScenarioResult:
    """Runs a scenario in virtual time."""
    return virtual_time.run(_Run(scenario, settings or SchedulerSettings(), Random(seed)).run())


class _Run:
    def __init__(self, scenario: Scenario, settings: SchedulerSettings, rng: Random) -> None:
        self._scenario = scenario
        self._settings = settings
        self._rng = rng
        self._waits: dict[str, list[float]] = {model: [] for model in scenario.models}

    async def run(self) -> ScenarioResult:
        fleet = SimulatedFleet()
        slots = [Slot(index, "cpu", {}) for index in range(self._scenario.slots)]
        replicas = Replicas(fleet, slots, lambda slot, model: WorkerSpec(slot.index, model))
        machine = Machine(replicas, fleet, fleet, self._settings, lambda: 0)
        scheduler = ModelScheduler(machine, GpuMemory(fleet, None), lambda key, seconds: None)
        clients = [
            asyncio.create_task(self._client(fleet, scheduler, model, pattern))
            for model, pattern in zip(self._scenario.models, self._scenario.patterns, strict=True)
            for _ in range(pattern.clients)
        ]
        try:
            await asyncio.sleep(self._scenario.seconds)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            await scheduler.close()
        return ScenarioResult(self._scenario, tuple(fleet.residencies), self._waits)

    async def _client(self, fleet: SimulatedFleet, scheduler: ModelScheduler, model: str, pattern: LoadPattern) -> None:
        hosted, clock = HostedModel(model, (model,)), asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(pattern.idle_seconds(clock()) + self._rng.expovariate(1 / PAUSE_SECONDS))
            if pattern.idle_seconds(clock()):
                continue
            asked = clock()
            async with scheduler.in_use(model, hosted):
                began = await fleet.serve(model, self._rng.expovariate(1 / ANSWER_SECONDS))
            self._waits[model].append(began - asked)


def table(results: Sequence[ScenarioResult]) -> Table:
    """Returns one row for each scenario."""
    return Table(
        "Two models and alternating load",
        f"The balancer's own loading policy in made-up time; a load takes {LOAD_SECONDS:.0f} s. A stay is the time "
        "that a model served at a place before it had to leave.",
        ("scene", "loads in ten minutes", "shortest stay", "answers", "median wait", "p99 wait", "longest wait"),
        tuple(_row(result) for result in results),
    )


def _row(result: ScenarioResult) -> tuple[str, ...]:
    waits = sorted(wait for waits in result.waits_seconds.values() for wait in waits)
    shortest = result.shortest_residency_seconds
    loads = ", ".join(
        f"{model} {sum(residency.model == model for residency in result.residencies)}"
        for model in result.scenario.models
    )
    return (
        result.scenario.title,
        loads,
        "none left" if math.isinf(shortest) else f"{shortest:.0f} s",
        " + ".join(str(len(result.waits_seconds[model])) for model in result.scenario.models),
        *(f"{percentile(waits, share):.1f} s" for share in (0.5, 0.99, 1.0)),
    )


def chart(result: ScenarioResult) -> str:
    """Draws the model in each slot over time; pale while it was being loaded."""
    scenario, spans = result.scenario, []
    for residency in result.residencies:
        if residency.began >= scenario.seconds:
            continue
        end = min(residency.ended or scenario.seconds, scenario.seconds)
        ready = min(residency.ready or end, end)
        kind = scenario.models.index(residency.model)
        spans.append(Span(residency.slot, kind, min(residency.began, end), ready, is_faint=True))
        spans.append(Span(residency.slot, kind, ready, end))
    places = [f"place {place}" for place in range(scenario.slots)]
    return timeline(scenario.title, places, scenario.models, spans, scenario.seconds)
