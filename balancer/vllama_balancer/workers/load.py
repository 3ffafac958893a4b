"""The load of one worker: exact counts of this balancer's leases, and its reports of everything else.

Counts change in the same synchronous step as the pick, so each decision of a burst sees the ones before it. Reports lag
by up to a second and only add the load of other balancers.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.routing.snapshot import ASSIGNED_HALF_LIFE_SECONDS, STREAMS_PER_STEP, Candidate

if TYPE_CHECKING:
    from vllama_protos.v1 import worker_pb2

TTFT_WINDOW_REQUESTS = 256
"""Enough for a 99th percentile, few enough to be recent."""


class Reservation(NamedTuple):
    """The cost of one lease on its worker."""

    prompt_tokens: int
    """Uncached tokens to compute before the first token."""
    kv_tokens: int
    """Tokens of KV cache that it may fill: the prompt and the expected output."""


@dataclass(slots=True)
class Capacity:
    """Size and speed of a worker, from its description and reports."""

    max_streams: int = 1
    """Streams served at once."""
    kv_cache_tokens: int = 0
    """Tokens that the KV cache holds; 0: unknown."""
    prefill_tokens_per_second: float = 0.0
    """0: not measured."""
    step_seconds: float = 0.0
    """0: not measured."""


@dataclass(slots=True)
class Load:
    """Counts of one incarnation. Every `reserve` is undone by `computed` and `release`."""

    capacity: Capacity = field(default_factory=Capacity)
    streams: int = 0
    """Leases held."""
    prompt_tokens: int = 0
    """Uncached prompt tokens of leases before their first token."""
    kv_tokens: int = 0
    """KV cache tokens reserved by leases."""
    ready_at: float = -math.inf
    """When this incarnation became ready."""
    is_reserved: bool = False
    """Whether the worker is kept for one request: it is no candidate for others. Set it by `keep_for_one`."""
    _assigned_until: float = -math.inf
    _stream_seconds: float = 0.0
    _reported_kv_use: float = 0.0
    _reported_at: float = -math.inf
    _other_streams: int = 0
    _other_prompt_tokens: int = 0
    _measured_at: float = -math.inf
    _candidate: Candidate | None = None
    _is_stale: bool = True

    def reserve(self, reservation: Reservation, now: float) -> None:
        """Counts a new lease."""
        self._is_stale = True
        self.streams += 1
        self.prompt_tokens += reservation.prompt_tokens
        self.kv_tokens += reservation.kv_tokens
        self._assign(reservation.prompt_tokens, now)

    def correct(self, estimated: Reservation, actual: Reservation) -> None:
        """Replaces an estimate by the worker's own counts while the prompt is still being computed."""
        self._is_stale = True
        self.prompt_tokens += actual.prompt_tokens - estimated.prompt_tokens
        self.kv_tokens += actual.kv_tokens - estimated.kv_tokens

    def computed(self, reservation: Reservation) -> None:
        """Takes a prompt off the count: its first token has come, or it will never be computed."""
        self._is_stale = True
        self.prompt_tokens -= reservation.prompt_tokens

    def release(self, reservation: Reservation) -> None:
        """Takes a lease off the count. Its prompt must have been taken off by `computed` before."""
        self._is_stale = True
        self.streams -= 1
        self.kv_tokens -= reservation.kv_tokens

    def report(self, report: worker_pb2.WorkerReport, now: float) -> None:
        """Applies a report of the worker."""
        self._is_stale = True
        streams = report.running + report.waiting
        self._reported_kv_use = _between(report.kv_cache_use, 1.0)
        self._reported_at = now
        self._other_streams = max(streams - self.streams, 0)
        # Engines count cached tokens of waiting prompts too: without other streams, the excess is this balancer's own.
        others_queued = max(report.queued_prompt_tokens - self.prompt_tokens, 0)
        self._other_prompt_tokens = others_queued if self._other_streams else 0
        step_seconds = max(report.step.seconds + report.step.nanos / 1e9, 0.0)
        prefill = report.prefill_tokens_per_second
        prefill = prefill if 0.0 < prefill < math.inf else 0.0
        before = (self.capacity.step_seconds, self.capacity.prefill_tokens_per_second)
        if streams or self.streams or before != (step_seconds, prefill):
            self._measured_at = now
        self.capacity.prefill_tokens_per_second = prefill
        self.capacity.step_seconds = step_seconds
        # The step was measured with these streams.
        self._stream_seconds = step_seconds / (STREAMS_PER_STEP + streams)

    def ready(self, capacity: Capacity, now: float) -> None:
        """Begins the service of this incarnation: it counts as fresh for a while."""
        self._is_stale = True
        self.capacity = capacity
        self._stream_seconds = 0.0
        self.ready_at = now

    @property
    def is_full(self) -> bool:
        """Whether there is no stream to spare."""
        return self.streams >= self.capacity.max_streams

    def keep_for_one(self, is_reserved: bool) -> None:
        """Keeps the worker for one request, or opens it for all again."""
        self._is_stale = True
        self.is_reserved = is_reserved

    def candidate(self, name: str) -> Candidate | None:
        """Returns the counts for a policy, cached until they change; None when there is no stream to spare."""
        if self._is_stale:
            self._is_stale = False
            self._candidate = self._freeze(name)
        return self._candidate

    def _freeze(self, name: str) -> Candidate | None:
        capacity = self.capacity
        if self.is_full or self.is_reserved:
            return None
        kv_per_token = 1.0 / capacity.kv_cache_tokens if capacity.kv_cache_tokens else 0.0
        # Positional: keyword arguments would take longer than all the rest.
        return Candidate(
            name,
            self.streams,
            capacity.max_streams,
            self.prompt_tokens,
            self.kv_tokens * kv_per_token,
            kv_per_token,
            self._assigned_until,
            self._other_streams,
            self._other_prompt_tokens,
            self._reported_kv_use,
            self._reported_at,
            capacity.prefill_tokens_per_second,
            self._stream_seconds,
            self._measured_at,
            self.ready_at,
        )

    def _assign(self, tokens: int, now: float) -> None:
        total = tokens + math.exp2((self._assigned_until - now) / ASSIGNED_HALF_LIFE_SECONDS)
        if total:
            self._assigned_until = now + ASSIGNED_HALF_LIFE_SECONDS * math.log2(total)


def _between(number: float, most: float) -> float:
    """Returns a reported number of at least 0; NaN counts as 0."""
    return min(max(number, 0.0), most) if number == number else 0.0


class TtftWindow:
    """Times to first token of a worker's latest requests, in seconds from placement."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=TTFT_WINDOW_REQUESTS)

    def record(self, seconds: float) -> None:
        """Adds one request; the oldest beyond the window is dropped."""
        self._seconds.append(seconds)

    def quantile(self, share: float) -> float | None:
        """Returns the least time that this share of the requests did not exceed; None before the first."""
        if not self._seconds:
            return None
        return sorted(self._seconds)[max(0, math.ceil(share * len(self._seconds)) - 1)]
