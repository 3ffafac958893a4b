"""One generation over one or more attempts: its delivered output, its waits, and how it continues elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.dispatch.replay import Delivered, Diverged, Replay
from vllama_balancer.errors import WorkerLost
from vllama_balancer.routing.request_size import with_reply
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind
from vllama_protos.continuation import is_guided, must_replay
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from random import Random

    from google.protobuf.duration_pb2 import Duration

    from vllama_balancer.dispatch.placement_request import PlacementRequest
    from vllama_balancer.gateway import Call
    from vllama_balancer.routing.prefix_index import Prefix

SEED_BITS = 31
"""Seeds that every engine takes."""


class Generation:
    """The state of one generation; each attempt begins with `next_request`."""

    def __init__(
        self,
        model: str,
        request: generation_pb2.GenerateRequest,
        placement_request: PlacementRequest,
        call: Call,
        rng: Random,
        arrived_at: float,
    ) -> None:
        """Takes the request over: its id, model, seed and resumed tokens are set in place."""
        self.model = model
        """Display name of its model."""
        self.placement_request = placement_request
        self.call = call
        self.arrived_at = arrived_at
        """On the balancer's clock."""
        self.failures = 0
        """Failed attempts since the last progress."""
        self.migrations = 0
        """Times it continued on another worker after the client had `started`."""
        self.is_started = False
        """Whether the client has `started`."""
        self.is_finished = False
        """Whether the client has `finished`."""
        self.queue_seconds = 0.0
        """Time in the queue while its model was served."""
        self.load_seconds = 0.0
        """Time in the queue while its model was being loaded."""
        self.first_token_at: float | None = None
        """On the balancer's clock."""
        self.stalled_since: float | None = None
        """Last sign of life of the first worker that failed it since it last ran; None while it runs."""
        self.failed_since: float | None = None
        """The same of the latest worker that failed it; None once the next one has the request."""
        self.delivered = Delivered()
        """The output that the client has."""
        request.request_id = placement_request.request_id
        self._request = request
        self._resumed_tokens = 0
        self._size = placement_request.size
        self._replays = must_replay(request)
        self._replay: Replay | None = None
        if is_guided(request) and not request.sampling.HasField("seed"):
            # Without a seed, the output of a guided generation could not be reproduced.
            request.sampling.seed = rng.getrandbits(SEED_BITS)

    @property
    def has_output(self) -> bool:
        """Whether the client has any token."""
        return bool(self.delivered.token_ids)

    def next_request(self, model: str) -> generation_pb2.GenerateRequest:
        """Returns the request of the next attempt; `model` is the name under which the worker serves the model."""
        self._request.model = model
        if self._replays:
            self._replay = Replay(self.delivered) if self.has_output else None
        else:
            self._request.resume_token_ids.extend(self.delivered.token_ids[self._resumed_tokens :])
            self._resumed_tokens = len(self.delivered.token_ids)
        return self._request

    def record_wait(self, seconds: float, *, is_loading: bool) -> None:
        """Adds a wait for a worker."""
        if is_loading:
            self.load_seconds += seconds
        else:
            self.queue_seconds += seconds

    def record_retry(self) -> None:
        """Prepares the next attempt after a failed one; a retry that the client could notice is a migration."""
        delivered = len(self.delivered.token_ids)
        expected = max(self._size.output_tokens - delivered, 0)
        self.placement_request.size = self._size._replace(
            prompt_tokens=self._size.prompt_tokens + delivered, output_tokens=expected
        )
        if self.is_started:
            self.migrations += 1

    def deliver(
        self, kind: str | None, response: generation_pb2.GenerateResponse
    ) -> generation_pb2.GenerateResponse | None:
        """Returns the part of a worker's event that is new to the client; None when there is none."""
        if kind == "delta":
            return self._deliver_delta(response)
        if kind == "started":
            if self.is_started:
                return None
            self.is_started = True
        return response

    def cached_prefix(self) -> Prefix:
        """Returns the blocks of the prompt and of everything that was generated after it."""
        return with_reply(self._request, self._size, self.delivered.message(), self.delivered.token_ids)

    def finish(self, response: generation_pb2.GenerateResponse, now: float) -> None:
        """Adds the balancer's own figures to a worker's `finished`. Raises AttemptFailed in the middle of a replay."""
        if self._replay is not None:
            raise _diverged()
        self.is_finished = True
        finished = response.finished
        finished.migrations = self.migrations
        timings = finished.timings
        _add_seconds(timings.queue, self.queue_seconds)
        _add_seconds(timings.load, self.load_seconds)
        if self.migrations and self.first_token_at is not None:
            # The last worker has measured its own part only.
            timings.decode.FromNanoseconds(int((now - self.first_token_at) * 1e9))

    def _deliver_delta(self, response: generation_pb2.GenerateResponse) -> generation_pb2.GenerateResponse | None:
        if self._replay is not None:
            rest = self._drop_delivered(self._replay, response.delta)
            if rest is None:
                return None
            response = generation_pb2.GenerateResponse(delta=rest)
        self.delivered.add(response.delta)
        self.failures = 0
        return response

    def _drop_delivered(self, replay: Replay, delta: generation_pb2.Delta) -> generation_pb2.Delta | None:
        try:
            rest = replay.remainder(delta)
        except Diverged as error:
            raise _diverged() from error
        if replay.is_over:
            self._replay = None
        return rest if rest.ByteSize() else None


def _diverged() -> AttemptFailed:
    lost = WorkerLost("the worker was lost, and another one did not reproduce the same output")
    return AttemptFailed(FailureKind.REJECTED, lost)


def _add_seconds(duration: Duration, seconds: float) -> None:
    if seconds > 0:
        duration.FromNanoseconds(duration.ToNanoseconds() + int(seconds * 1e9))
