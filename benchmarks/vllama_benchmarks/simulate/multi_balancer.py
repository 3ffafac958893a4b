"""Several balancers over the same workers, without any exchange between them.

Each has its own pool, prefix index and exact counts, and each request goes to a random one, as from a load balancer in
front of them. They see each other's load in the workers' reports only, a tenth of a second late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.routing.expected_completion import ExpectedCompletion, Weights
from vllama_benchmarks.simulate.grid import Grid, run_factories, silent
from vllama_benchmarks.simulate.outcome import mean
from vllama_benchmarks.simulate.policy_placement import PolicyPlacement
from vllama_benchmarks.simulate.tables import Table
from vllama_benchmarks.simulate.verdict import MEASURES, geometric_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllama_balancer.routing.policy import Policy
    from vllama_benchmarks.simulate.engine_model import LoadReport
    from vllama_benchmarks.simulate.grid import Progress, Results
    from vllama_benchmarks.simulate.placement import PlacementContext, PlacementFactory
    from vllama_benchmarks.simulate.workload import Request


class MultiBalancer:
    """A placement by several balancers, each with a policy of its own."""

    def __init__(self, context: PlacementContext, make_policy: Callable[[], Policy], balancers: int) -> None:
        self._rng = context.rng
        self._balancers = [PolicyPlacement(context, make_policy()) for _ in range(balancers)]
        self._chosen: dict[Request, PolicyPlacement] = {}

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        self._chosen[request] = balancer = self._rng.choice(self._balancers)
        return balancer.place(now, request, available)

    def started(self, now: float, request: Request, cached_tokens: int) -> None:
        self._chosen[request].started(now, request, cached_tokens)

    def first_token(self, now: float, request: Request) -> None:
        self._chosen[request].first_token(now, request)

    def ended(self, now: float, request: Request, output_tokens: int) -> None:
        self._chosen.pop(request).ended(now, request, output_tokens)

    def lost(self, now: float, request: Request) -> None:
        self._chosen.pop(request).lost(now, request)

    def report(self, now: float, worker: int, report: LoadReport) -> None:
        for balancer in self._balancers:
            balancer.report(now, worker, report)

    def left(self, now: float, worker: int) -> None:
        for balancer in self._balancers:
            balancer.left(now, worker)

    def joined(self, now: float, worker: int) -> None:
        for balancer in self._balancers:
            balancer.joined(now, worker)


ALONE = "one balancer"
"""The reference of the ratios."""
FLEETS: Mapping[str, tuple[int, Weights]] = {
    ALONE: (1, Weights()),
    "two balancers": (2, Weights()),
    "two, blind to each other": (2, Weights(others=0.0)),
    "four balancers": (4, Weights()),
}
"""Number of balancers and their weights; `others=0` ignores the load that the others place."""
GRID = Grid(workloads=("uniform", "chats", "agents", "long-prompts", "bursts"), concurrencies=(50,), workers=(4, 8))
"""The cells of this study."""


def shared(grid: Grid = GRID, progress: Progress = silent) -> Table:
    """Compares fleets behind several balancers with the same fleets behind one."""
    results = run_factories(grid, {name: _balancers(*fleet) for name, fleet in FLEETS.items()}, progress)
    return Table(
        "Several balancers over the same workers",
        f"{grid.concurrencies[0]} clients, each request through a balancer drawn by lot: the busiest worker's mean "
        "number of streams over the mean worker's, and the largest ratio of that to one balancer's in any cell; "
        f"p99 TTFT and makespan as multiples of {ALONE}'s.",
        ("balancers", "max/mean load", "largest ratio to one", "p99 TTFT", "makespan"),
        tuple(_row(results, name) for name in FLEETS),
    )


def _row(results: Results, name: str) -> tuple[str, ...]:
    return (
        name,
        f"{mean([scores[name].imbalance for scores in results.values()]):.2f}",
        f"{max(scores[name].imbalance / scores[ALONE].imbalance for scores in results.values()):.2f}",
        *(
            f"{geometric_mean(getattr(s[name], measure) / getattr(s[ALONE], measure) for s in results.values()):.3f}"
            for measure in MEASURES
        ),
    )


def _balancers(count: int, weights: Weights) -> PlacementFactory:
    return lambda context: MultiBalancer(context, lambda: ExpectedCompletion(weights), count)
