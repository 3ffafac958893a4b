"""The step loop of a simulated engine: pure, synchronous, without a clock.

Its driver - the asyncio engine or a discrete-event simulator - calls `begin` for the next step, lets the step's
seconds pass in its own time, and calls `finish` for the streams that got a token. Requests may be submitted and
cancelled between the two.

Like vLLM it batches continuously: each decoding stream takes one token of a step's budget, the rest goes to prompts,
first come first served, in chunks. Unlike vLLM it reserves all the blocks that a stream can need when it admits it,
so it never preempts.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vllama_server.fake_engine.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.fake_engine.prefix_cache import BlockId
    from vllama_server.fake_engine.simulation_profile import SimulationProfile


class Stream:
    """One request in the engine."""

    __slots__ = (
        "admitted",
        "blocks",
        "cached_tokens",
        "computed_tokens",
        "finished",
        "output_tokens",
        "pinned",
        "priority",
        "produced_tokens",
        "prompt_tokens",
        "reserved_blocks",
    )

    def __init__(self, prompt_tokens: int, blocks: Sequence[BlockId], output_tokens: int, *, priority: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        """Tokens to compute before the first output token, resumed ones included."""
        self.blocks = blocks
        """Ids of the full blocks that other streams may share, from the start of the prompt.

        A simulator that has the output in advance may add those of prompt and output together.
        """
        self.output_tokens = output_tokens
        """Tokens to generate; 0 computes the prompt only."""
        self.priority = priority
        """Lower is admitted first."""
        self.admitted = False
        """True if it is or was in the batch."""
        self.finished = False
        """True if it has ended or was cancelled."""
        self.cached_tokens = 0
        """Prompt tokens found in the cache."""
        self.computed_tokens = 0
        """Prompt tokens done, cached ones included."""
        self.produced_tokens = 0
        """Tokens generated so far."""
        self.pinned: list[BlockId] = []
        self.reserved_blocks = 0


class Step:
    """One pass of the engine over its batch."""

    __slots__ = ("admitted", "decoding", "prefill", "prefill_tokens", "seconds")

    def __init__(
        self, seconds: float, decoding: list[Stream], prefill: list[tuple[Stream, int]], admitted: list[Stream]
    ) -> None:
        self.seconds = seconds
        """How long the step takes."""
        self.decoding = decoding
        """Streams that get their next token."""
        self.prefill = prefill
        """Streams whose prompt is computed, each with the tokens of this chunk."""
        self.prefill_tokens = sum(tokens for _, tokens in prefill)
        """Tokens of all chunks together."""
        self.admitted = admitted
        """Streams admitted to the batch with this step."""


class StepModel:
    """Waiting queue, batch and block cache of a simulated engine."""

    def __init__(self, profile: SimulationProfile) -> None:
        self._profile = profile
        self._cache = PrefixCache(profile.cache_blocks)
        self._waiting: deque[Stream] = deque()
        self._prefilling: deque[Stream] = deque()
        self._decoding: list[Stream] = []
        self.queried_tokens = 0
        """Prompt tokens of all streams admitted so far."""
        self.hit_tokens = 0
        """Those of them that the cache held."""

    @property
    def running(self) -> int:
        """Streams in the batch."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Streams that wait for the batch."""
        return len(self._waiting)

    @property
    def queued_prompt_tokens(self) -> int:
        """Prompt tokens accepted and not yet computed; of waiting streams, cached ones included."""
        streams = (*self._waiting, *self._prefilling)
        return sum(stream.prompt_tokens - stream.computed_tokens for stream in streams)

    @property
    def kv_cache_use(self) -> float:
        """Share of the cache that running streams fill."""
        block = self._profile.block_tokens
        blocks = self._cache.pinned_blocks
        for stream in (*self._prefilling, *self._decoding):
            blocks += -(-(stream.computed_tokens + stream.produced_tokens) // block) - len(stream.pinned)
        return blocks / self._cache.capacity_blocks

    def clear_cache(self) -> None:
        """Frees every cached block that no stream uses."""
        self._cache.clear()

    def fits(self, stream: Stream) -> bool:
        """Returns whether an empty engine can hold the stream."""
        return self._blocks_of(stream) <= self._cache.capacity_blocks

    def submit(self, stream: Stream) -> None:
        """Queues a stream behind those of its priority. Raises ValueError when it is empty or can never fit."""
        if stream.prompt_tokens < 1:
            raise ValueError("a stream needs a prompt")
        if not self.fits(stream):
            raise ValueError("the stream is larger than the whole KV cache")
        index = len(self._waiting)
        while index and self._waiting[index - 1].priority > stream.priority:
            index -= 1
        self._waiting.insert(index, stream)

    def cancel(self, stream: Stream) -> None:
        """Removes a stream and frees its blocks; without effect on one that has finished."""
        if stream.finished:
            return
        if not stream.admitted:
            self._waiting.remove(stream)
        elif stream in self._decoding:
            self._decoding.remove(stream)
        else:
            self._prefilling.remove(stream)
        self._end(stream)

    def begin(self) -> Step | None:
        """Admits what fits and plans the next step; None when there is nothing to do."""
        decoding = self._decoding.copy()
        budget = max(0, self._profile.step_tokens - len(decoding))
        prefill: list[tuple[Stream, int]] = []
        for stream in self._prefilling:
            budget = self._plan_chunk(stream, budget, prefill)
        admitted: list[Stream] = []
        while budget > 0 and self._admit_next():
            stream = self._prefilling[-1]
            admitted.append(stream)
            budget = self._plan_chunk(stream, budget, prefill)
        if not decoding and not prefill:
            return None
        step = Step(0.0, decoding, prefill, admitted)
        step.seconds = self._profile.step_time(len(decoding), step.prefill_tokens)
        return step

    def finish(self, step: Step) -> list[Stream]:
        """Applies a step; returns the streams that advanced, those that finished included.

        A stream advances when it gets a token, or when its prompt is done and no token was asked for.
        """
        advanced = [stream for stream in step.decoding if not stream.finished]
        for stream, tokens in step.prefill:
            if not stream.finished and self._compute(stream, tokens):
                advanced.append(stream)
        ended = False
        for stream in advanced:
            if stream.output_tokens:
                stream.produced_tokens += 1
            if stream.produced_tokens >= stream.output_tokens:
                self._end(stream)
                ended = True
        if ended:
            self._decoding = [stream for stream in self._decoding if not stream.finished]
        return advanced

    def _plan_chunk(self, stream: Stream, budget: int, prefill: list[tuple[Stream, int]]) -> int:
        tokens = min(budget, stream.prompt_tokens - stream.computed_tokens)
        if tokens:
            prefill.append((stream, tokens))
        return budget - tokens

    def _admit_next(self) -> bool:
        """Moves the first waiting stream into the batch if batch and cache have room for it."""
        if not self._waiting or self.running >= self._profile.max_streams:
            return False
        stream = self._waiting[0]
        # At least one token is always computed: the first output token comes out of it.
        shareable = (stream.prompt_tokens - 1) // self._profile.block_tokens
        held = stream.blocks[: self._cache.match(stream.blocks[:shareable])]
        reserved = self._blocks_of(stream) - len(held)
        if not self._cache.admit(held, reserved):
            return False
        self._waiting.popleft()
        self._prefilling.append(stream)
        stream.admitted = True
        stream.pinned.extend(held)
        stream.reserved_blocks = reserved
        stream.cached_tokens = stream.computed_tokens = len(held) * self._profile.block_tokens
        self.queried_tokens += stream.prompt_tokens
        self.hit_tokens += stream.cached_tokens
        return True

    def _compute(self, stream: Stream, tokens: int) -> bool:
        """Computes a chunk of a prompt and shares its full blocks; True when the prompt is done."""
        block = self._profile.block_tokens
        first, stream.computed_tokens = stream.computed_tokens // block, stream.computed_tokens + tokens
        self._keep(stream, stream.blocks[first : stream.computed_tokens // block])
        if stream.computed_tokens < stream.prompt_tokens:
            return False
        self._prefilling.remove(stream)
        self._decoding.append(stream)
        return True

    def _blocks_of(self, stream: Stream) -> int:
        return -(-(stream.prompt_tokens + stream.output_tokens) // self._profile.block_tokens)

    def _end(self, stream: Stream) -> None:
        stream.finished = True
        if stream.admitted:
            self._share_output(stream)
            self._cache.release(stream.pinned, stream.reserved_blocks)

    def _share_output(self, stream: Stream) -> None:
        """Shares the blocks that generated tokens have filled, as engines do; the last token was never computed."""
        if stream.produced_tokens:
            block = self._profile.block_tokens
            filled = (stream.prompt_tokens + stream.produced_tokens - 1) // block
            self._keep(stream, stream.blocks[stream.prompt_tokens // block : filled])

    def _keep(self, stream: Stream, ids: Sequence[BlockId]) -> None:
        for id_ in ids:
            if self._cache.keep(id_):
                stream.pinned.append(id_)
                stream.reserved_blocks -= 1
