"""Two models and too few places: how often the loading policy changes its mind when the load alternates.

The policy is the balancer's own, tasks and timers included, in made-up time. It flaps when a model
leaves a place soon after it came, only to come back; so what counts is how long stays last and how
many loads there are, beside what clients wait.
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
    """When the clients of a model ask."""

    clients: int
    """How many there are."""
    period_seconds: float = math.inf
    """How often it begins anew."""
    busy_seconds: float = math.inf
    """How long they ask in each period..."""
    offset_seconds: float = 0.0
    """...beginning so long after its start."""

    def idle_seconds(self, now: float) -> float:
        """Tells how long from now on nobody asks; 0 while they do."""
        if math.isinf(self.period_seconds):
            return 0.0
        place = (now - self.offset_seconds) % self.period_seconds
        return 0.0 if place < self.busy_seconds else self.period_seconds - place


@dataclass(frozen=True, slots=True)
class Scenario:
    """A machine and what is asked of it."""

    title: str
    """What it shows."""
    places: int
    """Workers that the machine has room for."""
    habits: tuple[LoadPattern, ...]
    """One for each model."""
    seconds: float = 600.0
    """How long it is watched."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple("ABCDEFGH"[: len(self.habits)])


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """What came of a scene."""

    scene: Scenario
    stays: tuple[Residency, ...]
    """Every load, in order."""
    waits_seconds: dict[str, list[float]]
    """From each request to its first token, by model."""

    @property
    def shortest_stay_seconds(self) -> float:
        """How long the model served that had to leave its place soonest; infinite when none had to."""
        served = [stay.ended - (stay.ready or stay.ended) for stay in self.stays if stay.ended is not None]
        return min(served, default=math.inf)


def _turns(places: int, seconds: float, clients: int = 6) -> tuple[LoadPattern, ...]:
    return tuple(LoadPattern(clients, 2 * seconds, seconds, offset) for offset in (0.0, seconds))


SCENARIOS = (
    Scenario("one place, turns of two minutes", 1, _turns(1, 120.0)),
    Scenario("one place, both models all the time", 1, (LoadPattern(6), LoadPattern(6))),
    Scenario("one place, turns of a minute", 1, _turns(1, 60.0)),
    Scenario("one place, turns of twenty seconds", 1, _turns(1, 20.0)),
    Scenario("one place, turns of five seconds", 1, _turns(1, 5.0)),
    Scenario("one place, one client each, turns of twenty seconds", 1, _turns(1, 20.0, clients=1)),
    Scenario("one place, one client each, turns of five seconds", 1, _turns(1, 5.0, clients=1)),
    Scenario("two places, turns of five seconds", 2, _turns(2, 5.0)),
    Scenario("three places, turns of a minute", 3, _turns(3, 60.0)),
    Scenario("four places, both models all the time", 4, (LoadPattern(12), LoadPattern(12))),
    Scenario("two places, three models all the time", 2, (LoadPattern(6), LoadPattern(6), LoadPattern(6))),
)
"""From what needs a change of models at every turn to what needs none after the first minute."""


def play(scene: Scenario, settings: SchedulerSettings | None = None, seed: int = 0) -> ScenarioResult:
    """Plays a scene in made-up time."""
    return virtual_time.run(_Play(scene, settings or SchedulerSettings(), Random(seed)).run())


class _Play:
    """One run."""

    def __init__(self, scene: Scenario, settings: SchedulerSettings, rng: Random) -> None:
        self._scene = scene
        self._settings = settings
        self._rng = rng
        self._waits: dict[str, list[float]] = {model: [] for model in scene.models}

    async def run(self) -> ScenarioResult:
        fleet = SimulatedFleet()
        slots = [Slot(index, "cpu", {}) for index in range(self._scene.places)]
        replicas = Replicas(fleet, slots, lambda slot, model: WorkerSpec(slot.index, model))
        machine = Machine(replicas, fleet, fleet, self._settings, lambda: 0)
        scheduler = ModelScheduler(machine, GpuMemory(fleet, None), lambda key, seconds: None)
        clients = [
            asyncio.create_task(self._client(fleet, scheduler, model, habit))
            for model, habit in zip(self._scene.models, self._scene.habits, strict=True)
            for _ in range(habit.clients)
        ]
        try:
            await asyncio.sleep(self._scene.seconds)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            await scheduler.close()
        return ScenarioResult(self._scene, tuple(fleet.stays), self._waits)

    async def _client(self, fleet: SimulatedFleet, scheduler: ModelScheduler, model: str, habit: LoadPattern) -> None:
        hosted, clock = HostedModel(model, (model,)), asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(habit.idle_seconds(clock()) + self._rng.expovariate(1 / PAUSE_SECONDS))
            if habit.idle_seconds(clock()):
                continue
            asked = clock()
            async with scheduler.in_use(model, hosted):
                began = await fleet.serve(model, self._rng.expovariate(1 / ANSWER_SECONDS))
            self._waits[model].append(began - asked)


def table(histories: Sequence[ScenarioResult]) -> Table:
    """Makes one row for each scene."""
    return Table(
        "Two models and alternating load",
        f"The balancer's own loading policy in made-up time; a load takes {LOAD_SECONDS:.0f} s. A stay is the time "
        "that a model served at a place before it had to leave.",
        ("scene", "loads in ten minutes", "shortest stay", "answers", "median wait", "p99 wait", "longest wait"),
        tuple(_row(history) for history in histories),
    )


def _row(history: ScenarioResult) -> tuple[str, ...]:
    waits = sorted(wait for waits in history.waits_seconds.values() for wait in waits)
    shortest = history.shortest_stay_seconds
    loads = ", ".join(f"{model} {sum(stay.model == model for stay in history.stays)}" for model in history.scene.models)
    return (
        history.scene.title,
        loads,
        "none left" if math.isinf(shortest) else f"{shortest:.0f} s",
        " + ".join(str(len(history.waits_seconds[model])) for model in history.scene.models),
        *(f"{percentile(waits, share):.1f} s" for share in (0.5, 0.99, 1.0)),
    )


def chart(history: ScenarioResult) -> str:
    """Draws who was where; pale while the model was being loaded."""
    scene, spans = history.scene, []
    for stay in history.stays:
        if stay.began >= scene.seconds:
            continue
        end = min(stay.ended or scene.seconds, scene.seconds)
        ready = min(stay.ready or end, end)
        kind = scene.models.index(stay.model)
        spans.append(Span(stay.place, kind, min(stay.began, end), ready, is_faint=True))
        spans.append(Span(stay.place, kind, ready, end))
    places = [f"place {place}" for place in range(scene.places)]
    return timeline(scene.title, places, scene.models, spans, scene.seconds)
