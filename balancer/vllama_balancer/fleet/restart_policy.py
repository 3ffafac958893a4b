"""When a worker that has ended is started again, and when it is marked FAILED instead.

The pause doubles from one second to a minute and starts over after a healthy minute. A worker that cannot start, or
keeps crashing early, is given up with the cause: an endless loop would hide it. Supervisors of local workers and of
Ray actors share this policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import ProcessState

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

EXIT_START_FAILED = 1
EXIT_BAD_FLAGS = 2


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """Pauses and limits of the policy."""

    initial_delay_seconds: float = 1.0
    """Pause after the first crash."""
    max_delay_seconds: float = 60.0
    """The pause doubles up to this."""
    healthy_seconds: float = 60.0
    """A worker that ran for as long starts with a clean slate."""
    max_early_exits: int = 5
    """Number of crashes in a row, each before `healthy_seconds`, that make a crash loop."""
    max_failed_starts: int = 3
    """Number of failed starts in a row after which the worker is given up."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Verdict: start again after a pause."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Verdict: do not start again."""

    verdict: str
    """Cause in words: "failed to start 3 times"."""


class RestartPolicy:
    """Counts the exits of one worker and decides what follows each; pure."""

    def __init__(self, settings: RestartSettings) -> None:
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Drops all counts."""
        self._delay_seconds = self._settings.initial_delay_seconds
        self._early_exits = 0
        self._failed_starts = 0

    def after_exit(self, exit_status: int, uptime_seconds: float) -> Retry | GiveUp:
        """Judges an exit that was not requested; a negative status is the signal that killed the worker."""
        if uptime_seconds >= self._settings.healthy_seconds:
            self.reset()
        if exit_status == EXIT_BAD_FLAGS:
            return GiveUp("refused its flags")
        # Status 0: the worker drained and ended on a signal from outside. That is no crash.
        self._early_exits += exit_status != 0
        self._failed_starts = self._failed_starts + 1 if exit_status == EXIT_START_FAILED else 0
        if self._failed_starts >= self._settings.max_failed_starts:
            return GiveUp(f"failed to start {self._failed_starts} times")
        if self._early_exits >= self._settings.max_early_exits:
            return GiveUp(f"died {self._early_exits} times, each within {self._settings.healthy_seconds:.0f} s")
        delay = self._delay_seconds
        self._delay_seconds = min(2 * delay, self._settings.max_delay_seconds)
        return Retry(delay)


class RestartBackoff:
    """Waits between the end of a worker's process and its next start, and reports the state meanwhile."""

    def __init__(
        self, name: str, settings: RestartSettings, report: Callable[[ProcessState, str, float | None], None]
    ) -> None:
        """Calls `report` after each exit with the state, the reason, and the seconds until the next start."""
        self._name = name
        self._policy = RestartPolicy(settings)
        self._report = report
        self._skip = asyncio.Event()
        self.restarts = 0
        """Times the worker was started again so far."""

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

    async def after_exit(self, exit_status: int, uptime_seconds: float, cause: str) -> None:
        """Reports what follows an exit, and returns when the worker may be started again.

        For a worker that is given up, that is after `skip_wait` or `restart_now`.
        """
        self.restarts += 1
        if self._skip.is_set():
            self._report(ProcessState.RESTARTING, "is being restarted", None)
            return
        verdict = self._policy.after_exit(exit_status, uptime_seconds)
        if isinstance(verdict, GiveUp):
            await self._give_up(f"{verdict.verdict}: {cause}")
        else:
            await self._pause(verdict.delay_seconds, uptime_seconds, cause)

    async def _give_up(self, reason: str) -> None:
        self.restarts -= 1
        logger.error("worker %s given up: it %s", self._name, reason)
        self._report(ProcessState.FAILED, reason, None)
        await self._skip.wait()

    async def _pause(self, delay_seconds: float, uptime_seconds: float, cause: str) -> None:
        logger.warning(
            "worker %s ended after %.1f s, restart in %g s: %s", self._name, uptime_seconds, delay_seconds, cause
        )
        self._report(ProcessState.RESTARTING, cause, delay_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_seconds):
                await self._skip.wait()
