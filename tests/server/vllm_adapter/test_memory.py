"""The cache on a CPU is what streams need and memory affords."""

from __future__ import annotations

import pytest

from vllama_server.vllm_adapter.memory import GIB, cpu_cache_bytes

CONTEXT_BYTES = 33 * 128 * 1024
"""A context of 4096 tokens of 1 KiB, in blocks of 128, and one block to spare."""


@pytest.mark.parametrize(
    ("streams", "free_gib", "expected"),
    [(1, 20, CONTEXT_BYTES), (64, 20, 64 * CONTEXT_BYTES), (10_000, 20, GIB), (64, 0.001, CONTEXT_BYTES)],
    ids=["one stream", "all contexts", "bounded", "at least one context"],
)
def test_the_cache_fits_streams_and_memory(streams: int, free_gib: float, expected: int) -> None:
    """Every stream's whole context if that is affordable, one context in any case."""
    assert cpu_cache_bytes(1024, 4096, streams, 128, int(free_gib * GIB)) == expected
