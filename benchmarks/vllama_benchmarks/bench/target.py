"""The interface of a target: it opens sessions, and a session sends one request after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from vllama_benchmarks.bench.sample import Request, Sample


class Session(Protocol):
    """One simulated user: a connection and its requests, one at a time."""

    async def run(self, request: Request) -> Sample:
        """Sends a request and reads its answer to the end. Failures are samples with an error, not exceptions."""
        ...


class Target(Protocol):
    """A server or program that generates."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Opens a session; it ends with the block."""
        ...
