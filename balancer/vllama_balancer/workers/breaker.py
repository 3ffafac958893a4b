"""The circuit breaker of one worker, the thresholds of its health, and the rules for silence and stalled engines.

Everything here is a pure function of its input and of an injected clock. An ejected worker gets no new request; after a
wait that doubles with every failed probe, it has to generate one real token before it is used again. Errors caused by
the client, cancellations and a full queue say nothing about a worker's health and must not be counted here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_protos.v1 import worker_pb2


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Thresholds of ejection, in seconds unless stated otherwise."""

    failures_to_eject: int = 3
    """Consecutive failed requests that eject a worker."""
    first_ejection_seconds: float = 1.0
    """Duration of the first ejection; doubles with every further one."""
    longest_ejection_seconds: float = 60.0
    """Limit of the doubling."""
    successes_to_forgive: int = 10
    """Consecutive successful requests after which the next ejection counts as the first again."""
    probe_timeout_seconds: float = 10.0
    """How long the one token of a probe may take."""
    silence_seconds: float = 3.0
    """After this time without a report or event, a worker's liveness is checked (reports are due each second)."""
    answer_seconds: float = 1.0
    """How long that answer may take before the worker counts as hung."""
    streaming_silence_seconds: float = 0.2
    """The same silence while streams run that others could take over: tokens come every few milliseconds."""
    streaming_answer_seconds: float = 0.5
    """The same answer; together they let the streams of a hung worker continue elsewhere within a second."""
    local_answer_seconds: float = 5.0
    """The least for a worker of this machine: the kernel reports a stopped process at once."""
    shared_answer_seconds: float = 15.0
    """The least for a worker that computes on the processors on which it also has to answer."""
    slow_answer_factor: float = 5.0
    """A worker whose latest answers were slow, because its machine is busy, is given this many times as long."""
    engine_stall_seconds: float = 10.0
    """Shortest time without an engine step, while streams run, that can mean a hung engine."""
    unmeasured_engine_stall_seconds: float = 60.0
    """The same while the worker has not measured how long its steps and prefills take."""
    report_gap_seconds: float = 2.0
    """A worker from which nothing came for as long was frozen or cut off, and could not be seen to make a step."""
    check_interval_seconds: float = 0.1
    """How often each worker is checked."""


class AnswerTimeout:
    """The time allowed for one worker's answer to a liveness check, from how long its answers took before.

    Only answers count, never tokens: an engine on a processor may compute for seconds between two tokens, while the
    process around it answers at once. That process needs its share of a busy machine, so the limit follows the slowest
    of its latest answers.
    """

    REMEMBERED_ANSWERS = 20
    """Only silent workers are checked, so these may span minutes; a machine that was busy will be again."""

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._answers: deque[float] = deque(maxlen=self.REMEMBERED_ANSWERS)

    def record(self, seconds: float) -> None:
        """Records how long an answer took."""
        self._answers.append(seconds)

    def seconds(self, *, is_urgent: bool, least_seconds: float = 0.0) -> float:
        """Returns how long the next answer may take; past answers count up to `silence_seconds`."""
        settings = self._settings
        usual = settings.streaming_answer_seconds if is_urgent else settings.answer_seconds
        learnt = settings.slow_answer_factor * max(self._answers, default=0.0)
        return max(least_seconds, usual, min(learnt, settings.silence_seconds))


class Breaker:
    """Ejects one worker after failed requests, and bounds how soon it is probed."""

    def __init__(self, settings: HealthSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._failures = 0
        self._successes = 0
        self._ejections = 0
        self._open_until: float | None = None
        self.reason = ""
        """Why the worker is ejected; empty while it is not."""
        self.ejections_total = 0
        """Ejections, failed probes not counted."""

    @property
    def is_open(self) -> bool:
        """Whether the worker is ejected. It stays so until `close`, also after the wait."""
        return self._open_until is not None

    @property
    def retry_in_seconds(self) -> float | None:
        """Time until the next probe is due; 0 when it is; None while the worker is in."""
        return None if self._open_until is None else max(self._open_until - self._clock(), 0.0)

    def success(self) -> None:
        """Counts a completed request."""
        self._failures = 0
        self._successes += 1
        if self._successes >= self._settings.successes_to_forgive:
            self._ejections = 0

    def failure(self, reason: str, *, may_eject: bool) -> bool:
        """Counts a failed request; returns whether it ejected the worker. `may_eject` spares the last worker."""
        self._failures += 1
        self._successes = 0
        if self._failures < self._settings.failures_to_eject or not may_eject or self.is_open:
            return False
        self.eject(f"{self._failures} requests failed in a row, the last one: {reason}")
        return True

    def eject(self, reason: str) -> None:
        """Ejects the worker at once, on evidence, or again after a failed probe."""
        settings = self._settings
        wait = min(settings.first_ejection_seconds * 2**self._ejections, settings.longest_ejection_seconds)
        self._ejections = min(self._ejections + 1, 30)
        self.ejections_total += not self.is_open
        self._open_until = self._clock() + wait
        self._successes = 0
        self.reason = reason

    def postpone(self) -> None:
        """Puts the next probe off, after one that said nothing."""
        if self.is_open:
            self._open_until = self._clock() + self._settings.first_ejection_seconds

    def close(self) -> None:
        """Puts the worker back in, after a probe."""
        self._open_until = None
        self._failures = 0
        self.reason = ""

    def reset(self) -> None:
        """Begins anew with a new incarnation: a request may have crashed the one before."""
        self.close()
        self._ejections = 0
        self._successes = 0


def engine_stall_limit_seconds(report: worker_pb2.WorkerReport, settings: HealthSettings) -> float:
    """Returns how old the last engine step may be while streams run.

    A step with a long prefill takes its time on a slow device, so the limit grows with the prompt tokens that wait, at
    three times the pace that the worker has measured.
    """
    rate = report.prefill_tokens_per_second
    step = report.step.seconds + report.step.nanos / 1e9
    if rate <= 0 and report.queued_prompt_tokens:
        return settings.unmeasured_engine_stall_seconds
    prefill = 3.0 * report.queued_prompt_tokens / rate if rate > 0 else 0.0
    return max(settings.engine_stall_seconds, 20.0 * step) + prefill
