"""The cache on a CPU is what streams need and memory affords.

The number format that fits a processor.
"""

from __future__ import annotations

import pytest

from vllama_server.vllm_adapter.cpu import GIB, cpu_cache_bytes, number_format

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


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx2 fma\n", "float32"),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", "auto"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "auto"),
        ("", "auto"),
    ],
    ids=["avx2", "avx512", "arm", "unknown"],
)
def test_bfloat16_only_where_it_is_fast(cpuinfo: str, dtype: str) -> None:
    """Without AVX-512 bfloat16 would be emulated; if that is unknown the checkpoint decides."""
    assert number_format(cpuinfo) == dtype
