"""Token counts and durations of one generation: the six metrics and the context of an Ollama reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.duration_pb2 import Duration

    from vllama_protos.v1 import generation_pb2


class Metrics(TypedDict):
    """The six numbers of a last chunk; durations in nanoseconds."""

    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


class GenerationTimings:
    """Collects the times and tokens of one generation.

    The worker's own timings come first; missing ones are taken from the arrival times of events. Every number but
    `eval_count` is at least 1: Go drops zeros, and clients miss the key then.
    """

    def __init__(self, elapsed_ns: Callable[[], int], *, keep_tokens: bool = False) -> None:
        """`elapsed_ns` measures the time since the request's arrival."""
        self._elapsed_ns = elapsed_ns
        self._keep_tokens = keep_tokens
        self._started_ns = 0
        self._first_output_ns = 0
        self.token_ids: list[int] = []
        """Tokens of the prompt and of the answer so far, with `keep_tokens`."""

    def record_started(self, started: generation_pb2.Started) -> None:
        self._started_ns = self._elapsed_ns()
        if self._keep_tokens:
            self.token_ids.extend(started.prompt_token_ids)

    def record_output(self, delta: generation_pb2.Delta) -> None:
        if not self._first_output_ns:
            self._first_output_ns = self._elapsed_ns()
        if self._keep_tokens:
            self.token_ids.extend(delta.token_ids)

    def metrics(self, finished: generation_pb2.Finished) -> Metrics:
        """Returns the six metrics; the spans never exceed the total."""
        now_ns = self._elapsed_ns()
        first_output_ns = self._first_output_ns or now_ns
        timings = finished.timings
        load_ns = max(1, _ns(timings.queue) + _ns(timings.load) or self._started_ns)
        prompt_ns = max(1, _ns(timings.prompt) or first_output_ns - self._started_ns)
        decode_ns = max(1, _ns(timings.decode) or now_ns - first_output_ns)
        usage = finished.usage
        return {
            "total_duration": max(now_ns, load_ns + prompt_ns + decode_ns),
            "load_duration": load_ns,
            "prompt_eval_count": max(1, usage.prompt_tokens),
            "prompt_eval_duration": prompt_ns,
            # 0 only with num_predict 0, whose clients expect none.
            "eval_count": usage.completion_tokens,
            "eval_duration": decode_ns,
        }


def _ns(span: Duration) -> int:
    return max(0, span.seconds * 1_000_000_000 + span.nanos)
