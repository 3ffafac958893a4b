"""Fault injection: the crashes, hangs and failed requests that a simulated engine is configured with."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from vllama_server.errors import EngineFault

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from vllama_server.fake_engine.simulation_profile import Faults


def kill_process() -> None:
    """Ends the process as a crash would: at once, without cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


class FaultInjector:
    """Checks every prompt and counts tokens; causes the configured faults."""

    def __init__(self, faults: Faults, random: Random, die: Callable[[], None]) -> None:
        self._faults = faults
        self._random = random
        self._die = die
        self._generated_tokens = 0

    def check_prompt(self, prompt: bytes) -> None:
        """Kills the process at a poisoned prompt; raises EngineFault for the configured share of requests."""
        if self._faults.poison and self._faults.poison.encode() in prompt:
            self._die()
        if self._random.random() < self._faults.error_rate:
            raise EngineFault("the simulated engine fails this request, as error_rate asks.")

    async def count_tokens(self, tokens: int) -> None:
        """Crashes, or never returns, after the configured number of tokens."""
        self._generated_tokens += tokens
        crash, hang = self._faults.crash_after_tokens, self._faults.hang_after_tokens
        if crash is not None and self._generated_tokens >= crash:
            self._die()
        if hang is not None and self._generated_tokens >= hang:
            await asyncio.Event().wait()
