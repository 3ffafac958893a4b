"""One worker as the balancer sees it: its state, its load, and whether it may take requests.

A plain object without I/O; other parts call its methods:

- watch.py: what the worker describes and reports;
- health_checker.py: that it hangs, or has recovered;
- pool.py: what the fleet source says of its process;
- dispatch: how its calls end.

Every rule about availability is a function of its state, `_unavailable_reason`.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import Added, Changed, ProcessState
from vllama_balancer.names import model_key
from vllama_balancer.routing.prefix_index import PrefixIndex
from vllama_balancer.workers.breaker import Breaker, HealthSettings
from vllama_balancer.workers.channel import is_local
from vllama_balancer.workers.incarnation import Incarnation
from vllama_balancer.workers.load import Capacity, TtftWindow
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.change_counter import ChangeCounter
    from vllama_balancer.routing.snapshot import Candidate
    from vllama_balancer.workers.channel import Channel

logger = logging.getLogger(__name__)

STARTING = "is starting"
"""Why a worker that loads is unavailable; its progress changes too often to be part of it (see status.py)."""

MAX_NAMED_SUSPECTS = 8
"""Requests that the log line of a crash names."""

_WAITING_STATES = {
    worker_pb2.WORKER_STATE_UNSPECIFIED: "has not reported yet",
    worker_pb2.WORKER_STATE_STARTING: STARTING,
    worker_pb2.WORKER_STATE_DRAINING: "is draining",
    worker_pb2.WORKER_STATE_SLEEPING: "is asleep",
}


class Worker:
    """One endpoint. Increments `changes` when its availability or its models change."""

    def __init__(
        self, added: Added, channel: Channel, health: HealthSettings, changes: ChangeCounter, clock: Callable[[], float]
    ) -> None:
        self.name = added.name
        """Unique in the fleet."""
        self.address = added.address
        """gRPC target."""
        self.channel = channel
        """The connection; closed by the pool."""
        self.process = Changed(added.name, ProcessState.RUNNING, "", added.pid, added.restarts, deaths=added.deaths)
        """The fleet source's latest event."""
        self._is_supervised = added.is_supervised
        self.incarnation = Incarnation("")
        self.description: worker_pb2.DescribeResponse | None = None
        """Its description in this incarnation or the one before; None until it was reached."""
        self.report: worker_pb2.WorkerReport | None = None
        """Its latest report; None until there is one."""
        self.is_connected = False
        """Whether reports come."""
        self.ttft_window = TtftWindow()
        self.last_seen_at = -math.inf
        """When its latest report or stream event came."""
        self._seen_since = -math.inf
        self.crashed_at = -math.inf
        """When it was last found dead or hung."""
        self.breaker = Breaker(health, clock)
        self.held = ""
        """Why it was taken out on purpose; empty while it is not."""
        self.keys = frozenset(model_key(model) for model in added.models)
        """Comparable names of its models."""
        self.unavailable = "has not reported yet"
        """Why it may not take requests; empty while it may. See `update`."""
        self._health = health
        self._is_saturated = False
        self._born_at = clock()
        self._is_reached = False
        self._connection_fault = "is not connected yet"
        self._changes = changes
        self._clock = clock

    # -- state -----------------------------------------------------------------------------

    def now(self) -> float:
        """Returns the time on the worker's clock."""
        return self._clock()

    @property
    def context_tokens(self) -> int:
        """Longest context that it serves; 0 while it has not said so."""
        return self.description.context_length if self.description is not None else 0

    def name_of(self, key: str) -> str:
        """Returns the name under which it serves a model."""
        models = self.description.models if self.description is not None else ()
        return next((model for model in models if model_key(model) == key), "")

    @property
    def may_come_back(self) -> bool:
        """Whether it is worth waiting for: it serves, it starts, or its process is being restarted."""
        if self.process.state in (ProcessState.FAILED, ProcessState.STOPPED):
            return False
        if self.process.state in (ProcessState.RESTARTING, ProcessState.PLACING):
            return True
        if self.process.pid > 0 or self._is_supervised:
            # A supervised worker is restarted or marked FAILED by its supervisor; its own last report does not count.
            return True
        return (
            self.is_connected
            and self.report is not None
            and self.report.state in (worker_pb2.WORKER_STATE_STARTING, worker_pb2.WORKER_STATE_READY)
        )

    @property
    def is_coming_up(self) -> bool:
        """Whether its process runs, according to the fleet source, and has not opened its socket yet."""
        is_known_to_run = self.process.pid > 0 or (self._is_supervised and bool(self.address))
        return self.process.state is ProcessState.RUNNING and is_known_to_run and not self._is_reached

    @property
    def least_answer_seconds(self) -> float:
        """The least time it is given for an answer.

        On a machine that is short of processors a prompt or a starting neighbour may delay the answer of a healthy
        worker for seconds. Ejecting it would move its load to the others, which may then be ejected as well.
        """
        if self.description is not None and self.description.device.kind == "cpu":
            return self._health.shared_answer_seconds
        return self._health.local_answer_seconds if is_local(self.address) else 0.0

    @property
    def answer_seconds(self) -> float:
        """How long its answer to a liveness check may take."""
        return max(self._health.answer_seconds, self.least_answer_seconds)

    @property
    def age_seconds(self) -> float:
        """Time since its present process was started, or since its address was added."""
        return self._clock() - self._born_at

    @property
    def lease_count(self) -> int:
        """Streams that this balancer has on it."""
        return len(self.incarnation.leases)

    @property
    def step_age_seconds(self) -> float:
        """How long its engine has made no step although it could: it had work, and the worker was not frozen."""
        report = self.report
        if report is None or not report.running or not report.HasField("last_step_age"):
            return 0.0
        since = max(self.incarnation.busy_since, self._seen_since)
        return max(min(report.last_step_age.ToTimedelta().total_seconds(), self._clock() - since), 0.0)

    def candidate(self) -> Candidate | None:
        """Returns its load for a policy; None when it has no stream to spare."""
        return self.incarnation.load.candidate(self.name)

    # -- events ----------------------------------------------------------------------------

    def touch(self) -> None:
        """Records a sign of life."""
        now = self._clock()
        if now - self.last_seen_at > self._health.report_gap_seconds:
            self._seen_since = now
        self.last_seen_at = now

    def forgive_silence(self, seconds: float) -> None:
        """Takes off its silence the time for which this process itself could not listen."""
        self.last_seen_at = min(self.last_seen_at + seconds, self._clock())

    def record_first_token(self, taken_at: float) -> None:
        """Records the time to first token of a request that was placed here at `taken_at`."""
        self.ttft_window.record(self._clock() - taken_at)

    def describe(self, description: worker_pb2.DescribeResponse) -> None:
        """Applies the worker's description; one of another boot id begins a new incarnation."""
        self._begin_incarnation(description.boot_id)
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
        """Applies the worker's report of its state and load."""
        self.report = report
        self._is_reached = True
        self.touch()
        if not self.is_connected:
            self.is_connected = True
            self._connection_fault = ""
        self.incarnation.load.report(report, self.last_seen_at)
        self.update()

    def disconnected(self, reason: str) -> None:
        """Records that reports have ended; if the same incarnation reconnects, it is probed first."""
        if self.is_connected and self.report is not None and self.report.state == worker_pb2.WORKER_STATE_READY:
            self.crashed_at = self._clock()
            self.breaker.eject(f"the connection was lost: {reason}")
        self.is_connected = False
        self._connection_fault = f"is not connected: {reason}"
        self.update()

    def process_changed(self, event: Changed) -> None:
        """Applies the fleet source's event about its process."""
        if event.pid and event.pid != self.process.pid:
            self._born_at = self._clock()
            self._is_reached = False
        self.process = event
        self.update()

    def hold(self, reason: str) -> None:
        """Takes it out of placement on purpose; running streams continue."""
        self.held = reason
        self.update()

    def unhold(self) -> None:
        """Puts it back after `hold`."""
        self.held = ""
        self.update()

    def mark_saturated(self, is_saturated: bool) -> None:
        """Records that its own queue is full, or has room again."""
        self._is_saturated = is_saturated
        self.update()

    def mark_draining(self) -> None:
        """Records a refused request, ahead of the report that explains it."""
        if self.report is not None and self.report.state == worker_pb2.WORKER_STATE_READY:
            self.report.state = worker_pb2.WORKER_STATE_DRAINING
        self.update()

    def mark_hung(self, reason: str, *, blames: bool = True) -> None:
        """Ejects it because it does not answer; its streams are given up, so that they are retried elsewhere.

        Its requests may be the cause, unless `blames` is False.
        """
        self.crashed_at = self._clock()
        self.breaker.eject(reason)
        if blames:
            self._assign_blame(reason)
        self.incarnation.abandon_leases(f"worker {self.name} {reason}")
        self.update()

    def mark_lost(self, reason: str) -> None:
        """Ejects it because a call found it dead."""
        self.crashed_at = self._clock()
        self._assign_blame(reason)
        if not self.breaker.is_open:
            self.breaker.eject(reason)
        self.update()

    def mark_recovered(self) -> None:
        """Puts it back after a probe; blame for a later crash of this incarnation is assigned anew."""
        self.breaker.close()
        self.incarnation.withdraw_blame()
        self.update()

    def _begin_incarnation(self, boot_id: str) -> None:
        if boot_id == self.incarnation.boot_id:
            return
        if self.incarnation.boot_id:
            self._assign_blame("was restarted")
            self.incarnation.abandon_leases(f"worker {self.name} was restarted")
            # The drain that it was held for is over with the process that was drained.
            self.held = ""
        self.incarnation = Incarnation(boot_id)
        self.breaker.reset()

    def _assign_blame(self, reason: str) -> None:
        suspects = self.incarnation.assign_blame(self._clock())
        if suspects:
            named = ", ".join(suspects[:MAX_NAMED_SUSPECTS]) + (", ..." if len(suspects) > MAX_NAMED_SUSPECTS else "")
            logger.warning("worker %s crashed (%s); %d suspect requests: %s", self.name, reason, len(suspects), named)

    # -- availability ----------------------------------------------------------------------

    def update(self) -> None:
        """Derives `unavailable` from the state and increments `changes` when it differs."""
        before, self.unavailable = self.unavailable, self._unavailable_reason()
        if before != self.unavailable:
            if bool(before) != bool(self.unavailable):
                if self.unavailable:
                    logger.info("worker %s out: it %s", self.name, self.unavailable)
                else:
                    logger.info("worker %s in", self.name)
            self._changes.increment()

    def _unavailable_reason(self) -> str:
        """Returns the first reason that applies, in the order of priority; empty while it may take requests."""
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
