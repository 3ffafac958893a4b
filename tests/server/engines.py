"""Engines that a test plays by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_server.engine.events import Accepted, Chunk, Completed, FinishReason
from vllama_server.engine.protocol import EngineLoad
from vllama_server.errors import EngineDead
from vllama_server.fake_engine.engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from vllama_server.engine.events import GenerationEvent
    from vllama_server.engine.protocol import StartPhase
    from vllama_server.engine.requests import GenerationRequest


class ScriptedEngine(FakeEngine):
    """Yields what it is told, starts when it is told, and dies when it is told."""

    def __init__(self, *events: GenerationEvent | Exception) -> None:
        super().__init__()
        self.script = events or (Accepted((1, 2)), Chunk("hi", token_ids=[3]), completed())
        """What each generation does; an exception is raised."""
        self.may_start = asyncio.Event()
        """`start` waits for this."""
        self.start_error: Exception | None = None
        """What `start` raises then."""
        self.may_end = asyncio.Event()
        """Each generation waits for this before its last event."""
        self.may_end.set()
        self.death: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Why the engine died."""
        self.requests: list[GenerationRequest] = []
        """The requests that came."""
        self.closed = asyncio.Event()
        """Set when a generation has been closed."""
        self.reported = EngineLoad()
        """What `load` says."""
        self.stopped = False
        """Whether `stop` was called."""
        self.stopped_at_once = False
        """Whether it was called for an engine that may not answer."""
        self.progress: Callable[[StartPhase, float], None] = lambda *_: None
        """What `start` was given."""

    async def start(self, progress: Callable[[StartPhase, float], None]) -> None:
        """Starts as told."""
        self.progress = progress
        await self.may_start.wait()
        if self.start_error is not None:
            raise self.start_error

    def load(self) -> EngineLoad:
        """Reports as told."""
        return self.reported

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Plays the script."""
        self.requests.append(request)
        try:
            for event in self.script:
                if event is self.script[-1]:
                    await self.may_end.wait()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed.set()

    async def failed(self) -> Exception:
        """Dies as told."""
        return await asyncio.shield(self.death)

    def die(self, cause: str) -> None:
        """Dies now."""
        self.death.set_result(EngineDead(cause))

    async def stop(self, *, at_once: bool = False) -> None:
        """Takes note."""
        self.stopped, self.stopped_at_once = True, at_once


def started(*events: GenerationEvent | Exception) -> ScriptedEngine:
    """Makes an engine that starts at once."""
    engine = ScriptedEngine(*events)
    engine.may_start.set()
    return engine


def completed(**values: object) -> Completed:
    """Makes a last event."""
    defaults = {"reason": FinishReason.STOP, "prompt_tokens": 2, "completion_tokens": 1}
    return Completed(**(defaults | values))
