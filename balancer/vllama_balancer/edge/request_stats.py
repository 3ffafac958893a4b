"""What one HTTP request did, collected on its way for the access log and the metrics.

Numbers and names only: no text of a prompt or an answer ever comes here.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from vllama_protos.v1 import generation_pb2

_GOOD_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class RequestStats:
    """The facts of one request; counts add up over all of its generations."""

    request_id: str
    """The client's X-Request-Id, or one made here."""
    client: str
    """Who asks: the key for fair turns and for limits."""
    arrived_ns: int = field(default_factory=time.monotonic_ns)
    """When the request came, on the monotonic clock."""
    model: str = ""
    worker: str = ""
    """The worker that served it first."""
    reason: str = ""
    """Why that one, as the policy puts it."""
    generations: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    migrations: int = 0
    is_refused: bool = False
    """Whether a full queue has turned it away."""
    first_output_ns: int = 0
    """When the first output came; 0 before."""

    def next_generation_id(self) -> str:
        """Names one more generation of this request: the first has the request's own id."""
        self.generations += 1
        return self.request_id if self.generations == 1 else f"{self.request_id[:120]}-{self.generations}"

    def record_started(self, started: generation_pb2.Started, reason: str) -> None:
        """Notes that a worker has taken a generation, and why that one."""
        if not self.worker:
            self.worker, self.reason = started.worker, reason
        self.prompt_tokens += started.prompt_tokens

    def record_output(self) -> None:
        """Notes output; only the first time counts."""
        self.first_output_ns = self.first_output_ns or time.monotonic_ns()

    def record_finished(self, finished: generation_pb2.Finished) -> None:
        """Notes the end of a generation."""
        self.completion_tokens += finished.usage.completion_tokens
        self.migrations += finished.migrations

    @property
    def ttft_seconds(self) -> float | None:
        """Time from arrival to the first output; None when there was none."""
        return (self.first_output_ns - self.arrived_ns) / 1e9 if self.first_output_ns else None

    def elapsed_ns(self) -> int:
        """Time since arrival."""
        return time.monotonic_ns() - self.arrived_ns


STATS: web.RequestKey[RequestStats] = web.RequestKey("stats", RequestStats)
"""Where a request keeps its stats."""


def request_id_of(given: str | None) -> str:
    """Takes a client's id when it is printable ASCII without blanks, 128 at most; else makes one."""
    if given is not None and _GOOD_ID.fullmatch(given):
        return given
    return secrets.token_hex(16)
