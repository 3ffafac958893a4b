"""Which process computes on a CPU, and on which cores.

vLLM gives a CPU model a process of its own, apart from the scheduler's, because OpenMP reads its
binding to cores once, when a process begins, and vLLM has no other place to set it. On one device
that process buys nothing: the scheduler waits for each step anyway, while both turn idle loops over
the memory that they share. So the scheduler's process computes here, as it does on a GPU, and its
binding is in the environment when it is started. That saves a process's import of vLLM at every
start.
"""

from __future__ import annotations

import multiprocessing
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import vllm.v1.engine.utils
from vllm.platforms import current_platform
from vllm.utils.ompmultiprocessing import OMPProcessManager

if TYPE_CHECKING:
    from collections.abc import Iterator


def share_process(config: Any) -> None:
    """Lets the scheduler's process compute, where one process is enough."""
    if config.parallel_config.world_size == 1:
        config.parallel_config.distributed_executor_backend = "uni"


@contextmanager
def bound_to_cores(config: Any) -> Iterator[None]:
    """Binds the computing of the processes that are started meanwhile; does nothing where vLLM does it."""
    if not current_platform.is_cpu() or config.parallel_config.distributed_executor_backend != "uni":
        yield
        return
    with OMPProcessManager(config).configure_omp_envs(rank=0, local_rank=0):
        yield


@contextmanager
def forked(preloaded: bool) -> Iterator[None]:
    """Lets the engine's process be forked from the preloaded one, if there is one.

    vLLM spawns its processes or forks the worker, and offers no third way; so for the time of one
    construction its choice is replaced.
    """
    engine = vllm.v1.engine.utils
    chosen = engine.get_mp_context
    if preloaded:
        engine.get_mp_context = lambda: multiprocessing.get_context("forkserver")
    try:
        yield
    finally:
        engine.get_mp_context = chosen
