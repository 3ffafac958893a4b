"""The Engine protocol: what every engine does for the servicers, which know nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from vllama_server.engine.description import EngineDescription
    from vllama_server.engine.events import GenerationEvent
    from vllama_server.engine.requests import ChatPrompt, GenerationRequest, TextPrompt


class StartPhase(Enum):
    """What a starting engine is busy with, in this order."""

    RESOLVE = "resolve"
    DOWNLOAD = "download"
    LOAD = "load"
    COMPILE = "compile"
    WARM_UP = "warm up"


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's load at one moment."""

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
    """None before the first step."""


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """The vector of one text."""

    values: Sequence[float]
    prompt_tokens: int
    """Tokens of the text, after truncation."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The tokens of one text."""

    token_ids: Sequence[int]
    """Special tokens included."""
    text: str
    """The text that was tokenized; for a chat, as rendered."""


class Engine(Protocol):
    """One model on one device, or a simulation of that.

    Methods run on the event loop that serves; errors are those of `errors.py`.
    """

    async def start(self, progress: Callable[[StartPhase, float], None]) -> None:
        """Loads the model and produces a warm-up token, without blocking the event loop.

        `progress` may be called from any thread. Raises StartFailed with the root cause and advice.
        """
        ...

    def describe(self) -> EngineDescription:
        """Tells what the engine is. Only after `start`."""
        ...

    def load(self) -> EngineLoad:
        """Measures the load. Cheap: called for every report."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Yields Accepted, then Chunks, then Completed.

        Closing the generator, or cancelling the task that reads it, aborts the request and frees
        its KV blocks. Slow readers get larger chunks, not a longer queue. Raises InvalidRequest,
        CapabilityMissing, EngineBusy, EngineDead or EngineFault.
        """
        ...

    async def tokenize(self, prompt: TextPrompt | ChatPrompt) -> TokenizedText:
        """Renders and tokenizes. Raises InvalidRequest, CapabilityMissing."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Turns ids into text, special tokens left out. Raises InvalidRequest for an unknown id."""
        ...

    async def embed(
        self, texts: Sequence[str], *, truncate: bool, dimensions: int, normalize: bool, request_id: str
    ) -> list[EmbeddedText]:
        """Embeds every text, in order. Raises CapabilityMissing for a model that generates."""
        ...

    async def sleep(self) -> None:
        """Moves the weights to the host's memory and drops the KV cache. Only while no request is inside.

        Raises CapabilityMissing where that does not work, EngineDead or EngineFault when it failed.
        """
        ...

    async def wake(self) -> None:
        """Moves the weights back. Raises EngineDead or EngineFault when it failed."""
        ...

    async def failed(self) -> Exception:
        """Returns, whenever it happens, the reason why the engine can serve no more."""
        ...

    async def stop(self, *, at_once: bool = False) -> None:
        """Ends the engine and its processes. May be called in any state, more than once.

        `at_once` asks no process to leave in order: for an engine that has failed and may not answer.
        """
        ...
