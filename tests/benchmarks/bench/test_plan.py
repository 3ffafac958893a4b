"""The order of the measurement, the closed loop, and what is summed up of it."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from itertools import repeat
from typing import TYPE_CHECKING

import pytest

from vllama_benchmarks.bench.cell import Cell, measure, percentile
from vllama_benchmarks.bench.plan import Plan, run
from vllama_benchmarks.bench.sample import Request, Sample
from vllama_benchmarks.bench.summary import lines, ratios
from vllama_benchmarks.bench.watch import Watch
from vllama_benchmarks.bench.workload import Fixed, Workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

REQUEST = Request("hi", 5)


class FakeTarget:
    """Answers after one turn of the event loop; records requests and their number at once."""

    def __init__(self, sample: Sample | None = None) -> None:
        self.sample = sample or Sample(1.0, 0.5, 5, 3)
        self.requests: list[Request] = []
        self.under_way = 0
        self.most_under_way = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[FakeTarget]:
        """Yields itself."""
        yield self

    async def run(self, request: Request) -> Sample:
        """Answers with the sample."""
        self.requests.append(request)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return self.sample


class HangingTarget(FakeTarget):
    """Never answers."""

    async def run(self, request: Request) -> Sample:
        """Waits until it is cancelled."""
        await asyncio.Event().wait()
        return self.sample


async def test_a_closed_loop() -> None:
    """Exactly the given number of requests, never more at once than the given concurrency."""
    target = FakeTarget()
    samples, _ = await measure(target, repeat(REQUEST), 20, 4, timeout_seconds=10)
    assert len(samples) == len(target.requests) == 20
    assert target.most_under_way == 4


async def test_a_request_that_never_ends() -> None:
    """The time-out makes it a broken sample."""
    samples, _ = await measure(HangingTarget(), repeat(REQUEST), 2, 2, timeout_seconds=0.05)
    assert all("no end within" in sample.error for sample in samples)


def begins(log: list[tuple[str, int, int]]) -> Callable[[str, int, int, int], Callable[[Sample], None]]:
    """Keeps what begins."""

    def begin(name: str, concurrency: int, turn: int, _: int) -> Callable[[Sample], None]:
        log.append((name, concurrency, turn))
        return lambda _: None

    return begin


async def test_targets_take_turns() -> None:
    """After the warm-up of all, each repeat measures every target once: A B A B."""
    log: list[tuple[str, int, int]] = []
    plan = Plan({"a": FakeTarget(), "b": FakeTarget()}, Workload(Fixed(1), Fixed(1)), (1, 2), requests=3, repeats=2)
    cells = [cell async for cell in run(plan, {}, begins(log))]
    assert log[:2] == [("a", 2, -1), ("b", 2, -1)]
    order = [(name, streams, turn) for streams in (1, 2) for turn in (0, 1) for name in ("a", "b")]
    assert log[2:] == order
    assert [(cell.target, cell.concurrency, cell.repeat) for cell in cells] == order


async def test_targets_get_the_same_lengths() -> None:
    """In one turn both targets get the same requests, but for the names."""
    first, second = FakeTarget(), FakeTarget()
    plan = Plan({"a": first, "b": second}, Workload(Fixed(3), Fixed(4)), (1,), requests=3, repeats=1, warm_up=0)
    _ = [cell async for cell in run(plan, {}, begins([]))]
    assert [r.prompt.split()[1:] for r in first.requests] == [r.prompt.split()[1:] for r in second.requests]
    assert not {r.prompt for r in first.requests} & {r.prompt for r in second.requests}


async def test_targets_take_turns_with_every_request() -> None:
    """Each round calls every target once, another one first each time, and the cells keep the order of the rounds."""
    called: list[str] = []

    class Noting(FakeTarget):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def run(self, request: Request) -> Sample:
            called.append(self.name)
            return await super().run(request)

    plan = Plan(
        {name: Noting(name) for name in "abc"},
        Workload(Fixed(1), Fixed(1)),
        (1,),
        requests=4,
        repeats=1,
        warm_up=0,
        is_interleaved=True,
    )
    watches = {"b": Watch(os.getpid())}
    cells = [cell async for cell in run(plan, watches, begins([]))]
    assert "".join(called) == "abcbcacababc"
    assert [(cell.target, len(cell.samples), cell.seconds) for cell in cells] == [("a", 4, 4), ("b", 4, 4), ("c", 4, 4)]
    assert [cell.cpu_seconds is not None for cell in cells] == [False, True, False]


async def test_a_watched_process_is_charged() -> None:
    """A cell has its CPU time per token."""
    target = FakeTarget()
    plan = Plan({"a": target}, Workload(Fixed(1), Fixed(1)), (1,), requests=200, repeats=1, warm_up=0)
    (cell,) = [cell async for cell in run(plan, {"a": Watch(os.getpid())}, begins([]))]
    assert cell.cpu_seconds is not None
    assert cell.resident_bytes
    assert cell.cpu_microseconds_per_token == pytest.approx(cell.cpu_seconds * 1e6 / 1000)


def test_a_process_that_is_not_there() -> None:
    """A process that does not run cannot be watched."""
    with pytest.raises(ValueError, match="no process"):
        Watch(2**22 + 1)


def test_requests_follow_the_concurrency() -> None:
    """Every stream has so many requests, a single one those of two, unless their number is given."""
    workload = Workload(Fixed(1), Fixed(1))
    assert [Plan({}, workload).requests_at(streams) for streams in (1, 5, 50)] == [6, 15, 150]
    assert [Plan({}, workload, requests_each=1).requests_at(streams) for streams in (1, 50)] == [2, 50]
    assert [Plan({}, workload, requests=7).requests_at(streams) for streams in (1, 50)] == [7, 7]


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (50, 2.5), (90, 3.7), (100, 4.0)])
def test_percentile(percent: float, value: float) -> None:
    """Between two ranks the value is interpolated."""
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(value)


def test_percentile_of_nothing() -> None:
    """There is none."""
    assert percentile([], 50) is None


def cell(target: str, turn: int, seconds: float, *samples: Sample) -> Cell:
    """Builds a cell at one stream."""
    return Cell(target, 1, turn, seconds, samples)


def test_broken_requests_count_as_errors_only() -> None:
    """A broken request gives no tokens and no times."""
    one = cell("a", 0, 2.0, Sample(1.0, 0.2, 9), Sample(0.1, None, error="busy"))
    assert (one.errors, one.tokens_per_second, one.requests_per_second) == (1, 4.5, 0.5)
    assert one.values("seconds") == [1.0]


def test_lines_take_medians_of_the_turns() -> None:
    """One slow turn does not spoil the rate; percentiles are over all requests."""
    cells = [cell("a", turn, seconds, Sample(1.0, 0.5, 10, 4)) for turn, seconds in enumerate((1.0, 2.0, 10.0))]
    (line,) = lines(cells)
    assert (line.tokens_per_second, line.requests_per_second, line.requests) == (5.0, 0.5, 3)
    assert line.percentiles["ttft"] == {50: 0.5, 90: 0.5, 99: 0.5}
    assert (line.mean_prompt_tokens, line.mean_output_tokens) == (4, 10)


def test_ratios_pair_the_turns() -> None:
    """Each turn is compared with the same turn of the first target."""
    cells = [
        cell("a", 0, 1.0, Sample(1.0, 0.1, 10)),
        cell("b", 0, 2.0, Sample(1.0, 0.3, 10)),
        cell("a", 1, 4.0, Sample(1.0, 0.1, 10)),
        cell("b", 1, 4.0, Sample(1.0, 0.1, 10)),
    ]
    (ratio,) = ratios(cells)
    assert (ratio.target, ratio.base, ratio.concurrency) == ("b", "a", 1)
    assert list(ratio.throughput) == [0.5, 1.0]
    assert list(ratio.ttft) == pytest.approx([0.2, 0.0])
    assert ratio.median_throughput == 0.75


def test_alternating_requests_are_compared_one_by_one() -> None:
    """A ratio holds the median of the differences, not the difference of the medians; a broken request has none."""
    ours = [Sample(1.0, first, 10) for first in (0.3, 0.5, 0.9, 9.0)]
    theirs = [Sample(1.0, first, 10, error=error) for first, error in ((0.2, ""), (0.3, ""), (0.1, ""), (0.1, "busy"))]
    (ratio,) = ratios(
        [Cell("a", 1, 0, 4.0, theirs, is_interleaved=True), Cell("b", 1, 0, 4.0, ours, is_interleaved=True)]
    )
    assert list(ratio.ttft) == pytest.approx([0.2])


def test_a_target_that_only_failed_has_no_ratio() -> None:
    """Nothing is divided by nothing."""
    broken = Sample(1.0, error="busy")
    (ratio,) = ratios([cell("a", 0, 1.0, broken), cell("b", 0, 1.0, Sample(1.0, 0.1, 10))])
    assert (list(ratio.throughput), list(ratio.ttft), ratio.median_throughput) == ([], [], None)


def test_ratios_to_another_base_beside_the_first() -> None:
    """Each target is compared with both bases, and the bases with each other once."""
    cells = [cell(name, 0, seconds, Sample(1.0, 0.1, 10)) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    found = {(ratio.target, ratio.base): ratio.median_throughput for ratio in ratios(cells, ["c", "unknown"])}
    assert found == {("b", "a"): 0.5, ("c", "a"): 0.25, ("b", "c"): 2.0}
