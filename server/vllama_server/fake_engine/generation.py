"""One generation of the simulated engine: a stream of the step model plus its reader's side.

The engine and the reader share two counters, tokens produced and tokens taken. A reader takes
whatever lies between them, so a slow one gets larger chunks and costs no memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_server.engine.events import Accepted, Chunk, Completed
from vllama_server.fake_engine import tokens
from vllama_server.fake_engine.steps import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.errors import EngineDead
    from vllama_server.fake_engine.output import Output
    from vllama_server.fake_engine.prefix_cache import BlockId


class Generation(Stream):
    """A request inside the engine."""

    __slots__ = ("_prompt", "_resumed", "_taken", "_waiter", "admitted_at", "error", "first_at", "last_at",
                 "output", "submitted_at")  # fmt: skip

    def __init__(
        self, prompt: bytes, blocks: Sequence[BlockId], output: Output, resumed_tokens: int, *, priority: int
    ) -> None:
        prompt_tokens = len(prompt) // tokens.TOKEN_BYTES
        remaining = max(0, output.limit - resumed_tokens)
        super().__init__(prompt_tokens + resumed_tokens, blocks, remaining, priority=priority)
        self.output = output
        """What it says."""
        self.submitted_at = self.admitted_at = self.first_at = self.last_at = 0.0
        self.error: EngineDead | None = None
        """Why it will get no more."""
        self._prompt = prompt
        self._resumed = resumed_tokens
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def lead(self) -> int:
        """How many tokens it is ahead of its reader."""
        return self.produced_tokens - self._taken

    def wake(self) -> None:
        """Lets the reader look again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def changed(self) -> None:
        """Waits for the next `wake`. Raises the error that ended the generation."""
        if self.error is not None:
            raise self.error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def readable(self) -> bool:
        """Whether there are tokens to take."""
        return self.produced_tokens > self._taken

    def accepted(self, dropped_messages: int) -> Accepted:
        """Tells what the engine has taken."""
        return Accepted(tokens.to_ids(self._prompt), self.cached_tokens, dropped_messages)

    def take(self, logprobs: int | None) -> Chunk:
        """Takes everything that has been produced since the last time."""
        start, end = self._resumed + self._taken, self._resumed + self.produced_tokens
        self._taken = self.produced_tokens
        entries = () if logprobs is None else self.output.logprobs(start, end, logprobs)
        return Chunk(text=self.output.text(start, end), token_ids=self.output.ids(start, end), logprobs=entries)

    def completed(self) -> Completed:
        """Tells how it ended and where the time went."""
        return Completed(
            reason=self.output.reason,
            prompt_tokens=len(self._prompt) // tokens.TOKEN_BYTES,
            completion_tokens=self._resumed + self.produced_tokens,
            cached_prompt_tokens=self.cached_tokens,
            matched_stop=self.output.matched_stop,
            queue_seconds=self.admitted_at - self.submitted_at,
            prefill_seconds=self.first_at - self.admitted_at,
            decode_seconds=self.last_at - self.first_at,
        )
