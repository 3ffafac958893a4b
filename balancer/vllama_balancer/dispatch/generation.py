"""What one generation has been through: what was delivered, where it failed, how it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.dispatch.replay import Delivered, Diverged, Replay, is_guided, needs_replay
from vllama_balancer.errors import WorkerLost
from vllama_balancer.routing.request_size import with_reply
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from random import Random

    from google.protobuf.duration_pb2 import Duration

    from vllama_balancer.dispatch.placer import PlacementRequest
    from vllama_balancer.gateway import Call
    from vllama_balancer.routing.prefix_index import Prefix

SEED_BITS = 31
"""Seeds that every engine takes."""


class Generation:
    """One generation on its way over one or more workers; each try begins with `next_request`."""

    def __init__(
        self,
        model: str,
        request: generation_pb2.GenerateRequest,
        placement_request: PlacementRequest,
        call: Call,
        rng: Random,
        arrived_at: float,
    ) -> None:
        self.model = model
        """Display name of its model."""
        self.placement_request = placement_request
        """What it shows to get a place."""
        self.call = call
        """Who asks, and until when."""
        self.arrived_at = arrived_at
        """When it came, on the balancer's clock."""
        self.failures = 0
        """Failed tries since the last progress."""
        self.migrations = 0
        """Times it went on elsewhere after the client had been told that it started."""
        self.is_started = False
        """Whether the client has `started`."""
        self.is_finished = False
        """Whether the client has `finished`."""
        self.queue_seconds = 0.0
        """Time it waited for places while its model was served."""
        self.load_seconds = 0.0
        """Time it waited for its model to be loaded."""
        self.first_token_at: float | None = None
        """When its first token came, on the balancer's clock."""
        self.silent_since: float | None = None
        """When the first of the workers that failed it gave its last sign; None while it runs."""
        self.failed_since: float | None = None
        """When the latest of them did; None once the next one has the request."""
        self._request = generation_pb2.GenerateRequest()
        self._request.CopyFrom(request)
        self._request.request_id = placement_request.request_id
        self._size = placement_request.size
        self._replays = needs_replay(request)
        self._replay: Replay | None = None
        self.delivered = Delivered()
        """What the client has."""
        if is_guided(request) and not request.sampling.HasField("seed"):
            # Without a seed, a guided generation could not be told to come out the same again.
            self._request.sampling.seed = rng.getrandbits(SEED_BITS)

    @property
    def has_output(self) -> bool:
        """Whether the client has any token."""
        return bool(self.delivered.token_ids)

    def next_request(self, model: str) -> generation_pb2.GenerateRequest:
        """Makes the request for the next try, under the name by which the worker serves the model."""
        self._request.model = model
        self._replay = Replay(self.delivered) if self._replays and self.has_output else None
        if self._replays or not self.has_output:
            return self._request
        request = generation_pb2.GenerateRequest()
        request.CopyFrom(self._request)
        request.resume_token_ids.extend(self.delivered.token_ids)
        return request

    def waited(self, seconds: float, *, is_loading: bool) -> None:
        """Notes a wait for a place."""
        if is_loading:
            self.load_seconds += seconds
        else:
            self.queue_seconds += seconds

    def moved(self) -> None:
        """Notes that the next try follows a failed one; a move that the client could tell is a migration."""
        delivered = len(self.delivered.token_ids)
        expected = max(self._size.output_tokens - delivered, 0)
        self.placement_request.size = self._size._replace(
            prompt_tokens=self._size.prompt_tokens + delivered, output_tokens=expected
        )
        if self.is_started:
            self.migrations += 1

    def relay(self, response: generation_pb2.GenerateResponse) -> generation_pb2.GenerateResponse | None:
        """Turns a worker's event into what the client gets of it; None for what it has already."""
        if response.HasField("delta"):
            return self._relay_delta(response)
        if response.HasField("started"):
            if self.is_started:
                return None
            self.is_started = True
            return response
        return response

    def cached_prefix(self) -> Prefix:
        """Names the blocks of the prompt and of everything that was generated after it."""
        return with_reply(self._request, self._size, self.delivered.message(), self.delivered.token_ids)

    def finish(self, response: generation_pb2.GenerateResponse, now: float) -> None:
        """Completes a worker's `finished` by what only the balancer knows."""
        self.is_finished = True
        finished = response.finished
        finished.migrations = self.migrations
        timings = finished.timings
        _add_seconds(timings.queue, self.queue_seconds)
        _add_seconds(timings.load, self.load_seconds)
        if self.migrations and self.first_token_at is not None:
            # The last worker only knows its own part.
            timings.decode.FromNanoseconds(int((now - self.first_token_at) * 1e9))

    def _relay_delta(self, response: generation_pb2.GenerateResponse) -> generation_pb2.GenerateResponse | None:
        if self._replay is not None:
            rest = self._swallow(self._replay, response.delta)
            if rest is None:
                return None
            response = generation_pb2.GenerateResponse(delta=rest)
        self.delivered.add(response.delta)
        self.failures = 0
        return response

    def _swallow(self, replay: Replay, delta: generation_pb2.Delta) -> generation_pb2.Delta | None:
        try:
            rest = replay.remainder(delta)
        except Diverged as error:
            lost = WorkerLost("the worker was lost, and another one did not reproduce the same output")
            raise AttemptFailed(FailureKind.REJECTED, lost) from error
        if replay.is_over:
            self._replay = None
        return rest if rest.ByteSize() else None


def _add_seconds(duration: Duration, seconds: float) -> None:
    if seconds > 0:
        duration.FromNanoseconds(duration.ToNanoseconds() + int(seconds * 1e9))
