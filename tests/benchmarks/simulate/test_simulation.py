from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from vllama_benchmarks.simulate.baselines import LeastRequest, Random, RoundRobin
from vllama_benchmarks.simulate.simulation import BURST_PAUSE_SECONDS, Simulation
from vllama_benchmarks.simulate.workload import Restart, Segment, Session, Turn, Workload
from vllama_benchmarks.simulate.workloads import WORKLOADS, generate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.simulate.placement import PlacementContext
    from vllama_benchmarks.simulate.workload import Request


class Recorder(LeastRequest):
    """Least request that records its notifications."""

    def __init__(self, context: PlacementContext) -> None:
        super().__init__(context)
        self.calls: Counter[str] = Counter()
        self.output_tokens = 0
        self.placed_seconds: list[float] = []
        self.used: Counter[int] = Counter()

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        """Writes down when and where."""
        worker = super().place(now, request, available)
        self.calls["place"] += 1
        self.placed_seconds.append(now)
        self.used[worker] += 1
        return worker

    def first_token(self, now: float, request: Request) -> None:
        """Writes it down."""
        self.calls["first_token"] += 1

    def ended(self, now: float, request: Request, output_tokens: int) -> None:
        """Writes down how much came."""
        super().ended(now, request, output_tokens)
        self.calls["ended"] += 1
        self.output_tokens += request.delivered_tokens + output_tokens

    def lost(self, now: float, request: Request) -> None:
        """Writes it down."""
        super().lost(now, request)
        self.calls["lost"] += 1


def record(workload: Workload, workers: int, concurrency: int) -> tuple[Recorder, Simulation]:
    """Prepares a run whose placement records its notifications."""
    made: list[Recorder] = []

    def build(context: PlacementContext) -> Recorder:
        made.append(Recorder(context))
        return made[0]

    simulation = Simulation(workload, workers, concurrency, build, 0)
    return made[0], simulation


def singles(count: int, *, restart: Restart | None = None, burst: bool = False, output_tokens: int = 20) -> Workload:
    """Writes equal requests."""
    sessions = tuple(Session("", (Turn((Segment(i + 1, 100),), output_tokens),)) for i in range(count))
    return Workload("singles", sessions, burst=burst, restart=restart)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_request_is_answered_once_and_in_full(name: str) -> None:
    """Requests, tokens and counts all come out even, whatever happens on the way."""
    workload = generate(name, 1, 8)
    recorder, simulation = record(workload, 2, 8)
    outcome = simulation.run()
    turns = [turn for session in workload.sessions for turn in session.turns]
    assert len(outcome.ttft_seconds) == len(turns)
    assert min(outcome.ttft_seconds) > 0
    assert recorder.calls["ended"] == len(turns)
    assert recorder.calls["place"] == recorder.calls["ended"] + recorder.calls["lost"]
    assert recorder.output_tokens == sum(turn.output_tokens for turn in turns)
    assert recorder.streams == [0, 0]


@pytest.mark.parametrize("name", ["chats", "restart"])
def test_a_run_can_be_repeated(name: str) -> None:
    """Nothing depends on the machine or the hour."""
    one = Simulation(generate(name, 2, 8), 4, 8, Random, 7).run()
    two = Simulation(generate(name, 2, 8), 4, 8, Random, 7).run()
    assert one.ttft_seconds == two.ttft_seconds


def test_a_lone_request_takes_what_its_steps_take() -> None:
    """100 prompt tokens at 20000 per second beside a step of 10 ms; then 19 steps with one stream."""
    outcome = Simulation(singles(1), 1, 1, RoundRobin, 0).run()
    assert outcome.ttft_seconds == pytest.approx([0.010 + 100 / 20_000])
    assert outcome.tpot_seconds == pytest.approx([0.0102])


def test_turns_of_a_session_follow_each_other() -> None:
    """A client sends its next request only after the last answer."""
    turns = tuple(Turn((Segment(1, 100), Segment(2 + i, 20)), 30) for i in range(5))
    recorder, simulation = record(Workload("one chat", (Session("chat", turns),)), 4, 4)
    simulation.run()
    gaps = [b - a for a, b in zip(recorder.placed_seconds, recorder.placed_seconds[1:], strict=False)]
    # At least 30 steps of 10 ms for each answer.
    assert min(gaps) > 0.3


def test_bursts_come_at_once_and_wait_for_each_other() -> None:
    """All clients ask in the same moment, and again a pause after the last answer."""
    recorder, simulation = record(singles(20, burst=True), 2, 10)
    simulation.run()
    moments = Counter(recorder.placed_seconds)
    assert list(moments.values()) == [10, 10]
    first, second = sorted(moments)
    assert second - first > BURST_PAUSE_SECONDS


def test_requests_of_a_dead_worker_continue_elsewhere() -> None:
    """They are placed anew at once and resume after what they had: no token is lost or repeated."""
    workload = singles(8, restart=Restart(0, 1.2, 100.0), output_tokens=200)
    recorder, simulation = record(workload, 2, 8)
    outcome = simulation.run()
    assert recorder.calls["lost"] == 4
    assert recorder.output_tokens == 8 * 200
    assert outcome.makespan_seconds < 10


def test_without_any_worker_requests_wait() -> None:
    """The only worker is away for five seconds: what it had and what came meanwhile is served afterwards."""
    workload = singles(30, restart=Restart(0, 1.1, 5.0), output_tokens=100)
    recorder, simulation = record(workload, 1, 4)
    outcome = simulation.run()
    assert len(outcome.ttft_seconds) == 30
    assert not [moment for moment in recorder.placed_seconds if 1.1 < moment < 6.1]


def test_a_worker_that_comes_back_is_used_again() -> None:
    """After its return, least request gives it as much as the other."""
    recorder, simulation = record(singles(200, restart=Restart(0, 1.1, 0.5), output_tokens=50), 2, 4)
    simulation.run()
    # It misses half a second of about fourteen.
    assert recorder.used[0] > 70
