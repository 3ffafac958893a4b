"""vLLM's worker for CPUs, with seeded draws that do not depend on the steps of a prompt.

vLLM samples in every step, also for a prompt that is computed only in part. It then discards the
token and takes the draw back: `generator.set_offset(generator.get_offset() - 4)`. Only generators of
CUDA have an offset; on a CPU the call raises and ends the engine.

Here such a request has no generator while its step is sampled. It draws from the unseeded stream
instead, so nothing is left to take back, whatever vLLM draws in a step: one number, none in a greedy
batch, several with speculative decoding. vLLM loads this class by its engine argument `worker_cls`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vllm.v1.worker.cpu_worker import CPUWorker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class SeededCPUWorker(CPUWorker):  # type: ignore[misc]  # vLLM is not analysed
    """A CPUWorker; vLLM's second model runner has no generators and stays as it is."""

    def init_device(self) -> None:
        """Builds the model runner. Raises RuntimeError for a vLLM whose runner has other parts."""
        super().init_device()
        if not self.use_v2_model_runner:
            batch_state(self.model_runner)

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Samples the step that `execute_model` computed."""
        if self.use_v2_model_runner:
            return super().sample_tokens(grammar_output)
        generators, discarded_rows = batch_state(self.model_runner)
        with without(generators, discarded_rows):
            return super().sample_tokens(grammar_output)


def batch_state(runner: Any) -> tuple[dict[int, Any], list[int]]:
    """Returns the generators by row of the batch, and the rows whose tokens will be discarded.

    Raises RuntimeError for a vLLM that keeps them elsewhere.
    """
    try:
        batch = runner.input_batch
        discarded = runner.discard_request_mask.np[: batch.num_reqs]
        return batch.generators, discarded.nonzero()[0].tolist()
    except AttributeError as error:
        raise RuntimeError(f"Seeds on a CPU need another vLLM than the installed one: {error}.") from error


@contextmanager
def without(generators: dict[int, Any], rows: Iterable[int]) -> Iterator[None]:
    """Removes the generators of these rows, and puts them back in the end."""
    removed = {row: generators.pop(row) for row in rows if row in generators}
    try:
        yield
    finally:
        generators.update(removed)
