"""The Engine protocol: what every engine does for the services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from vllama_protos.v1 import embedding_pb2, generation_pb2, worker_pb2

    Progress = Callable[[worker_pb2.StartPhase, float], None]


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's load at one moment, in plain numbers: the watchdog, metrics and both kinds of report read it."""

    running: int = 0
    waiting: int = 0
    kv_cache_use: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    queued_prompt_tokens: int = 0
    """Prompt tokens accepted and not yet computed."""
    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    step_seconds: float = 0.0
    """Moving average of the time of a step that decodes."""
    prefix_hit_rate: float = 0.0
    last_step_age_seconds: float | None = None
    """Time without a step while there was work; idle time does not count. None before the first step."""


class Engine(Protocol):
    """One model on one device, or a simulation of that.

    Methods run on the event loop that serves; errors are those of `errors.py`. Requests have been validated.
    """

    async def start(self, progress: Progress) -> None:
        """Loads the model and produces a warm-up token, without blocking the event loop.

        `progress` takes a phase and a share of it; it may be called from any thread. Raises StartFailed with the root
        cause and advice.
        """
        ...

    def describe(self) -> worker_pb2.DescribeResponse:
        """Returns what the engine is, without the worker's identity. Only after `start`."""
        ...

    def load(self) -> EngineLoad:
        """Returns the load. Cheap: called for every report."""
        ...

    def generate(
        self, request: generation_pb2.GenerateRequest
    ) -> AsyncGenerator[generation_pb2.GenerateResponse, None]:
        """Yields `started` without the worker's identity, then deltas, then `finished`; see `events`.

        `request_id` is unique among the live requests of this engine. Closing the generator, or cancelling the task
        that reads it, aborts the request and frees its KV blocks. Slow readers get larger deltas, not a longer queue.
        Raises InvalidRequest, CapabilityMissing, EngineBusy, EngineDead or EngineFault.
        """
        ...

    async def tokenize(self, request: generation_pb2.TokenizeRequest) -> generation_pb2.TokenizeResponse:
        """Renders and tokenizes. Raises InvalidRequest, CapabilityMissing."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Returns the text of ids, special tokens left out. Raises InvalidRequest for an unknown id."""
        ...

    async def embed(self, request: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedResponse:
        """Embeds every text, in order. Raises CapabilityMissing for a model that generates."""
        ...

    async def sleep(self) -> None:
        """Moves the weights to the host's memory and drops the KV cache. Only while no request is running.

        Raises CapabilityMissing where that does not work, EngineDead or EngineFault when it failed.
        """
        ...

    async def wake(self) -> None:
        """Moves the weights back. Raises EngineDead or EngineFault when it failed."""
        ...

    async def failed(self) -> Exception:
        """Waits until the engine can serve no more, and returns the reason."""
        ...

    async def stop(self, *, at_once: bool = False) -> None:
        """Ends the engine and its processes. May be called in any state, more than once.

        `at_once` kills the processes of an engine that has failed and may not answer.
        """
        ...
