"""Statistics of one HTTP request, for the access log and the metrics: numbers and names, never any text."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from vllama_balancer.callers import Caller
    from vllama_protos.v1 import generation_pb2

_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class RequestStats:
    """Statistics of one request; counts are sums over its generations."""

    request_id: str
    """The client's X-Request-Id, or one made here."""
    caller: Caller
    """The sender; one without rights until they are known."""
    arrived_ns: int = field(default_factory=time.monotonic_ns)
    """Arrival on the monotonic clock."""
    model: str = ""
    worker: str = ""
    """The first worker that served it."""
    reason: str = ""
    """The policy's reason for that worker."""
    generations: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    migrations: int = 0
    is_refused: bool = False
    """Whether a full queue refused it."""
    first_output_ns: int = 0
    """Time of the first output; 0 before it."""

    @property
    def client(self) -> str:
        """Key of fair queueing and of limits: the API key's owner or the client's address."""
        return self.caller.identity

    def next_generation_id(self) -> str:
        """Returns the id of the request's next generation: the first has the request's own."""
        self.generations += 1
        return self.request_id if self.generations == 1 else f"{self.request_id[:120]}-{self.generations}"

    def record_started(self, started: generation_pb2.Started, reason: str) -> None:
        if not self.worker:
            self.worker, self.reason = started.worker, reason
        self.prompt_tokens += started.prompt_tokens

    def record_output(self) -> None:
        self.first_output_ns = self.first_output_ns or time.monotonic_ns()

    def record_finished(self, finished: generation_pb2.Finished) -> None:
        self.completion_tokens += finished.usage.completion_tokens
        self.migrations += finished.migrations

    @property
    def ttft_seconds(self) -> float | None:
        """Time from arrival to the first output; None without output."""
        return (self.first_output_ns - self.arrived_ns) / 1e9 if self.first_output_ns else None

    def elapsed_ns(self) -> int:
        """Returns the time since arrival."""
        return time.monotonic_ns() - self.arrived_ns


STATS: web.RequestKey[RequestStats] = web.RequestKey("stats", RequestStats)
"""Key of a request's stats."""


def request_id_of(given: str | None) -> str:
    """Returns the client's id if it is 1 to 128 printable ASCII characters without blanks; else a new one."""
    if given is not None and _GOOD_ID.fullmatch(given):
        return given
    return secrets.token_hex(16)
