"""Innocent traffic: short chats at a steady rate, each checked to the last token."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from tests.attacks.fleet import INNOCENT, MODEL

if TYPE_CHECKING:
    from collections.abc import Awaitable

TOKENS = 16
TIMEOUT_SECONDS = 60.0


@dataclass
class Innocents:
    """Asks `per_second` times a second for as long as something else goes on."""

    url: str
    per_second: float = 8.0
    seconds: list[float] = field(default_factory=list)
    """Duration of each answer that was whole."""
    failures: list[str] = field(default_factory=list)

    async def beside(self, other: Awaitable[object]) -> None:
        """Asks while `other` runs, then waits for the last answer."""
        headers = {"Authorization": f"Bearer {INNOCENT}"}
        limit = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(self.url, headers=headers, timeout=limit) as http:
            running = asyncio.ensure_future(other)
            async with asyncio.TaskGroup() as asking:
                number = 0
                while not running.done():
                    asking.create_task(self._ask(http, f"innocent {id(self)} {number}"))
                    number += 1
                    await asyncio.wait([running], timeout=1 / self.per_second)
            await running

    @property
    def p99_seconds(self) -> float:
        """The ninety-ninth percentile of the durations."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else float("inf")

    async def _ask(self, http: aiohttp.ClientSession, prompt: str) -> None:
        body = {"model": MODEL, "prompt": prompt, "raw": True, "stream": False, "options": {"num_predict": TOKENS}}
        began = time.monotonic()
        try:
            async with http.post("/api/generate", json=body) as reply:
                answer = await reply.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.failures.append(repr(error))
            return
        mark = hashlib.sha256(prompt.encode()).hexdigest()[:4]
        if answer.get("response") == "".join(f" {mark}.{index}" for index in range(TOKENS)):
            self.seconds.append(time.monotonic() - began)
        else:
            self.failures.append(f"{reply.status}: {str(answer)[:200]}")
