"""What the scheduler records of one model, awake or asleep, and of models that were evicted or could not be loaded.

A model's state is derived, from its slots and from the load that waits for one. The other fields are facts beside it,
which decisions.py reads: times are on the clock of the machine.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.scheduler.state import SlotState
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.scheduler.state import Replica


@dataclass(eq=False, slots=True)
class LoadedModel:
    """A model that has replicas, or waits for its first."""

    key: str
    """Comparable name of the model."""
    hosted: HostedModel
    """What its workers host."""
    replicas: list[Replica] = field(default_factory=list)
    """Its workers that are awake, the oldest first."""
    load_pending: bool = True
    """True until its load is over: until a worker serves, or the load has failed."""

    pinned: bool = False
    """True if it is never unloaded."""
    unload_requested: bool = False
    """True if it is unloaded, without sleeping, as soon as it is idle."""
    paused: bool = False
    """True if it takes no new requests, so that a waiting model gets its slot."""
    awaits_first_use: bool = False
    """True if it was loaded before any request: it stays until the first one, whatever the clock says."""
    was_just_evicted: bool = False
    """True if it was requested again within one load time of being evicted."""
    can_sleep: bool = False
    """True if its engine can move the weights to the host's memory and back."""
    size_bytes: int = 0
    """Bytes of its weights; 0: unknown."""
    share: int = 1
    """Replicas that are restored when slots become free."""
    keep_alive_seconds: float = math.inf
    """How long it stays after its last request."""

    requests: int = 0
    """Requests that use it or wait for it."""
    deadlines: list[float] = field(default_factory=list)
    """Deadlines of the requests that wait for its load, where they have one."""
    placed_at: float = 0.0
    """When it got its first slot."""
    ready_at: float = 0.0
    """When its load was over."""
    last_used: float = 0.0
    """When its last request ended."""
    saturated_since: float | None = None
    """Since when requests have waited while all its workers serve; None while none does."""
    scaled_up_at: float = -math.inf
    """When it got its last replica but the first."""
    no_scale_up_until: float = -math.inf
    """Until then it gets no further replica: it lost the last one soon after it got it."""

    @property
    def state(self) -> fleet_pb2.ModelState:
        """The model's state, derived from its slots and from the load that waits for one.

        A model whose workers were all retired by hand counts as loaded: its next request loads it.
        """
        states = {replica.state for replica in self.replicas}
        if SlotState.READY in states:
            return fleet_pb2.MODEL_STATE_LOADED
        if SlotState.LOADING in states:
            return fleet_pb2.MODEL_STATE_LOADING
        if states:
            return fleet_pb2.MODEL_STATE_LEAVING
        return fleet_pb2.MODEL_STATE_WAITING if self.load_pending else fleet_pb2.MODEL_STATE_LOADED

    @property
    def is_loaded(self) -> bool:
        """True if its requests go straight to its workers."""
        return self.state == fleet_pb2.MODEL_STATE_LOADED

    @property
    def is_leaving(self) -> bool:
        """True if its workers end or fall asleep."""
        return self.state == fleet_pb2.MODEL_STATE_LEAVING

    @property
    def is_idle(self) -> bool:
        """True if it can be unloaded without cutting a request."""
        return self.requests == 0 and self.is_loaded

    @property
    def has_spare_replica(self) -> bool:
        """True if it still serves with one replica less."""
        return len(self.replicas) > 1 and self.is_loaded

    @property
    def load_seconds(self) -> float:
        """Time from its slot to its first token."""
        return max(self.ready_at - self.placed_at, 0.0)

    @property
    def name(self) -> str:
        return self.hosted.names[0]

    @property
    def slots(self) -> list[int]:
        """Numbers of its slots, the oldest first."""
        return [replica.slot for replica in self.replicas]

    @property
    def workers(self) -> list[str]:
        return [replica.worker for replica in self.replicas]

    @contextlib.contextmanager
    def awaited(self, deadline: float | None) -> Iterator[None]:
        """Records inside the block that a request with this deadline waits for the load."""
        if deadline is None:
            yield
            return
        self.deadlines.append(deadline)
        try:
            yield
        finally:
            self.deadlines.remove(deadline)

    def status(self) -> fleet_pb2.ModelStatus:
        """Returns what the fleet's page shows of it."""
        return fleet_pb2.ModelStatus(
            model=self.name, state=self.state, workers=self.workers, requests=self.requests, pinned=self.pinned
        )


@dataclass(eq=False, frozen=True, slots=True)
class SleepingModel:
    """A model whose weights are in the host's memory; it wakes at its own slot only."""

    key: str
    """Comparable name of the model."""
    name: str
    """Display name."""
    replica: Replica
    """Its worker, and the slot to which the process is tied."""
    since: float
    """When it fell asleep."""
    size_bytes: int
    """Bytes of the host's memory that it takes; 0: unknown."""

    def status(self) -> fleet_pb2.ModelStatus:
        """Returns what the fleet's page shows of it."""
        return fleet_pb2.ModelStatus(
            model=self.name, state=fleet_pb2.MODEL_STATE_SLEEPING, workers=[self.replica.worker]
        )


class EvictionHistory:
    """Models that were evicted for another one, and until when a new request for them comes early.

    A model that is requested again within one load time was evicted too early: two clients take turns, and each switch
    costs both of them a load. decisions.py says how long such a model stays. A switch that lasts costs nothing.
    """

    def __init__(self) -> None:
        self._early_until: dict[str, float] = {}

    def evicted(self, key: str, now: float, load_seconds: float) -> None:
        self._early_until[key] = now + load_seconds

    def was_just_evicted(self, key: str, now: float) -> bool:
        """Returns whether a model was evicted less than a load time ago; each eviction counts once."""
        early_until = self._early_until.pop(key, None)
        return early_until is not None and now <= early_until


class LoadFailures:
    """Errors of failed loads, for as long as requests for the model get them.

    A client that retries at once would load the model, and evict others, again and again.
    """

    def __init__(self, memory_seconds: float) -> None:
        self._memory_seconds = memory_seconds
        self._failures: dict[str, tuple[HostedModel, float, NoWorker]] = {}

    def record(self, model: LoadedModel, now: float, error: NoWorker) -> None:
        self._failures = {key: each for key, each in self._failures.items() if each[1] > now}
        self._failures[model.key] = (model.hosted, now + self._memory_seconds, error)

    def forget(self, key: str) -> None:
        self._failures.pop(key, None)

    def raise_if_remembered(self, key: str, hosted: HostedModel, now: float) -> None:
        """Raises the error of a recent load of the same files."""
        failed, until, error = self._failures.get(key, (hosted, now, None))
        if error is not None and failed == hosted and now < until:
            raise NoWorker(str(error), reason=error.reason, retry_after_seconds=error.retry_after_seconds)
