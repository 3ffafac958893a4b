"""The reason of a worker's crash is found in its last lines."""

from __future__ import annotations

import pytest

from vllama_balancer.fleet.process import crash_reason


@pytest.mark.parametrize(
    ("tail", "status", "cause"),
    [
        (["noise", "vllama worker: no memory; use --max-model-len 9", "bye"], 1, "no memory; use --max-model-len 9"),
        (["2026-11-22 21:00:00,1 ERROR worker-0 vllama_server.serving: the engine died", "x"], 3, "the engine died"),
        (['{"level": "info", "message": "a"}', '{"level": "error", "message": "b"}', "{broken"], 3, "b"),
        (["Traceback (most recent call last):", '  File "x"', "torch.OutOfMemoryError: CUDA out of memory"], 1,
         "torch.OutOfMemoryError: CUDA out of memory"),
        (["all is well"], -9, "it was killed by SIGKILL (out of memory?)"),
        ([], -11, "it was killed by SIGSEGV"),
        ([], 7, "it ended with status 7"),
        ([], -99, "it was killed by signal 99"),
    ],
)  # fmt: skip
def test_the_reason_is_the_workers_message_or_its_exit_status(tail: list[str], status: int, cause: str) -> None:
    """In this order: its last message, a logged error, an exception, the exit status."""
    assert crash_reason(tail, status) == cause
