"""The number format that fits a processor."""

import pytest

from vllama_server.vllm_adapter.processor import number_format


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
    """Without AVX-512 bfloat16 would be emulated; where that cannot be told the checkpoint decides."""
    assert number_format(cpuinfo) == dtype
