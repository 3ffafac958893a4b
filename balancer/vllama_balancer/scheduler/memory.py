"""Memory checks before a load: on the GPU of a slot, and in the host for models that sleep.

vLLM takes its share of the whole GPU at the start and fails when less is free. The weights must fit into that share
besides what computing takes. These are estimates in numbers that a user can act on; the worker has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from vllama_balancer.fleet.assignment import DEFAULT_GPU_SHARE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.fleet.assignment import HostedModel, Slot
    from vllama_balancer.fleet.devices import DeviceProbe, Gpu

GIB = 1024**3
COMPUTING_BYTES = GIB
"""What a worker needs beside the weights: CUDA's own context, workspaces, and a little KV cache."""
RESERVED_SHARE = 0.1
"""Share of the host's memory that stays free for everything else: files being read, new workers, other programs."""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The model does not fit there even when nothing else is on the GPU."""

    reason: str


@dataclass(frozen=True, slots=True)
class GpuInUse:
    """The model would fit if other processes left the GPU."""

    reason: str


Shortage = TooLarge | GpuInUse


class GpuMemory:
    """Compares what a model needs with what the GPU of a slot has."""

    def __init__(self, probe: DeviceProbe, utilization: float | None) -> None:
        """Takes the share of a GPU that its workers take together, where the operator has set one."""
        self._probe = probe
        self._share = utilization or DEFAULT_GPU_SHARE

    def too_large(self, hosted: HostedModel, slots: Sequence[Slot]) -> TooLarge | None:
        """Returns why a model fits at none of the slots, whatever leaves the GPUs; None if it may fit at one.

        Asks the driver: call it in a thread.
        """
        if not hosted.size_bytes or not all(map(selector_of, slots)):
            return None
        shortages = [self.shortage(hosted, slot) for slot in slots]
        too_large = [shortage for shortage in shortages if isinstance(shortage, TooLarge)]
        return too_large[0] if too_large and len(too_large) == len(shortages) else None

    def shortage(self, hosted: HostedModel, slot: Slot, *, is_asleep: bool = False) -> Shortage | None:
        """Returns what keeps a worker from starting or waking there; None off GPUs, too.

        Asks the driver: call it in a thread.
        """
        kept_bytes = COMPUTING_BYTES if is_asleep else 0
        selector = selector_of(slot)
        gpu = next((gpu for gpu in self._probe.gpus() if gpu.selector == selector), None) if selector else None
        return None if gpu is None else _shortage(hosted, slot, gpu, slot.gpu_share or self._share, kept_bytes)


def selector_of(slot: Slot) -> str:
    """Returns the GPU of a slot; empty where there is none."""
    return slot.environment.get("CUDA_VISIBLE_DEVICES", "") if slot.device == "cuda" else ""


def spare_host_memory() -> int:
    """Returns the bytes that a model that falls asleep may take now."""
    memory = psutil.virtual_memory()
    return max(0, int(memory.available - RESERVED_SHARE * memory.total))


def _shortage(hosted: HostedModel, slot: Slot, gpu: Gpu, share: float, kept_bytes: int) -> Shortage | None:
    """Compares a worker's share of the whole GPU with what it needs and what is free.

    A sleeping worker has kept `kept_bytes` of its share.
    """
    granted = round(gpu.memory_bytes * share)
    needed = hosted.size_bytes + COMPUTING_BYTES
    device = f"GPU {gpu.selector} ({gpu.name}, {_gib(gpu.memory_bytes)})"
    if hosted.size_bytes and needed > granted:
        return TooLarge(
            f"{hosted.names[0]} needs {_gib(hosted.size_bytes)} for its weights and some {_gib(COMPUTING_BYTES)} to "
            f"compute, and a worker has {_gib(granted)} of {device}: {_way_out(needed, slot, gpu, share)}"
        )
    if granted - kept_bytes > gpu.free_bytes:
        return GpuInUse(
            f"a worker takes {_gib(granted)} of {device}, and {_gib(gpu.free_bytes)} of it are free: stop what else "
            "uses the GPU (nvidia-smi lists it), or lower --gpu-memory-utilization"
        )
    return None


def _way_out(needed: int, slot: Slot, gpu: Gpu, share: float) -> str:
    if slot.gpu_share is not None and needed <= gpu.memory_bytes * DEFAULT_GPU_SHARE:
        return "start with fewer --workers or a higher --gpu-memory-utilization, or pull a quantized tag"
    if share < DEFAULT_GPU_SHARE and needed <= gpu.memory_bytes * DEFAULT_GPU_SHARE:
        return f"raise --gpu-memory-utilization to {needed / gpu.memory_bytes + 0.05:.2f}, or pull a quantized tag"
    return "pull a smaller model or a quantized tag (AWQ, GPTQ, FP8), or use a larger GPU"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
