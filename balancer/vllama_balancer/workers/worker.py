"""One worker as the balancer knows it: whether it may be used, what it carries, and its leases.

A plain object that others tell things: `watcher.py` what the worker reports, `caretaker.py` what
its silence means, the pool what the fleet source says, the dispatcher how calls end. It does no
I/O of its own, so every rule about availability is one function of its state.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import Added, Changed, ProcessState
from vllama_balancer.names import model_key
from vllama_balancer.routing.prefix_index import PrefixIndex
from vllama_balancer.workers.breaker import Breaker, HealthSettings
from vllama_balancer.workers.channel import is_local
from vllama_balancer.workers.lease import Lease
from vllama_balancer.workers.load import Capacity, Load, TtftWindow
from vllama_balancer.workers.poison import blamed
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.change_counter import ChangeCounter
    from vllama_balancer.routing.policy import Choice
    from vllama_balancer.routing.snapshot import Candidate
    from vllama_balancer.workers.channel import Channel
    from vllama_balancer.workers.load import Reservation

logger = logging.getLogger(__name__)

STARTING = "is starting"
"""Why no request may go to a worker that loads; how far it is changes too often to be told here."""

_WAITING_STATES = {
    worker_pb2.WORKER_STATE_UNSPECIFIED: "has not reported yet",
    worker_pb2.WORKER_STATE_STARTING: STARTING,
    worker_pb2.WORKER_STATE_DRAINING: "is draining",
    worker_pb2.WORKER_STATE_SLEEPING: "is asleep",
}


@dataclass(slots=True)
class Incarnation:
    """What belongs to one life of a worker and ends with it: counts, caches, leases."""

    boot_id: str
    """The worker's own random id of this life."""
    load: Load = field(default_factory=Load)
    """What it carries."""
    prefix_index: PrefixIndex = field(default_factory=PrefixIndex)
    """What its prefix cache is believed to hold."""
    leases: dict[Lease, None] = field(default_factory=dict)
    """Places taken and not released, oldest first."""
    is_over: bool = False
    """Whether blame for its end has been dealt out."""


class Worker:
    """One endpoint. Availability changes are told to `changes`."""

    def __init__(
        self, added: Added, channel: Channel, health: HealthSettings, changes: ChangeCounter, clock: Callable[[], float]
    ) -> None:
        self.name = added.name
        """Unique in the fleet."""
        self.address = added.address
        """gRPC target."""
        self.channel = channel
        """The connection; closed by the pool."""
        self.process = Changed(added.name, ProcessState.RUNNING, pid=added.pid, restarts=added.restarts)
        """What the fleet source said last."""
        self._is_supervised = added.is_supervised
        self.incarnation = Incarnation("")
        """The present life."""
        self.description: worker_pb2.DescribeResponse | None = None
        """What it said of itself in this life or the last; None until reached."""
        self.report: worker_pb2.WorkerReport | None = None
        """Its last report; None until one has come."""
        self.is_connected = False
        """Whether reports come."""
        self.ttft_window = TtftWindow()
        """How long its latest requests waited for their first token."""
        self.last_seen_at = -math.inf
        """When anything came from it last: a report or an event of a stream."""
        self.breaker = Breaker(health, clock)
        """Whether it may be used, judged by what came of its requests."""
        self.held = ""
        """Why it was taken out on purpose; empty while it is not."""
        self.keys = frozenset(model_key(model) for model in added.models)
        """Comparable names of its models."""
        self.unavailable = "has not reported yet"
        """Why no request may go to it now; empty while one may. See `update`."""
        self._health = health
        self._is_saturated = False
        self._born_at = clock()
        self._is_reached = False
        self._connection_fault = "is not connected yet"
        self._changes = changes
        self._clock = clock

    # -- what it is asked ------------------------------------------------------------------

    def serves(self, key: str) -> bool:
        """Tells whether it hosts the model, as far as is known."""
        return key in self.keys

    def name_of(self, key: str) -> str:
        """Finds the name under which it serves a model."""
        models = self.description.models if self.description is not None else ()
        return next((model for model in models if model_key(model) == key), "")

    @property
    def may_come_back(self) -> bool:
        """Whether a request has reason to wait for it: it serves, starts, or is being started again."""
        if self.process.state in (ProcessState.FAILED, ProcessState.STOPPED):
            return False
        if self.process.state in (ProcessState.RESTARTING, ProcessState.PLACING):
            return True
        if self.process.pid > 0 or self._is_supervised:
            # Whoever started it starts it again, or says that it is given up: its own last words do not decide.
            return True
        return (
            self.is_connected
            and self.report is not None
            and self.report.state in (worker_pb2.WORKER_STATE_STARTING, worker_pb2.WORKER_STATE_READY)
        )

    @property
    def is_coming_up(self) -> bool:
        """Whether its process runs, as its source knows, and has not opened its socket yet."""
        is_known_to_run = self.process.pid > 0 or (self._is_supervised and bool(self.address))
        return self.process.state is ProcessState.RUNNING and is_known_to_run and not self._is_reached

    @property
    def least_answer_seconds(self) -> float:
        """How long it is given for an answer in any case.

        On a machine that is short of processors a healthy worker may be kept from answering for
        seconds, by a prompt of its own or by a neighbour that starts; a verdict would add its work
        to the others', which may then meet the same verdict.
        """
        if self.description is not None and self.description.device.kind == "cpu":
            return self._health.shared_answer_seconds
        return self._health.local_answer_seconds if is_local(self.address) else 0.0

    @property
    def answer_seconds(self) -> float:
        """How long it may take to answer whether it lives."""
        return max(self._health.answer_seconds, self.least_answer_seconds)

    @property
    def age_seconds(self) -> float:
        """Time since its present process was started, or since its address was given."""
        return self._clock() - self._born_at

    @property
    def has_suspect(self) -> bool:
        """Whether a request is aboard that may have killed another worker."""
        return any(lease.is_suspect for lease in self.incarnation.leases)

    def candidate(self) -> Candidate | None:
        """Shows its load to a policy; None when it has no stream to spare."""
        return self.incarnation.load.candidate(self.name)

    @property
    def leases(self) -> int:
        """Streams that this balancer has on it."""
        return len(self.incarnation.leases)

    # -- what it is told -------------------------------------------------------------------

    def lease(self, choice: Choice, promise: Reservation, request_id: str) -> Lease:
        """Takes a place, counted at once."""
        life, now = self.incarnation, self._clock()
        lease = Lease(self, life, choice, promise, request_id)
        lease.taken_at = now
        life.load.reserve(promise, now)
        life.leases[lease] = None
        return lease

    def touch(self) -> None:
        """Notes that something came from it."""
        self.last_seen_at = self._clock()

    def record_first_token(self, taken_at: float) -> None:
        """Notes the first token of a request that was placed here at that time."""
        self.ttft_window.record(self._clock() - taken_at)

    def begin_incarnation(self, description: worker_pb2.DescribeResponse) -> None:
        """Starts over with empty counts and beliefs when the description is of another boot."""
        if description.boot_id == self.incarnation.boot_id:
            return
        if self.incarnation.boot_id:
            self.end_incarnation("was restarted")
        self.incarnation = Incarnation(description.boot_id)
        self.breaker.close()

    def describe(self, description: worker_pb2.DescribeResponse) -> None:
        """Takes in what the worker says it is."""
        self.begin_incarnation(description)
        self.description = description
        keys = frozenset(model_key(model) for model in description.models)
        if keys != self.keys:
            self.keys = keys
            self._changes.increment()
        self.incarnation.prefix_index = PrefixIndex(description.kv_cache_tokens)
        capacity = Capacity(max(description.max_streams, 1), description.kv_cache_tokens)
        self.incarnation.load.ready(capacity, self._clock())
        self.update()

    def take_report(self, report: worker_pb2.WorkerReport) -> None:
        """Takes in what the worker says of its state and load."""
        self.report = report
        self._is_reached = True
        self.touch()
        if not self.is_connected:
            self.is_connected = True
            self._connection_fault = ""
        self.incarnation.load.report(report, self.last_seen_at)
        self.update()

    def disconnected(self, reason: str) -> None:
        """Notes that its reports have ended; one that comes back in the same life is probed first."""
        if self.is_connected and self.report is not None and self.report.state == worker_pb2.WORKER_STATE_READY:
            self.breaker.eject(f"the connection was lost: {reason}")
        self.is_connected = False
        self._connection_fault = f"is not connected: {reason}"
        self.update()

    def process_changed(self, event: Changed) -> None:
        """Takes in what the fleet source says of its process."""
        if event.pid and event.pid != self.process.pid:
            self._born_at = self._clock()
            self._is_reached = False
        self.process = event
        self.update()

    def hold(self, reason: str) -> None:
        """Takes it out of placement on purpose; running streams go on."""
        self.held = reason
        self.update()

    def unhold(self) -> None:
        """Puts it back after `hold`."""
        self.held = ""
        self.update()

    def mark_saturated(self, is_saturated: bool) -> None:
        """Notes that its own queue is full, or has room again."""
        self._is_saturated = is_saturated
        self.update()

    def mark_draining(self) -> None:
        """Notes that it leaves, told by a refused request before its report says so."""
        if self.report is not None and self.report.state == worker_pb2.WORKER_STATE_READY:
            self.report.state = worker_pb2.WORKER_STATE_DRAINING
        self.update()

    def mark_hung(self, reason: str) -> None:
        """Takes it out because it does not answer; its streams are given up so that they move on."""
        self.breaker.eject(reason)
        self.end_incarnation(reason)
        self.update()

    def end_incarnation(self, reason: str) -> None:
        """Deals out the blame for this life's end, once, and gives its leases up."""
        self.assign_blame()
        for lease in tuple(self.incarnation.leases):
            lease.abandon(f"worker {self.name} {reason}")

    def assign_blame(self) -> None:
        """Marks the leases that may have killed the worker. The first call of a life decides."""
        # One that is still waiting for a sign of life has not sent its request.
        aboard = [lease for lease in self.incarnation.leases if not lease.needs_liveness_check]
        if self.incarnation.is_over or not aboard:
            return
        self.incarnation.is_over = True
        for lease in blamed(aboard):
            lease.is_blamed = True

    def lost(self, reason: str) -> None:
        """Takes it out because a call found it dead."""
        self.assign_blame()
        if not self.breaker.is_open:
            self.breaker.eject(reason)
        self.update()

    def recovered(self) -> None:
        """Puts it back after a probe; a later death of the same life is judged anew."""
        self.breaker.close()
        self.incarnation.is_over = False
        self.update()

    def update(self) -> None:
        """Derives `unavailable` from the state, and tells when it changes."""
        before, self.unavailable = self.unavailable, self._why_unavailable()
        if before != self.unavailable:
            if bool(before) != bool(self.unavailable):
                logger.info("worker %s is %s", self.name, f"out: it {self.unavailable}" if self.unavailable else "in")
            self._changes.increment()

    def _why_unavailable(self) -> str:
        if self.process.state is not ProcessState.RUNNING:
            return f"is {self.process.state.value}: {self.process.reason}".rstrip(": ")
        if self.held:
            return f"is held: {self.held}"
        if not self.is_connected or self.report is None:
            return STARTING if self.is_coming_up else self._connection_fault
        if self.report.state == worker_pb2.WORKER_STATE_FAILED:
            return f"has failed: {self.report.failure}"
        if self.report.state != worker_pb2.WORKER_STATE_READY:
            return _WAITING_STATES[self.report.state]
        if self.description is None or self.description.boot_id != self.incarnation.boot_id:
            return "has not described itself yet"
        if self.breaker.is_open:
            return f"is ejected: {self.breaker.reason}"
        return "has a full queue" if self._is_saturated else ""
