"""One model that is loaded, loading or leaving, and who uses it.

Pictures one resident: for a decision, and for people.

Remembers who had to leave for another model, and notices who is asked for again at once.

A model that is wanted back sooner than it could have been loaded was sent away too early: two
programs take turns, and each switch costs both of them a load. So the one that comes back stays for
a while, idle or not (`decisions.py` says how long). A switch that lasts costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.scheduler.state import ModelState
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.scheduler.replicas import Replica
    from vllama_balancer.scheduler.settings import WatchedPool


@dataclass(eq=False, slots=True)
class LoadedModel:
    """The state of one model; `residents.py` changes it."""

    key: str
    """Comparable name of the model."""
    model: HostedModel
    """What its workers host."""
    is_pinned: bool = False
    """Whether it never leaves."""
    keep_alive_seconds: float = math.inf
    """How long it stays after its last request."""
    replicas: list[Replica] = field(default_factory=list)
    """Its workers and their places, the oldest first."""
    awaits_first_use: bool = False
    """Whether it was loaded before anybody asked for it: it stays until then, whatever the clock says."""
    share: int = 1
    """How many places it is given back when others leave."""
    users: int = 0
    """Requests that use it or wait for it."""
    deadlines: list[float] = field(default_factory=list)
    """When those that wait for its load give up, as far as they do."""
    was_just_evicted: bool = False
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
    unload_requested: bool = False
    """Whether it leaves, without sleeping, as soon as it is idle."""
    paused: bool = False
    """Whether it takes no new requests, so that a model that waits has its turn."""
    saturated_since: float | None = None
    """Since when requests have waited for room on its workers; None while none does."""
    scaled_up_at: float = -math.inf
    """When it got its last place but the first."""
    no_scale_up_until: float = -math.inf
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
        return [replica.worker for replica in self.replicas]

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


def state_of(resident: LoadedModel, pool: WatchedPool) -> ModelState:
    """Takes from a model and its first worker what decisions are made from."""
    worker = pool.find(resident.workers[0]) if resident.replicas else None
    description = worker.description if worker is not None else None
    said_bytes = description.model_info.size_bytes if description is not None else 0
    return ModelState(
        key=resident.key,
        places=tuple(replica.place for replica in resident.replicas),
        users=resident.users,
        is_loaded=resident.is_loaded,
        is_leaving=resident.is_leaving,
        paused=resident.paused,
        is_pinned=resident.is_pinned,
        can_sleep=description is not None and description.can_sleep,
        size_bytes=said_bytes or resident.model.size_bytes,
        share=resident.share,
        ready_at=resident.ready_at,
        deadlines=tuple(resident.deadlines),
        load_seconds=resident.load_seconds,
        was_just_evicted=resident.was_just_evicted,
        last_used=resident.last_used,
        saturated_since=resident.saturated_since,
        no_scale_up_until=resident.no_scale_up_until,
    )


def status_of(resident: LoadedModel) -> fleet_pb2.ModelStatus:
    """Tells where a model stands."""
    return fleet_pb2.ModelStatus(
        model=resident.name,
        state=_model_state(resident),
        workers=resident.workers,
        requests=resident.users,
        pinned=resident.is_pinned,
    )


def _model_state(resident: LoadedModel) -> fleet_pb2.ModelState:
    if resident.is_leaving:
        return fleet_pb2.MODEL_STATE_LEAVING
    if resident.is_loaded:
        return fleet_pb2.MODEL_STATE_LOADED
    return fleet_pb2.MODEL_STATE_LOADING if resident.replicas else fleet_pb2.MODEL_STATE_WAITING


class EvictionHistory:
    """Models that had to leave, and until when it is early to want them back."""

    def __init__(self) -> None:
        # Until when asking again counts as a comeback, by key; as many as there are models.
        self._early_until: dict[str, float] = {}

    def evicted(self, key: str, now: float, load_seconds: float) -> None:
        """Notes that a model leaves because another one wants its place."""
        self._early_until[key] = now + load_seconds

    def was_just_evicted(self, key: str, now: float) -> bool:
        """Tells whether a model that is asked for now had to leave less than a load ago, and forgets that it had."""
        early_until = self._early_until.pop(key, None)
        return early_until is not None and now <= early_until
