"""What a CPU worker is set to: the process that computes, its cores, number format and cache size.

vLLM gives a CPU model a process of its own, apart from the scheduler's, because OpenMP reads its binding to cores
once, when a process begins. On one device that process gains nothing: the scheduler waits for each step, while both
run idle loops over the memory that they share. So the scheduler's process computes here, as it does on a GPU, and its
binding is in the environment when it starts. That saves a process's import of vLLM at every start.
"""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import vllm.v1.engine.utils
from vllm.platforms import current_platform
from vllm.utils.ompmultiprocessing import OMPProcessManager

if TYPE_CHECKING:
    from collections.abc import Iterator


def share_process(config: Any) -> None:
    """Makes the scheduler's process compute, if one process is enough."""
    if config.parallel_config.world_size == 1:
        config.parallel_config.distributed_executor_backend = "uni"


@contextmanager
def bound_to_cores(config: Any) -> Iterator[None]:
    """Binds processes that start inside the block to cores; does nothing where vLLM does it."""
    if not current_platform.is_cpu() or config.parallel_config.distributed_executor_backend != "uni":
        yield
        return
    with OMPProcessManager(config).configure_omp_envs(rank=0, local_rank=0):
        yield


@contextmanager
def forked(preloaded: bool) -> Iterator[None]:
    """Makes vLLM fork the engine's process from the preloaded one, if there is one.

    vLLM can only spawn its processes or fork the worker, so its choice is replaced inside the block.
    """
    engine = vllm.v1.engine.utils
    chosen = engine.get_mp_context
    if preloaded:
        engine.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    try:
        yield
    finally:
        engine.get_mp_context = chosen


CPUINFO = Path("/proc/cpuinfo")


def number_format(cpuinfo: str) -> str:
    """Returns a dtype for vLLM from the text of /proc/cpuinfo: "auto", or "float32".

    oneDNN, which multiplies matrices for torch, has bfloat16 kernels for AVX-512 and above only;
    below that every product is emulated. Two workers with the embedded model and 20 streams on an
    AVX2 processor gave 13 tokens/s in bfloat16 and 55 to 59 in float32.
    """
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), None)
    # Other architectures name their features differently; there the checkpoint's own format stands.
    return "auto" if flags is None or "avx512f" in flags else "float32"


def read_number_format() -> str:
    """Returns the dtype for this machine."""
    try:
        return number_format(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return "auto"


GIB = 1024**3
MOST_CPU_CACHE_BYTES = 1 * GIB
"""The whole cache is written at the start: a larger one takes seconds and memory that a CPU rarely fills."""
CPU_CACHE_SHARE = 0.1
"""Share of the free memory that one worker takes for its cache: several may start at once."""


def bytes_per_token(config: Any) -> int:
    """Bytes of keys and values of one token in all layers."""
    model, parallel = config.model_config, config.parallel_config
    heads = model.get_num_kv_heads(parallel)
    layers = model.get_num_layers(parallel)
    return int(2 * layers * heads * model.get_head_size() * model.dtype.itemsize)


def cpu_cache_bytes(per_token: int, context: int, streams: int, block: int, free_bytes: int) -> int:
    """Returns the cache size on a CPU: every stream's whole context if that is affordable, one context at least."""
    context_bytes = per_token * (-(-context // block) + 1) * block
    affordable = min(MOST_CPU_CACHE_BYTES, int(free_bytes * CPU_CACHE_SHARE))
    return max(context_bytes, min(context_bytes * streams, affordable))


def free_memory_bytes() -> int:
    """Returns the memory that processes can still take on this machine."""
    return int(psutil.virtual_memory().available)
