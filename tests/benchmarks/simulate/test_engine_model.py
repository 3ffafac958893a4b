"""The engine of the simulator is the step model of the fake engine, only run ahead."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllama_benchmarks import simulate
from vllama_benchmarks.simulate.engine_model import IDLE, EngineEventKind, EngineModel
from vllama_benchmarks.simulate.workload import Request, Segment, Turn
from vllama_server.fake_engine.simulation_profile import SimulationProfile
from vllama_server.fake_engine.steps import StepModel, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

Event = tuple[str, int, float]


def requests(seed: int) -> list[Request]:
    """Writes requests that arrive at random, some of them in the middle of others' decoding."""
    rng = random.Random(seed)
    now, made = 0.0, []
    for number in range(80):
        # Never in the same moment: the first of two would find the engine idle and begin a step alone.
        now += 1e-6 + rng.choice((0.0, 0.001, 0.03, 0.2, 1.5)) * rng.random()
        shared = Segment(rng.randrange(3) + 1, rng.choice((16, 400, 5000)))
        turn = Turn((shared, Segment(100 + number, rng.randrange(1, 300))), rng.choice((1, 2, 40, 200)))
        made.append(Request(turn, "", now))
    return made


def events_of_the_step_model(todo: list[Request], speed: float) -> list[Event]:
    """Drives the step model itself, one step after the other."""
    model, now, events = StepModel(SimulationProfile(speed=speed)), 0.0, []
    pending, numbers = list(enumerate(todo)), {}

    def submit(until: float) -> None:
        while pending and pending[0][1].asked_seconds <= until:
            number, request = pending.pop(0)
            stream = Stream(request.turn.prompt_tokens, request.turn.blocks, request.turn.output_tokens)
            numbers[stream] = number
            model.submit(stream)

    while pending or model.running or model.waiting:
        submit(now)
        step = model.begin()
        if step is None:
            now = pending[0][1].asked_seconds
            continue
        end = now + step.seconds
        # What arrives during a step joins the next one.
        submit(end - 1e-12)
        for stream in model.finish(step):
            if stream.produced_tokens == 1:
                events.append(("first token", numbers[stream], end))
            if stream.finished:
                events.append(("ended", numbers[stream], end))
        now = end
    return sorted(events)


def events_of_the_engine_model(todo: list[Request], speed: float) -> list[Event]:
    """Drives the simulator's engine from event to event."""
    engine, events, pending = EngineModel(speed), [], list(todo)
    while pending or engine.next_seconds != IDLE:
        if pending and pending[0].asked_seconds < engine.next_seconds:
            request = pending.pop(0)
            engine.submit(request.asked_seconds, request)
            continue
        now = engine.next_seconds
        reported = [event for event in engine.advance(now) if event.kind is not EngineEventKind.STARTED]
        events.extend((event.kind.value, todo.index(event.request), now) for event in reported)
    return sorted(events)


@pytest.mark.parametrize("speed", [1.0, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_running_ahead_changes_nothing(seed: int, speed: float) -> None:
    """Every first token and every end comes exactly when step by step it would."""
    todo = requests(seed)
    ahead, stepwise = events_of_the_engine_model(todo, speed), events_of_the_step_model(todo, speed)
    assert [event[:2] for event in ahead] == [event[:2] for event in stepwise]
    # Adding a step's time n times and multiplying it by n differ by rounding only.
    assert [event[2] for event in ahead] == pytest.approx([event[2] for event in stepwise], abs=1e-9)


def test_a_death_tells_what_had_been_delivered(ask: Callable[..., Request]) -> None:
    """A killed engine names the tokens that are to be resumed after, and forgets everything."""
    engine, request = EngineModel(), ask((1, 16), output_tokens=100)
    engine.submit(0.0, request)
    engine.advance(engine.next_seconds)
    first = engine.next_seconds - 99 * 0.0102
    # Forty further steps of 10 ms and 0.2 ms for the one stream, and half of the next.
    assert engine.kill(first + 40.5 * 0.0102) == {request: 41}
    assert engine.next_seconds == IDLE
    assert engine.load(10.0).running == 0


def test_a_report_counts_the_steps_that_are_over(ask: Callable[..., Request]) -> None:
    """Reports between two events show the present cache, not that of the last event."""
    engine, request = EngineModel(), ask((1, 160), output_tokens=1000)
    engine.submit(0.0, request)
    engine.advance(engine.next_seconds)
    early = engine.load(0.1).kv_cache_use
    assert engine.load(9.0).kv_cache_use > 4 * early


def test_the_oracle_sees_cache_and_remaining_length(ask: Callable[..., Request]) -> None:
    """Its inputs are the engine's own state."""
    engine, request = EngineModel(), ask((1, 160), (2, 40), output_tokens=50)
    engine.submit(0.0, request)
    engine.advance(engine.next_seconds)
    assert engine.remaining_outputs(0.1) == [50 - 1 - 7]  # 80 ms after the first token at 20 ms
    assert engine.cached_tokens(ask((1, 160), (3, 40)).turn) == 160
    assert engine.cached_tokens(ask((4, 160)).turn) == 0


def test_only_the_engine_model_knows_the_server() -> None:
    """The exception to the rule that the balancer does not import the server stays in one module, and pure."""
    package = Path(simulate.__file__).parent
    imports = [
        (path.name, line.split()[1])
        for path in package.glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(("from vllama_server", "import vllama_server"))
    ]
    assert {name for name, _ in imports} == {"engine_model.py"}
    assert {module for _, module in imports} == {
        f"vllama_server.fake_engine.{n}" for n in ("simulation_profile", "rates", "steps")
    }
