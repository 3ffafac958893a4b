"""Engines that a test controls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine import events
from vllama_server.engine.protocol import EngineLoad
from vllama_server.errors import EngineDead
from vllama_server.fake_engine.engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vllama_server.engine.protocol import Progress


class ScriptedEngine(FakeEngine):
    """Yields the events of a script; starts and dies when the test says so."""

    def __init__(self, *script: pb.GenerateResponse | Exception) -> None:
        super().__init__()
        self.script = script or (accepted(2), events.delta("hi", [3]), completed())
        """The events of each generation; an exception is raised."""
        self.may_start = asyncio.Event()
        """`start` waits for this."""
        self.start_error: Exception | None = None
        """What `start` raises then."""
        self.may_end = asyncio.Event()
        """Each generation waits for this before its last event."""
        self.may_end.set()
        self.death: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Why the engine died."""
        self.requests: list[pb.GenerateRequest] = []
        """The requests so far."""
        self.closed = asyncio.Event()
        """Set when a generation has been closed."""
        self.reported = EngineLoad()
        """What `load` returns."""
        self.stopped = False
        """True once `stop` was called."""
        self.stopped_at_once = False
        """True if it was called for an engine that may not answer."""
        self.progress: Progress = lambda *_: None
        """The argument of `start`."""

    async def start(self, progress: Progress) -> None:
        """Starts when the test allows it."""
        self.progress = progress
        await self.may_start.wait()
        if self.start_error is not None:
            raise self.start_error

    def load(self) -> EngineLoad:
        return self.reported

    async def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Plays the script."""
        self.requests.append(request)
        try:
            for event in self.script:
                if event is self.script[-1]:
                    await self.may_end.wait()
                if isinstance(event, Exception):
                    raise event
                copy = pb.GenerateResponse()
                copy.CopyFrom(event)  # the runner adds the identity
                yield copy
        finally:
            self.closed.set()

    async def failed(self) -> Exception:
        return await asyncio.shield(self.death)

    def die(self, cause: str) -> None:
        """Dies now."""
        self.death.set_result(EngineDead(cause))

    async def stop(self, *, at_once: bool = False) -> None:
        self.stopped, self.stopped_at_once = True, at_once


def started(*script: pb.GenerateResponse | Exception) -> ScriptedEngine:
    """Returns an engine that starts at once."""
    engine = ScriptedEngine(*script)
    engine.may_start.set()
    return engine


def accepted(prompt_tokens: int = 1, **values: int) -> pb.GenerateResponse:
    """Returns a first event."""
    return events.started(pb.GenerateRequest(), range(prompt_tokens), **values)


def completed(**values: object) -> pb.GenerateResponse:
    """Returns a last event."""
    defaults = {"reason": pb.FINISH_REASON_STOP, "prompt_tokens": 2, "completion_tokens": 1}
    return events.finished(**(defaults | values))
