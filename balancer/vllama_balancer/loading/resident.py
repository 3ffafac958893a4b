"""One model that is loaded, loading or leaving, and who uses it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.loading.berths import Berth


@dataclass(eq=False, slots=True)
class Resident:
    """The state of one model; `residents.py` changes it."""

    key: str
    """Comparable name of the model."""
    model: HostedModel
    """What its workers host."""
    is_pinned: bool = False
    """Whether it never leaves."""
    keep_alive_seconds: float = math.inf
    """How long it stays after its last request."""
    berths: list[Berth] = field(default_factory=list)
    """Its workers and their places, the oldest first."""
    awaits_first_use: bool = False
    """Whether it was loaded before anybody asked for it: it stays until then, whatever the clock says."""
    share: int = 1
    """How many places it is given back when others leave."""
    users: int = 0
    """Requests that use it or wait for it."""
    deadlines: list[float] = field(default_factory=list)
    """When those that wait for its load give up, as far as they do."""
    is_back: bool = False
    """Whether it was wanted back sooner than a load after it had to leave for another one."""
    placed_at: float = 0.0
    """When it got its first place, on the loader's clock."""
    ready_at: float = 0.0
    """When it began to serve, on the loader's clock."""
    last_used: float = 0.0
    """When the last request ended."""
    loading: asyncio.Future[None] | None = None
    """Ends when it can serve, with NoWorker when it cannot; None before its first worker."""
    expiry: asyncio.TimerHandle | None = None
    """While idle: what will unload it."""
    is_going: bool = False
    """Whether it leaves, without sleeping, as soon as it is idle."""
    is_yielding: bool = False
    """Whether it takes no new requests, so that a model that waits has its turn."""
    full_since: float | None = None
    """Since when requests have waited for room on its workers; None while none does."""
    grown_at: float = -math.inf
    """When it got its last place but the first."""
    stays_small_until: float = -math.inf
    """Before that it takes no further place."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing of it is left."""
    is_leaving: bool = False
    """Whether its workers are being ended."""

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self.model.names[0]

    @property
    def workers(self) -> list[str]:
        """Names of its workers."""
        return [berth.worker for berth in self.berths]

    @contextlib.contextmanager
    def awaited(self, deadline: float | None) -> Iterator[None]:
        """Lets decisions know inside the block that somebody waits for its load, and until when."""
        if deadline is None:
            yield
            return
        self.deadlines.append(deadline)
        try:
            yield
        finally:
            self.deadlines.remove(deadline)

    @property
    def load_seconds(self) -> float:
        """How long it took from its place to its first token."""
        return max(self.ready_at - self.placed_at, 0.0)

    @property
    def is_loaded(self) -> bool:
        """Whether it has been able to serve."""
        return self.loading is not None and self.loading.done()

    @property
    def is_idle(self) -> bool:
        """Whether nobody would miss it now."""
        return self.users == 0 and self.is_loaded and not self.is_leaving
