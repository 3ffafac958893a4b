"""Environment variables that vLLM reads when it is imported, set once before that; and the placement group of Ray.

vLLM takes its process-wide switches from the environment only, and passes the whole environment to its processes. So
the adapter sets them, although configuration is read elsewhere.

Inside a Ray actor vLLM finds its placement group by itself. A worker is a process beside its actor: the actor passes
the group's id in a variable, and the engine's configuration carries the group to the engine's own processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama_server.vllm_adapter.child_plugin import DIRECTORY_VARIABLE, OWNER_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from vllama_server.vllm_adapter.engine_config import EngineConfig


BATCH_INVARIANT_CAPABILITY = (9, 0)
"""Hopper: the oldest devices that vLLM's batch-invariant kernels run on."""
PLUGIN = "vllama"
"""Name of our entry point in the group vllm.general_plugins."""


def prepare(
    environ: MutableMapping[str, str],
    engine_config: EngineConfig,
    directory: Path,
    *,
    cores: set[int],
    batch_invariant: bool,
    process_id: int,
) -> None:
    """Sets what the engine's processes need; keeps what the operator has set.

    `directory` is private to the engine. `cores` are those that this process may use: without a
    binding of its own, vLLM would compute on all but one of them. `batch_invariant` says that the
    device has kernels whose results do not depend on the batch.
    """
    environ[OWNER_VARIABLE] = str(process_id)
    environ[DIRECTORY_VARIABLE] = environ["VLLM_RPC_BASE_PATH"] = str(directory)
    # Compiled kernels must outlive the directory: the next start finds them.
    environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache_root(environ) / "torchinductor"))
    # Forking a process that runs gRPC's threads can deadlock the child.
    environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(str(core) for core in sorted(cores)))
    if engine_config.deterministic:
        environ.setdefault("VLLM_BATCH_INVARIANT", "1" if batch_invariant else "0")
    _allow_plugin(environ)


def _cache_root(environ: Mapping[str, str]) -> Path:
    """Returns the directory where vLLM keeps files for later starts."""
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(environ.get("VLLM_CACHE_ROOT") or Path(cache) / "vllm")


def _allow_plugin(environ: MutableMapping[str, str]) -> None:
    """Adds our plug-in to the operator's list, if there is one: without it processes neither report nor end."""
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        environ["VLLM_PLUGINS"] = ",".join(part for part in (*allowed.split(","), PLUGIN) if part)


def has_batch_invariance(nvml: Any) -> bool:
    """Returns whether there are NVIDIA devices and vLLM's batch-invariant kernels run on all; `nvml` is pynvml."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return False
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        capabilities = [nvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in handles]
        return bool(capabilities) and min(capabilities) >= BATCH_INVARIANT_CAPABILITY
    finally:
        nvml.nvmlShutdown()


def allowed_cores() -> set[int]:
    """Returns the logical CPUs that this process may run on."""
    return os.sched_getaffinity(0)


RAY_GROUP_VARIABLE = "VLLAMA_RAY_PLACEMENT_GROUP"
"""Hexadecimal id of the group; unset for a worker of its own."""


def use_placement_group(config: Any, environ: Mapping[str, str]) -> None:
    """Puts the group into the configuration of an engine that runs on Ray; changes nothing otherwise."""
    group_id = environ.get(RAY_GROUP_VARIABLE, "")
    if not group_id or config.parallel_config.distributed_executor_backend != "ray":
        return
    # Imported only here: a worker needs Ray for nothing else.
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    config.parallel_config.placement_group = PlacementGroup(PlacementGroupID(bytes.fromhex(group_id)))
