"""Environment variables that vLLM reads when it is imported, set once before that.

vLLM takes its process-wide switches from the environment only, and hands the whole environment on
to its processes; so setting them is the adapter's business although configuration is read
elsewhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllama_server.vllm_adapter.child_plugin import OWNER_VARIABLE, REPORTS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    from vllama_server.vllm_adapter.profile import EngineProfile

PLUGIN = "vllama"
"""Name of our entry point in the group vllm.general_plugins."""


def prepare(
    environ: MutableMapping[str, str], profile: EngineProfile, reports: Path, *, cores: set[int], process_id: int
) -> None:
    """Sets what the engine's processes need; what the operator has set already stays.

    `cores` are those that this process may use: without a binding of its own, vLLM would compute
    on all but one of them.
    """
    environ[OWNER_VARIABLE] = str(process_id)
    environ[REPORTS_VARIABLE] = str(reports)
    # Forking a process that runs gRPC's threads can deadlock the child.
    environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(str(core) for core in sorted(cores)))
    if profile.deterministic:
        environ.setdefault("VLLM_BATCH_INVARIANT", "1" if profile.device != "cpu" and has_batch_invariance() else "0")
    _allow_plugin(environ)


def _allow_plugin(environ: MutableMapping[str, str]) -> None:
    """Adds our plug-in to the operator's list; a list that leaves it out would leave processes unwatched."""
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        environ["VLLM_PLUGINS"] = ",".join(part for part in (*allowed.split(","), PLUGIN) if part)


def has_batch_invariance() -> bool:
    """Whether there is an NVIDIA device new enough (Hopper, 9.0) for vLLM's batch-invariant kernels."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return bool(handles) and all(pynvml.nvmlDeviceGetCudaComputeCapability(handle) >= (9, 0) for handle in handles)
    finally:
        pynvml.nvmlShutdown()


def allowed_cores() -> set[int]:
    """The logical CPUs that this process may run on."""
    return os.sched_getaffinity(0)
