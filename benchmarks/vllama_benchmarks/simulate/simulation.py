"""One run: clients, a placement and engines on one virtual clock.

The event queue holds times and calls: one entry for each engine's next event, each client and each pending report. A
run of several hundred requests takes some tens of milliseconds.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.engine_model import EngineEventKind, EngineModel
from vllama_benchmarks.simulate.outcome import Outcome
from vllama_benchmarks.simulate.placement import PlacementContext
from vllama_benchmarks.simulate.workload import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_benchmarks.simulate.engine_model import EngineEvent
    from vllama_benchmarks.simulate.placement import PlacementFactory
    from vllama_benchmarks.simulate.workload import Session, Workload

HOP_SECONDS = 0.002
"""From the last token of an answer to the client's next request: the way through the balancer and back."""
START_SPREAD_SECONDS = 1.0
"""Clients of a closed loop start at random moments within this time, not in step."""
BURST_PAUSE_SECONDS = 1.0
"""From the end of a burst to the next one: long enough for the reports of an idle fleet."""
REPORT_SECONDS = 0.1
"""A changed worker reports at most this often."""
HEARTBEAT_SECONDS = 1.0
"""An unchanged worker reports this often."""


class Simulation:
    """Runs a workload once."""

    def __init__(
        self, workload: Workload, workers: int, concurrency: int, factory: PlacementFactory, seed: int
    ) -> None:
        self._workload = workload
        self._concurrency = concurrency
        self._rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = 0
        self._engines = [EngineModel(0.5 if i in workload.slow_workers else 1.0) for i in range(workers)]
        self._engine_wakes = [-1.0] * workers
        self._available = list(range(workers))
        self._on_worker: list[dict[Request, None]] = [{} for _ in range(workers)]
        self._report_due = [False] * workers
        self._reported = [-1.0] * workers
        self._sessions = deque(workload.sessions)
        self._following: dict[Request, tuple[Session, int]] = {}
        self._unplaced: list[Request] = []
        self._active = 0
        self._outcome = Outcome(workers)
        self._placement = factory(PlacementContext(workers, random.Random(seed + 1), self._engines))

    def run(self) -> Outcome:
        """Runs until every session has been answered."""
        for worker in range(len(self._engines)):
            self._send_report(0.0, worker)
        if self._workload.burst:
            self._burst(0.0)
        else:
            for _ in range(self._concurrency):
                self._at(self._rng.random() * START_SPREAD_SECONDS, self._next_session)
        if self._workload.restart is not None:
            self._at(self._workload.restart.at_seconds, self._kill)
        events = self._events
        while events and (self._active or self._sessions):
            now, _, action = heapq.heappop(events)
            action(now)
        return self._outcome

    def _at(self, seconds: float, action: Callable[[float], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (seconds, self._sequence, action))

    # Clients

    def _next_session(self, now: float) -> None:
        if self._sessions:
            self._ask(now, self._sessions.popleft(), 0)

    def _burst(self, now: float) -> None:
        for _ in range(min(self._concurrency, len(self._sessions))):
            self._next_session(now)

    def _ask(self, now: float, session: Session, number: int) -> None:
        request = Request(session.turns[number], session.key, now)
        self._following[request] = (session, number + 1)
        self._active += 1
        self._place(now, request)

    def _answered(self, now: float, request: Request) -> None:
        self._active -= 1
        self._outcome.add(request)
        session, number = self._following.pop(request)
        if number < len(session.turns):
            # The client counts as active in between: its session goes on.
            self._active += 1
            self._at(now + HOP_SECONDS, lambda then: self._next_turn(then, session, number))
        elif not self._workload.burst:
            self._at(now + HOP_SECONDS, self._next_session)
        elif not self._active:
            self._at(now + BURST_PAUSE_SECONDS, self._burst)

    def _next_turn(self, now: float, session: Session, number: int) -> None:
        self._active -= 1
        self._ask(now, session, number)

    # Placement

    def _place(self, now: float, request: Request) -> None:
        if not self._available:
            self._unplaced.append(request)
            return
        self._heartbeats(now)
        request.worker = worker = self._placement.place(now, request, self._available)
        self._on_worker[worker][request] = None
        self._outcome.count(now, worker, +1)
        self._engines[worker].submit(now, request)
        self._changed(now, worker)

    def _on_engine_event(self, now: float, worker: int, event: EngineEvent) -> None:
        request = event.request
        if event.kind is EngineEventKind.STARTED:
            request.cached_tokens = event.tokens
            self._placement.started(now, request, event.tokens)
        elif event.kind is EngineEventKind.FIRST_TOKEN:
            if request.first_token_seconds < 0:
                request.first_token_seconds = now
            self._placement.first_token(now, request)
        else:
            request.ended_seconds = now
            del self._on_worker[worker][request]
            self._outcome.count(now, worker, -1)
            self._placement.ended(now, request, event.tokens)
            self._answered(now, request)

    # Engines

    def _changed(self, now: float, worker: int) -> None:
        """Schedules the engine's next event, and a report for when one is allowed."""
        wake = self._engines[worker].next_seconds
        if wake != self._engine_wakes[worker] and wake != float("inf"):
            self._engine_wakes[worker] = wake
            self._at(wake, lambda then: self._advance(then, worker))
        if not self._report_due[worker]:
            self._report_due[worker] = True
            due = max(now, self._reported[worker] + REPORT_SECONDS)
            self._at(due, lambda then: self._send_report(then, worker))

    def _advance(self, now: float, worker: int) -> None:
        if now != self._engine_wakes[worker]:
            return  # The engine's next event has moved since.
        for event in self._engines[worker].advance(now):
            self._on_engine_event(now, worker, event)
        self._changed(now, worker)

    def _send_report(self, now: float, worker: int) -> None:
        self._report_due[worker] = False
        self._reported[worker] = now
        if worker in self._available:
            self._placement.report(now, worker, self._engines[worker].load(now))

    def _heartbeats(self, now: float) -> None:
        """Delivers the reports that unchanged workers have sent since the last placement."""
        for worker in self._available:
            age = now - self._reported[worker]
            if age >= HEARTBEAT_SECONDS and not self._report_due[worker]:
                self._send_report(now - age % HEARTBEAT_SECONDS, worker)

    # Failures

    def _kill(self, now: float) -> None:
        restart = self._workload.restart
        assert restart is not None
        worker = restart.worker
        self._available.remove(worker)
        self._engine_wakes[worker] = -1.0
        orphans = self._on_worker[worker]
        self._on_worker[worker] = {}
        delivered = self._engines[worker].kill(now, restart.cold_steps)
        self._placement.left(now, worker)
        for request in orphans:
            request.delivered_tokens += delivered.get(request, 0)
            self._outcome.count(now, worker, -1)
            self._placement.lost(now, request)
        for request in orphans:
            self._place(now, request)
        self._at(now + restart.down_seconds, self._rejoin)

    def _rejoin(self, now: float) -> None:
        restart = self._workload.restart
        assert restart is not None
        self._available.append(restart.worker)
        self._available.sort()
        self._placement.joined(now, restart.worker)
        self._send_report(now, restart.worker)
        unplaced, self._unplaced = self._unplaced, []
        for request in unplaced:
            self._place(now, request)
