"""How large the key-value cache on a CPU is made: vLLM would take nearly all of the machine's memory."""

from __future__ import annotations

from typing import Any

import psutil

GIB = 1024**3
MOST_CPU_CACHE_BYTES = 1 * GIB
"""The whole cache is touched at the start: a larger one takes seconds and memory that a CPU rarely comes to fill."""
CPU_CACHE_SHARE = 0.1
"""Share of the memory that is free which one worker takes for its cache: several may start at once."""


def bytes_per_token(config: Any) -> int:
    """Bytes of keys and values of one token in all layers."""
    model, parallel = config.model_config, config.parallel_config
    heads = model.get_num_kv_heads(parallel)
    layers = model.get_num_layers(parallel)
    return int(2 * layers * heads * model.get_head_size() * model.dtype.itemsize)


def cpu_cache_bytes(per_token: int, context: int, streams: int, block: int, free_bytes: int) -> int:
    """Sizes the cache on a CPU: every stream's whole context if that is affordable, one context at least."""
    context_bytes = per_token * (-(-context // block) + 1) * block
    affordable = min(MOST_CPU_CACHE_BYTES, int(free_bytes * CPU_CACHE_SHARE))
    return max(context_bytes, min(context_bytes * streams, affordable))


def free_memory_bytes() -> int:
    """Memory that processes can still take on this machine."""
    return int(psutil.virtual_memory().available)
