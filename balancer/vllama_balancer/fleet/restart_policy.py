"""When a worker that has ended is started again, and when it is marked FAILED instead.

A worker that was ready is always started again: what killed it may have been a request, which is not its fault. The
pause doubles from one second to a minute and starts over after a healthy minute. Only starts that fail again and again
are given up, with the cause, because an endless loop would hide it; after some minutes, or on request, there is another
try. A start for which this machine lacked a descriptor or memory says nothing about the worker and is not counted.
Supervisors of local workers and of Ray actors share this policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import Deaths, ProcessState
from vllama_balancer.fleet.process import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

EXIT_START_FAILED = 1
EXIT_BAD_FLAGS = 2
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC})


def is_shortage(error: OSError) -> bool:
    """Returns whether a process could not be made for lack of descriptors, memory or disk space."""
    return error.errno in _SHORTAGES


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """Pauses and limits of the policy."""

    initial_delay_seconds: float = 1.0
    """Pause after the first crash."""
    max_delay_seconds: float = 60.0
    """The pause doubles up to this."""
    healthy_seconds: float = 60.0
    """After a worker ran for as long, the pauses start over."""
    max_crashed_starts: int = 5
    """Number of crashes in a row, each before the worker was ready, that make a crash loop."""
    max_failed_starts: int = 3
    """Number of failed starts in a row after which the worker is given up."""
    revive_seconds: float = 600.0
    """How long a worker stays given up before it is tried once more."""
    fail_fast: bool = False
    """True if the first failed start is final; not once the worker has been ready."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Verdict: start again after a pause."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Verdict: do not start again for now."""

    verdict: str
    """Cause in words: "failed to start 3 times"."""


class RestartPolicy:
    """Counts the exits of one worker and decides what follows each; pure."""

    def __init__(self, settings: RestartSettings) -> None:
        self._settings = settings
        self._has_been_ready = False
        self.reset()

    def reset(self) -> None:
        """Drops all counts."""
        self._delay_seconds = self._settings.initial_delay_seconds
        self._crashed_starts = 0
        self._failed_starts = 0

    def after_exit(self, end: Exit, uptime_seconds: float) -> Retry | GiveUp:
        """Judges an exit that was not requested."""
        if end.was_ready:
            return self._after_service(uptime_seconds)
        if end.status == EXIT_BAD_FLAGS:
            return GiveUp("refused its flags")
        # Status 0: the worker drained and ended on a signal from outside. That is no crash.
        self._crashed_starts += end.status != 0
        self._failed_starts = self._failed_starts + 1 if end.status == EXIT_START_FAILED else 0
        if self._failed_starts >= self._max_failed_starts:
            return GiveUp(f"failed to start{_times(self._failed_starts)}")
        if self._crashed_starts >= self._settings.max_crashed_starts:
            return GiveUp(f"died{_times(self._crashed_starts)} before it was ready")
        return self._retry()

    def after_shortage(self) -> Retry:
        """Judges a start for which this machine lacked something."""
        return self._retry()

    def _after_service(self, uptime_seconds: float) -> Retry:
        self._has_been_ready = True
        self._crashed_starts = self._failed_starts = 0
        if uptime_seconds >= self._settings.healthy_seconds:
            self._delay_seconds = self._settings.initial_delay_seconds
        return self._retry()

    @property
    def _max_failed_starts(self) -> int:
        return 1 if self._settings.fail_fast and not self._has_been_ready else self._settings.max_failed_starts

    def _retry(self) -> Retry:
        delay = self._delay_seconds
        self._delay_seconds = min(2 * delay, self._settings.max_delay_seconds)
        return Retry(delay)


def _times(count: int) -> str:
    return f" {count} times" if count > 1 else ""


class RestartBackoff:
    """Waits between the end of a worker's process and its next start, and reports the state meanwhile."""

    def __init__(
        self, name: str, settings: RestartSettings, report: Callable[[ProcessState, str, float | None], None]
    ) -> None:
        """Calls `report` after each exit with the state, the reason, and the seconds until the next start."""
        self._name = name
        self._settings = settings
        self._policy = RestartPolicy(settings)
        self._report = report
        self._skip = asyncio.Event()
        self._same_deaths = 0
        self.restarts = 0
        """Times the worker was started again so far."""
        self.deaths = Deaths()
        """Its exits so far that were not requested."""

    def begin(self) -> None:
        """Notes a start: an earlier request to skip a wait is fulfilled."""
        self._skip.clear()

    def skip_wait(self) -> None:
        """Ends the present wait, or skips the next one."""
        self._skip.set()

    def restart_now(self) -> None:
        """Skips the wait, and drops the counts of earlier exits."""
        self._policy.reset()
        self.skip_wait()

    async def after_exit(self, end: Exit, uptime_seconds: float) -> None:
        """Reports what follows an exit, and returns when the worker may be started again."""
        self.restarts += 1
        if self._skip.is_set():
            self._report(ProcessState.RESTARTING, "is being restarted", None)
            return
        self._count(end.cause)
        verdict = self._policy.after_exit(end, uptime_seconds)
        if isinstance(verdict, GiveUp):
            await self._give_up(f"{verdict.verdict}: {end.cause}")
            return
        again = f" (death {self._same_deaths} in a row by this cause)" if self._same_deaths > 1 else ""
        logger.warning(
            "worker %s ended after %.1f s, restart in %g s: %s%s",
            self._name, uptime_seconds, verdict.delay_seconds, end.cause, again,
        )  # fmt: skip
        await self._pause(verdict.delay_seconds, end.cause)

    async def after_failed_launch(self, error: Exception) -> None:
        """Reports that no process could be made, and returns when that may be tried again."""
        cause = f"it could not be started: {error}"
        if isinstance(error, OSError) and not is_shortage(error):
            await self.after_exit(Exit(EXIT_START_FAILED, cause), 0.0)
            return
        if not isinstance(error, OSError):
            logger.error("unhandled exception in the start of worker %s", self._name, exc_info=error)
        verdict = self._policy.after_shortage()
        logger.warning("worker %s: %s; next try in %g s", self._name, cause, verdict.delay_seconds)
        await self._pause(verdict.delay_seconds, cause)

    def _count(self, cause: str) -> None:
        is_same = self.deaths.count > 0 and _without_numbers(cause) == _without_numbers(self.deaths.reason)
        self._same_deaths = self._same_deaths + 1 if is_same else 1
        self.deaths = Deaths(self.deaths.count + 1, cause)

    async def _give_up(self, reason: str) -> None:
        logger.error(
            "worker %s given up: it %s; next try in %g s, or by `vllama restart`",
            self._name, reason, self._settings.revive_seconds,
        )  # fmt: skip
        self.restarts -= 1
        self._report(ProcessState.FAILED, reason, self._settings.revive_seconds)
        await self._wait(self._settings.revive_seconds)
        self.restarts += 1

    async def _pause(self, delay_seconds: float, cause: str) -> None:
        self._report(ProcessState.RESTARTING, cause, delay_seconds)
        await self._wait(delay_seconds)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._skip.wait()


def _without_numbers(cause: str) -> str:
    """Returns what stays the same when a cause returns: not its addresses, sizes and times."""
    return re.sub(r"\b(0x[0-9a-f]+|\d[\d.,]*)", "#", cause)
