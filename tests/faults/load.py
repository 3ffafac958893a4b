"""A bounded load of gRPC clients against the simulated engine, every event and token of it checked."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from tests.faults.stream_check import StreamCheck, expected_ids, expected_text
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.recovery import Recovery

MODEL = "demo:1b"
REROUTE_SECONDS = 1.0
"""Within this time another worker has to have the request of one that failed."""


def prompt_of(number: int, tokens: int = 32) -> str:
    """Makes a prompt of about `tokens` simulated tokens (4 bytes each) that no other number has."""
    head = f"request {number}: "
    return (head + "lorem ipsum dolor " * tokens)[: max(len(head), 4 * tokens)]


def request_of(prompt: str, tokens: int, **fields: object) -> generation_pb2.GenerateRequest:
    """A completion of exactly `tokens` tokens."""
    return generation_pb2.GenerateRequest(
        model=MODEL, prompt=prompt, sampling=generation_pb2.Sampling(max_tokens=tokens), **fields
    )


@dataclass
class Outcome:
    """What became of a load."""

    complete: int = 0
    truncated: int = 0
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Errors by status name."""
    differences: list[str] = field(default_factory=list)
    """What was wrong with the truncated and wrong ones."""
    migrated: int = 0
    workers: Counter[str] = field(default_factory=Counter)
    """Complete requests by the worker that started them."""
    seconds: float = 0.0
    slowest_gap_seconds: float = 0.0
    """Longest time that any stream went without an event."""
    recovery: Recovery | None = None
    """How soon requests of failed workers went on, where that was asked."""

    @property
    def clean(self) -> bool:
        """Whether every request was answered whole and right."""
        return not (self.truncated or self.wrong or self.failed)

    def judge(self, check: StreamCheck, prompt: str, tokens: int) -> None:
        """Counts a stream that ended without an error."""
        expected = expected_text(prompt, tokens)
        differences = check.differences(expected, expected_ids(prompt, tokens))
        self.differences += differences
        if check.finished is None or (check.text != expected and expected.startswith(check.text)):
            self.truncated += 1
        elif differences or check.started is None:
            self.wrong += 1
        else:
            self.complete += 1
            self.workers[check.started.worker] += 1
        self.migrated += bool(check.finished and check.finished.migrations)


@dataclass
class Load:
    """So many clients, each with one request at a time, until all requests are done."""

    target: str
    clients: int = 8
    requests: int = 100
    """Requests of each client."""
    tokens: int = 40
    prompt_tokens: int = 32
    timeout_seconds: float = 60.0
    first: int = 0
    """Number of the first prompt, so that two loads share none."""
    make: Callable[[int, int], tuple[generation_pb2.GenerateRequest, str]] | None = None
    """Makes the request of a number and a length, and its rendered prompt; unset, a completion."""
    done: int = 0
    outcome: Outcome = field(default_factory=Outcome)

    async def run(self, during: Callable[[], Awaitable[None]] | None = None) -> Outcome:
        """Runs the load, and `during` beside it; returns when both have ended."""
        begun = time.monotonic()
        async with grpc.aio.insecure_channel(self.target) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            jobs = [self._client(stub, number) for number in range(self.clients)]
            if during is not None:
                jobs.append(during())  # type: ignore[arg-type]
            await asyncio.gather(*jobs)
        self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    async def reached(self, share: float) -> None:
        """Returns once this share of all requests is done."""
        while self.done < share * self.clients * self.requests:
            await asyncio.sleep(0.01)

    async def _client(self, stub: generation_pb2_grpc.GenerationStub, client: int) -> None:
        for number in range(self.requests):
            await self._one(stub, self.first + client * self.requests + number)
            self.done += 1

    async def _one(self, stub: generation_pb2_grpc.GenerationStub, number: int) -> None:
        if self.make is not None:
            request, prompt = self.make(number, self.tokens)
        else:
            prompt = prompt_of(number, self.prompt_tokens)
            request = request_of(prompt, self.tokens)
        check, last = StreamCheck(), time.monotonic()
        try:
            async for event in stub.Generate(request, timeout=self.timeout_seconds):
                now = time.monotonic()
                self.outcome.slowest_gap_seconds = max(self.outcome.slowest_gap_seconds, now - last)
                last = now
                check.add(event)
        except grpc.aio.AioRpcError as error:
            self.outcome.failed[error.code().name] += 1
            return
        self.outcome.judge(check, prompt, self.tokens)
