"""Whether a worker finds the memory it needs on its GPU, before minutes of loading find it out.

vLLM takes its share of the whole GPU at the start and fails when less is free; the weights must fit into that share
besides what computing takes. Estimates, told in numbers: the worker itself has the last word.

How much of the host's memory sleeping models may take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from vllama_balancer.fleet.assignment import DEFAULT_GPU_SHARE

if TYPE_CHECKING:
    from vllama_balancer.fleet.assignment import HostedModel, Slot
    from vllama_balancer.fleet.devices import DeviceProbe, Gpu


GIB = 1024**3
COMPUTING_BYTES = GIB
"""What a worker needs beside the weights: CUDA's own context, workspaces, and a little KV cache."""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The model does not fit there even when nothing else is on the GPU."""

    reason: str


@dataclass(frozen=True, slots=True)
class GpuInUse:
    """It would fit if others left the GPU."""

    reason: str


Shortage = TooLarge | GpuInUse


def obstacle(model: HostedModel, slot: Slot, gpu: Gpu, share: float, kept_bytes: int = 0) -> Shortage | None:
    """Compares what a worker takes, a share of the GPU's whole memory, with what the model needs and what is free.

    A sleeping worker has kept some of its share.
    """
    granted = round(gpu.memory_bytes * share)
    needed = model.size_bytes + COMPUTING_BYTES
    device = f"GPU {gpu.selector} ({gpu.name}, {_gib(gpu.memory_bytes)})"
    if model.size_bytes and needed > granted:
        return TooLarge(
            f"{model.names[0]} needs {_gib(model.size_bytes)} for its weights and some {_gib(COMPUTING_BYTES)} to "
            f"compute, and a worker has {_gib(granted)} of {device}: {_way_out(needed, slot, gpu, share)}"
        )
    if granted - kept_bytes > gpu.free_bytes:
        return GpuInUse(
            f"a worker takes {_gib(granted)} of {device}, and {_gib(gpu.free_bytes)} of it are free: stop what else "
            "uses the GPU (nvidia-smi lists it), or lower --gpu-memory-utilization"
        )
    return None


class GpuMemory:
    """Looks at the GPU of a place."""

    def __init__(self, probe: DeviceProbe, utilization: float | None) -> None:
        """Takes the share of a GPU that its workers take together, where the operator has set one."""
        self._probe = probe
        self._share = utilization or DEFAULT_GPU_SHARE

    def obstacle(self, model: HostedModel, slot: Slot, *, is_asleep: bool = False) -> Shortage | None:
        """Tells what keeps a worker from starting or waking there; None off GPUs, too.

        Asks the driver: call it in a thread.
        """
        kept_bytes = COMPUTING_BYTES if is_asleep else 0
        selector = selector_of(slot)
        gpu = next((gpu for gpu in self._probe.gpus() if gpu.selector == selector), None) if selector else None
        return None if gpu is None else obstacle(model, slot, gpu, slot.gpu_share or self._share, kept_bytes)


def selector_of(slot: Slot) -> str:
    """Names the GPU of a place; empty where there is none."""
    return slot.environment.get("CUDA_VISIBLE_DEVICES", "") if slot.device == "cuda" else ""


def _way_out(needed: int, slot: Slot, gpu: Gpu, share: float) -> str:
    if slot.gpu_share is not None and needed <= gpu.memory_bytes * DEFAULT_GPU_SHARE:
        return "start with fewer --workers or a higher --gpu-memory-utilization, or pull a quantized tag"
    if share < DEFAULT_GPU_SHARE and needed <= gpu.memory_bytes * DEFAULT_GPU_SHARE:
        return f"raise --gpu-memory-utilization to {needed / gpu.memory_bytes + 0.05:.2f}, or pull a quantized tag"
    return "pull a smaller model or a quantized tag (AWQ, GPTQ, FP8), or use a larger GPU"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


RESERVED_SHARE = 0.1
"""Share of the host's memory that stays free for everything else: files being read, new workers, other programs."""


def spare_host_memory() -> int:
    """Bytes that a model that falls asleep may take now."""
    memory = psutil.virtual_memory()
    return max(0, int(memory.available - RESERVED_SHARE * memory.total))
