"""The placement rules of other routers, as published, for comparison.

Each keeps the state that its own router keeps: exact counts of its streams where the router counts, reports where it
reads them. Ties are broken at random where the rule leaves them open: breaking them by index is a known flaw and would
make the comparison too easy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_benchmarks.simulate.engine_model import LoadReport
    from vllama_benchmarks.simulate.placement import PlacementContext
    from vllama_benchmarks.simulate.workload import Request


class Counting:
    """Base class: counts its streams on each worker; subclasses choose a worker."""

    def __init__(self, context: PlacementContext) -> None:
        self.rng = context.rng
        self.streams = [0] * context.workers

    def choose(self, request: Request, available: Sequence[int]) -> int:
        raise NotImplementedError

    def least(self, available: Sequence[int], load: Callable[[int], float]) -> int:
        """Picks the least loaded worker, a random one of several."""
        loads = [load(worker) for worker in available]
        best = min(loads)
        ties = [worker for worker, value in zip(available, loads, strict=True) if value == best]
        return ties[0] if len(ties) == 1 else self.rng.choice(ties)

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        worker = self.choose(request, available)
        self.streams[worker] += 1
        return worker

    def started(self, now: float, request: Request, cached_tokens: int) -> None:
        """Does nothing: the rule has no use for it."""

    def first_token(self, now: float, request: Request) -> None:
        """Does nothing: the rule has no use for it."""

    def ended(self, now: float, request: Request, output_tokens: int) -> None:
        self.streams[request.worker] -= 1

    def lost(self, now: float, request: Request) -> None:
        self.streams[request.worker] -= 1

    def report(self, now: float, worker: int, report: LoadReport) -> None:
        """Does nothing: the rule has no use for it."""

    def left(self, now: float, worker: int) -> None:
        """Does nothing: the rule has no use for it."""

    def joined(self, now: float, worker: int) -> None:
        """Does nothing: the rule has no use for it."""


class Random(Counting):
    """Any worker."""

    def choose(self, request: Request, available: Sequence[int]) -> int:
        return self.rng.choice(available)


class RoundRobin(Counting):
    """One worker after the other."""

    def __init__(self, context: PlacementContext) -> None:
        super().__init__(context)
        self._turn = self.rng.randrange(context.workers)

    def choose(self, request: Request, available: Sequence[int]) -> int:
        self._turn += 1
        return available[self._turn % len(available)]


class LeastRequest(Counting):
    """The fewest streams, by exact count."""

    def choose(self, request: Request, available: Sequence[int]) -> int:
        return self.least(available, self.streams.__getitem__)


class PowerOfTwo(Counting):
    """The less loaded of two random workers."""

    def choose(self, request: Request, available: Sequence[int]) -> int:
        pair = self.rng.sample(available, 2) if len(available) > 1 else available
        return self.least(pair, self.streams.__getitem__)


@dataclass(frozen=True, slots=True)
class CacheAwareRule:
    """Thresholds of the cache-aware rule; the defaults are the published ones."""

    match: float = 0.3
    """Share of the prompt that a worker must have cached to be preferred for it."""
    absolute: float = 64
    """Streams between the fullest and the emptiest worker that count as imbalance..."""
    relative: float = 1.5
    """...when the fullest has also this many times the streams of the emptiest."""


class CacheAware(Counting):
    """The rule of SGLang's and vLLM's routers: the best match, unless the fleet is out of balance.

    Out of balance or without a match above the threshold, the least counted worker takes the
    request. The tree of prefixes is kept exactly, by blocks; what an engine evicts stays in it, as
    in the routers, whose trees are bounded by memory and not by the engines' caches.
    """

    def __init__(self, context: PlacementContext, rule: CacheAwareRule) -> None:
        super().__init__(context)
        self._rule = rule
        self._seen: list[set[int]] = [set() for _ in range(context.workers)]

    def choose(self, request: Request, available: Sequence[int]) -> int:
        """Picks by match while the fleet is in balance, else by count."""
        counts = [self.streams[worker] for worker in available]
        most, fewest = max(counts), min(counts)
        rule = self._rule
        blocks = request.turn.blocks
        worker = -1
        if most - fewest <= rule.absolute or most <= rule.relative * fewest:
            worker = self._matching(blocks, available)
        if worker < 0:
            worker = self.least(available, self.streams.__getitem__)
        self._seen[worker].update(blocks)
        return worker

    def _matching(self, blocks: tuple[int, ...], available: Sequence[int]) -> int:
        """Returns the worker with the longest match above the threshold, the least counted of several; -1 for none."""
        matches = {worker: matched(blocks, self._seen[worker]) for worker in available}
        longest = max(matches.values())
        if not blocks or longest <= self._rule.match * len(blocks):
            return -1
        return self.least([w for w in available if matches[w] == longest], self.streams.__getitem__)

    def joined(self, now: float, worker: int) -> None:
        self._seen[worker].clear()


def matched(blocks: Sequence[int], cached: set[int]) -> int:
    """Returns how many leading blocks are cached, by bisection: the predecessors of a cached block are cached too."""
    low, high = 0, len(blocks)
    while low < high:
        middle = (low + high + 1) // 2
        if blocks[middle - 1] in cached:
            low = middle
        else:
            high = middle - 1
    return low


class DataParallelScore(Counting):
    """vLLM's score for data-parallel engines: own streams or the last report, and a penalty for full caches.

    As in vLLM, each pick adds one waiting request to the worker's last report, and the scan starts one engine further
    each time.
    """

    def __init__(self, context: PlacementContext) -> None:
        super().__init__(context)
        self._waiting = [0] * context.workers
        self._running = [0] * context.workers
        self._kv_use = [0.0] * context.workers
        self._start = 0

    def choose(self, request: Request, available: Sequence[int]) -> int:
        """Picks the lowest score; ties go to the first after a rotating start."""
        self._start += 1
        turned = [available[(self._start + i) % len(available)] for i in range(len(available))]
        worker = min(turned, key=self._score)
        self._waiting[worker] += 1
        return worker

    def _score(self, worker: int) -> float:
        waiting = self._waiting[worker]
        score = max(self.streams[worker], waiting + self._running[worker])
        return score + waiting * 6.0 * max(0.0, self._kv_use[worker] - 0.5)

    def report(self, now: float, worker: int, report: LoadReport) -> None:
        self._waiting[worker] = report.waiting
        self._running[worker] = report.running
        self._kv_use[worker] = report.kv_cache_use
