"""One generation of the simulated engine: a stream of the step model and its reader.

The engine and the reader share two counters, tokens produced and tokens taken. A reader takes whatever lies between
them, so a slow one gets larger deltas and costs no memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_server.engine import events
from vllama_server.fake_engine import tokens
from vllama_server.fake_engine.steps import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_protos.v1 import generation_pb2 as pb
    from vllama_server.errors import EngineDead
    from vllama_server.fake_engine.output import Output
    from vllama_server.fake_engine.prefix_cache import BlockId


class Generation(Stream):
    """A request in the engine."""

    __slots__ = ("_prompt", "_request", "_resumed", "_taken", "_waiter", "admitted_at", "error", "first_at", "last_at",
                 "output", "submitted_at")  # fmt: skip

    def __init__(self, request: pb.GenerateRequest, prompt: bytes, blocks: Sequence[BlockId], output: Output) -> None:
        prompt_tokens = len(prompt) // tokens.TOKEN_BYTES
        resumed = len(request.resume_token_ids)
        super().__init__(prompt_tokens + resumed, blocks, max(0, output.limit - resumed), priority=request.priority)
        self.output = output
        """The tokens that it generates."""
        self.submitted_at = self.admitted_at = self.first_at = self.last_at = 0.0
        self.error: EngineDead | None = None
        """Why it gets no more tokens."""
        self._request = request
        self._prompt = prompt
        self._resumed = resumed
        self._taken = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_ended_before(self) -> bool:
        """True if the tokens that it resumes from are all that it may have."""
        return 0 < self._resumed >= self.output.limit

    @property
    def lead(self) -> int:
        """Tokens that the reader has not taken yet."""
        return self.produced_tokens - self._taken

    @property
    def readable(self) -> bool:
        """True if there are tokens to take."""
        return self.produced_tokens > self._taken

    def wake(self) -> None:
        """Wakes the reader."""
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

    def started(self, dropped_messages: int) -> pb.GenerateResponse:
        """Returns the first event."""
        return events.started(
            self._request,
            tokens.to_ids(self._prompt),
            cached_prompt_tokens=self.cached_tokens,
            dropped_messages=dropped_messages,
        )

    def take(self) -> pb.GenerateResponse:
        """Returns everything that has been produced since the last time."""
        start, end = self._resumed + self._taken, self._resumed + self.produced_tokens
        self._taken = self.produced_tokens
        entries = self.output.logprobs(start, end, self._request.top_logprobs) if self._request.logprobs else ()
        return events.delta(self.output.text(start, end), self.output.ids(start, end), logprobs=entries)

    def completed(self) -> pb.GenerateResponse:
        """Returns the last event."""
        return events.finished(
            self.output.reason,
            prompt_tokens=len(self._prompt) // tokens.TOKEN_BYTES,
            completion_tokens=self._resumed + self.produced_tokens,
            cached_prompt_tokens=self.cached_tokens,
            matched_stop=self.output.matched_stop,
            queue_seconds=self.admitted_at - self.submitted_at,
            prefill_seconds=self.first_at - self.admitted_at,
            decode_seconds=self.last_at - self.first_at,
        )
