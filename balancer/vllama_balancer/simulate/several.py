"""Several balancers over the same workers, none of which knows what the others decide.

Each has its own pool, beliefs and exact counts, and gets one request in so many by lot, as from a
load balancer in front of them that looks at nothing. All that they learn of each other is in the
workers' reports, which tell the whole load, a tenth of a second late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.simulate.balanced import Balanced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.policies.policy import Policy
    from vllama_balancer.simulate.engine_model import LoadReport
    from vllama_balancer.simulate.placement import Request, Surroundings


class Several:
    """So many balancers, each with a policy of its own."""

    def __init__(self, surroundings: Surroundings, make_policy: Callable[[], Policy], balancers: int) -> None:
        self._rng = surroundings.rng
        self._balancers = [Balanced(surroundings, make_policy()) for _ in range(balancers)]
        self._chosen: dict[Request, Balanced] = {}

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        """Lets any of the balancers place the request."""
        self._chosen[request] = balancer = self._rng.choice(self._balancers)
        return balancer.place(now, request, available)

    def started(self, now: float, request: Request, cached_tokens: int) -> None:
        """Tells the balancer that has placed the request."""
        self._chosen[request].started(now, request, cached_tokens)

    def first_token(self, now: float, request: Request) -> None:
        """Tells the balancer that has placed the request."""
        self._chosen[request].first_token(now, request)

    def ended(self, now: float, request: Request, output_tokens: int) -> None:
        """Tells the balancer that has placed the request."""
        self._chosen.pop(request).ended(now, request, output_tokens)

    def lost(self, now: float, request: Request) -> None:
        """Tells the balancer that has placed the request."""
        self._chosen.pop(request).lost(now, request)

    def report(self, now: float, worker: int, report: LoadReport) -> None:
        """Tells all of them: a worker reports to everyone who watches it."""
        for balancer in self._balancers:
            balancer.report(now, worker, report)

    def left(self, now: float, worker: int) -> None:
        """Tells all of them."""
        for balancer in self._balancers:
            balancer.left(now, worker)

    def joined(self, now: float, worker: int) -> None:
        """Tells all of them."""
        for balancer in self._balancers:
            balancer.joined(now, worker)
