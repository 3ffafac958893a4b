"""Environment variables that vLLM reads when it is imported, set once before that.

vLLM takes its process-wide switches from the environment only, and hands the whole environment on
to its processes; so setting them is the adapter's business although configuration is read
elsewhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllama_server.vllm_adapter.child_plugin import OWNER_VARIABLE, REPORTS_VARIABLE
from vllama_server.vllm_adapter.devices import BATCH_INVARIANT_CAPABILITY

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence
    from pathlib import Path

    from vllama_server.vllm_adapter.devices import VisibleDevice
    from vllama_server.vllm_adapter.profile import EngineProfile

PLUGIN = "vllama"
"""Name of our entry point in the group vllm.general_plugins."""


def prepare(
    environ: MutableMapping[str, str],
    profile: EngineProfile,
    reports: Path,
    *,
    cores: set[int],
    devices: Sequence[VisibleDevice],
    process_id: int,
) -> None:
    """Sets what the engine's processes need; what the operator has set already stays.

    `cores` are those that this process may use: without a binding of its own, vLLM would compute
    on all but one of them. `devices` are the NVIDIA devices that the engine may use.
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
        environ.setdefault("VLLM_BATCH_INVARIANT", "1" if has_batch_invariance(devices) else "0")
    _allow_plugin(environ)


def _allow_plugin(environ: MutableMapping[str, str]) -> None:
    """Adds our plug-in to the operator's list; a list that leaves it out would leave processes unwatched."""
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        environ["VLLM_PLUGINS"] = ",".join(part for part in (*allowed.split(","), PLUGIN) if part)


def has_batch_invariance(devices: Sequence[VisibleDevice]) -> bool:
    """Whether vLLM's batch-invariant kernels run on all of these devices; there must be one."""
    return bool(devices) and all(device.capability >= BATCH_INVARIANT_CAPABILITY for device in devices)


def allowed_cores() -> set[int]:
    """The logical CPUs that this process may run on."""
    return os.sched_getaffinity(0)
