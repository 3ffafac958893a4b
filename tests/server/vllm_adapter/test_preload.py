"""When a process imports vLLM ahead, and with which environment: what OpenMP reads it reads once."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from vllama_server.vllm_adapter.engine_config import EngineConfig
from vllama_server.vllm_adapter.preload import Preloader, computing_environment, listed_cores

if TYPE_CHECKING:
    from collections.abc import Mapping


def environment(environ: Mapping[str, str], **arguments: str) -> dict[str, str] | None:
    """What a worker with this environment and these engine arguments preloads with."""
    return computing_environment(EngineConfig("m", engine_args=arguments), environ)


@pytest.mark.parametrize(
    ("binding", "cores"),
    [
        ("0", [0]),
        ("0,2", [0, 2]),
        ("0-2, 5", [0, 1, 2, 5]),
        ("", []),
        ("auto", []),
        ("nobind", []),
        ("0-1|2-3", []),
        ("0-", []),
    ],
)
def test_lists_of_cores_are_read_and_nothing_else(binding: str, cores: list[int]) -> None:
    """VLLM's other words for a binding need vLLM to understand them."""
    assert listed_cores(binding) == cores


def test_openmp_finds_its_cores_and_its_library() -> None:
    """As vLLM itself would set them for a process that computes."""
    found = environment({"VLLM_CPU_OMP_THREADS_BIND": "0,2-3", "LD_PRELOAD": "/lib/libtcmalloc.so"})
    assert found is not None
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["GOMP_CPU_AFFINITY"] == "0 2 3"
    first, openmp = found["LD_PRELOAD"].split(":")
    assert first == "/lib/libtcmalloc.so"
    assert "libgomp" in openmp


@pytest.mark.parametrize(
    ("environ", "arguments"),
    [
        ({"VLLM_CPU_OMP_THREADS_BIND": "auto"}, {}),
        ({"VLLM_CPU_OMP_THREADS_BIND": "0", "LD_PRELOAD": "/lib/libiomp5.so"}, {}),
        ({"VLLM_CPU_OMP_THREADS_BIND": "0"}, {"distributed_executor_backend": "mp"}),
        ({"VLLM_CPU_OMP_THREADS_BIND": "0"}, {"tensor_parallel_size": "2"}),
    ],
    ids=["vLLM's own binding", "another OpenMP", "another layout", "several devices"],
)
def test_what_only_vllm_can_work_out_is_left_to_it(environ: dict[str, str], arguments: dict[str, str]) -> None:
    """Then its processes are spawned, and start a little later."""
    assert environment(environ, **arguments) is None


def test_the_process_lives_as_long_as_one_that_was_forked_from_it() -> None:
    """A second engine's end must not look like the first one's death."""
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=time.sleep, args=(60,))
    child.start()
    try:
        Preloader().end()
        assert child.is_alive()
    finally:
        child.kill()
        child.join(30)
    assert child.exitcode == -9
    Preloader().end()
    assert not any("forkserver" in " ".join(process.cmdline()) for process in psutil.Process().children())
