"""Brings one worker back after each of its deaths, or gives it up; the same for local workers and those of a cluster.

Who owns the worker knows how a life begins and ends; this tells what follows, and waits until it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.fleet.restarts import GiveUp, RestartJudge

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.fleet.restarts import RestartSettings

logger = logging.getLogger(__name__)


class Revival:
    """The deaths of one worker, and the pauses between its lives."""

    def __init__(
        self, name: str, settings: RestartSettings, tell: Callable[[ProcessState, str, float | None], None]
    ) -> None:
        """Tells `tell` what holds after each death: the state, why, and the seconds until the next start."""
        self._name = name
        self._judge = RestartJudge(settings)
        self._tell = tell
        self._asked = asyncio.Event()
        self.restarts = 0
        """Times the worker was started again so far."""

    def begin(self) -> None:
        """Notes that a life begins: whoever asked for one has it."""
        self._asked.clear()

    def ask(self) -> None:
        """Ends the present wait, or leaves out the next one."""
        self._asked.set()

    def ask_anew(self) -> None:
        """Asks for a life that is judged without the earlier ones."""
        self._judge.reset()
        self.ask()

    async def after_death(self, exit_status: int, lived_seconds: float, cause: str) -> None:
        """Tells what follows, and returns when the next life may begin: for a worker that is given up, when asked."""
        self.restarts += 1
        if self._asked.is_set():
            self._tell(ProcessState.RESTARTING, "is being restarted", None)
            return
        verdict = self._judge.after_death(exit_status, lived_seconds)
        if isinstance(verdict, GiveUp):
            await self._given_up(f"{verdict.verdict}: {cause}")
        else:
            await self._pause(verdict.delay_seconds, lived_seconds, cause)

    async def _given_up(self, reason: str) -> None:
        self.restarts -= 1
        logger.error("%s is given up: it %s", self._name, reason)
        self._tell(ProcessState.FAILED, reason, None)
        await self._asked.wait()

    async def _pause(self, delay_seconds: float, lived_seconds: float, cause: str) -> None:
        logger.warning(
            "%s died after %.1f s, starts again in %g s: %s", self._name, lived_seconds, delay_seconds, cause
        )
        self._tell(ProcessState.RESTARTING, cause, delay_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), delay_seconds)
