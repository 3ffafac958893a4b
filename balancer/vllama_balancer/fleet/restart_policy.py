"""Decides what follows the death of a worker: another start after a pause, or none.

The pause doubles from one second to a minute and starts over after a healthy minute. A worker that cannot even
start, or keeps dying young, is given up with the cause: an endless loop would hide it.

Brings one worker back after each of its deaths, or gives it up; the same for local workers and those of a cluster.

Who owns the worker knows how a life begins and ends; this tells what follows, and waits until it may.
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


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """When to try again, and when to stop trying."""

    initial_delay_seconds: float = 1.0
    """Pause after the first death."""
    max_delay_seconds: float = 60.0
    """The pause doubles up to this."""
    healthy_seconds: float = 60.0
    """A worker that lived so long starts with a clean slate."""
    max_early_exits: int = 5
    """So many deaths in a row before that, and it is a crash loop."""
    max_failed_starts: int = 3
    """So many failed starts in a row, and it cannot start."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again after a pause."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not start again."""

    verdict: str
    """How it came to that, for people: "failed to start 3 times"."""


EXIT_START_FAILED = 1
EXIT_BAD_FLAGS = 2


class RestartPolicy:
    """Remembers the deaths of one worker."""

    def __init__(self, settings: RestartSettings) -> None:
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets the past."""
        self._delay_seconds = self._settings.initial_delay_seconds
        self._early_exits = 0
        self._failed_starts = 0

    def after_exit(self, exit_status: int, uptime_seconds: float) -> Retry | GiveUp:
        """Judges a death that nobody asked for; a negative status is the signal that killed it."""
        if uptime_seconds >= self._settings.healthy_seconds:
            self.reset()
        if exit_status == EXIT_BAD_FLAGS:
            return GiveUp("refused its flags")
        # A worker that was told to leave from outside drained and ended well: that is no crash.
        self._early_exits += exit_status != 0
        self._failed_starts = self._failed_starts + 1 if exit_status == EXIT_START_FAILED else 0
        if self._failed_starts >= self._settings.max_failed_starts:
            return GiveUp(f"failed to start {self._failed_starts} times")
        if self._early_exits >= self._settings.max_early_exits:
            return GiveUp(f"died {self._early_exits} times, each within {self._settings.healthy_seconds:.0f} s")
        delay = self._delay_seconds
        self._delay_seconds = min(2 * delay, self._settings.max_delay_seconds)
        return Retry(delay)


logger = logging.getLogger(__name__)


class RestartBackoff:
    """The deaths of one worker, and the pauses between its lives."""

    def __init__(
        self, name: str, settings: RestartSettings, tell: Callable[[ProcessState, str, float | None], None]
    ) -> None:
        """Tells `tell` what holds after each death: the state, why, and the seconds until the next start."""
        self._name = name
        self._judge = RestartPolicy(settings)
        self._tell = tell
        self._asked = asyncio.Event()
        self.restarts = 0
        """Times the worker was started again so far."""

    def begin(self) -> None:
        """Notes that a life begins: whoever asked for one has it."""
        self._asked.clear()

    def skip_wait(self) -> None:
        """Ends the present wait, or leaves out the next one."""
        self._asked.set()

    def restart_now(self) -> None:
        """Asks for a life that is judged without the earlier ones."""
        self._judge.reset()
        self.skip_wait()

    async def after_exit(self, exit_status: int, uptime_seconds: float, cause: str) -> None:
        """Tells what follows, and returns when the next life may begin: for a worker that is given up, when asked."""
        self.restarts += 1
        if self._asked.is_set():
            self._tell(ProcessState.RESTARTING, "is being restarted", None)
            return
        verdict = self._judge.after_exit(exit_status, uptime_seconds)
        if isinstance(verdict, GiveUp):
            await self._given_up(f"{verdict.verdict}: {cause}")
        else:
            await self._pause(verdict.delay_seconds, uptime_seconds, cause)

    async def _given_up(self, reason: str) -> None:
        self.restarts -= 1
        logger.error("%s is given up: it %s", self._name, reason)
        self._tell(ProcessState.FAILED, reason, None)
        await self._asked.wait()

    async def _pause(self, delay_seconds: float, uptime_seconds: float, cause: str) -> None:
        logger.warning(
            "%s died after %.1f s, starts again in %g s: %s", self._name, uptime_seconds, delay_seconds, cause
        )
        self._tell(ProcessState.RESTARTING, cause, delay_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), delay_seconds)
