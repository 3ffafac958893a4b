"""The GPUs and processor cores of this machine.

Behind an interface, so that tests can describe devices that no test machine has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pynvml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that this process may use."""

    selector: str
    """Its value for CUDA_VISIBLE_DEVICES: an index or a UUID."""
    name: str
    """Product name."""
    memory_bytes: int
    """Total memory."""
    free_bytes: int
    """Memory that is free now."""


class DeviceProbe(Protocol):
    """Lists the devices of a machine."""

    def gpus(self) -> Sequence[Gpu]:
        """Lists the GPUs that may be used."""
        ...

    def cores(self) -> Sequence[int]:
        """Lists the logical processors that may be used."""
        ...


class MachineProbe:
    """The devices of this machine, from the NVIDIA driver and the kernel."""

    def __init__(self, environment: Mapping[str, str], nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._visible = environment.get("CUDA_VISIBLE_DEVICES")
        self._bound = environment.get("VLLM_CPU_OMP_THREADS_BIND", "")

    def gpus(self) -> Sequence[Gpu]:
        """Lists the GPUs that CUDA_VISIBLE_DEVICES allows, in its order."""
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError:
            return ()
        try:
            return tuple(self._describe(selector) for selector in self._selectors())
        finally:
            self._nvml.nvmlShutdown()

    def cores(self) -> Sequence[int]:
        """Lists the processors of this process's affinity mask, or those of them that VLLM_CPU_OMP_THREADS_BIND lists.

        vLLM's other forms of that variable list no cores that could be divided.
        """
        allowed = sorted(os.sched_getaffinity(0))
        chosen = _listed(self._bound)
        return [core for core in allowed if core in chosen] or allowed

    def _selectors(self) -> Sequence[str]:
        if self._visible is None:
            return [str(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        listed = [part.strip() for part in self._visible.split(",") if part.strip()]
        # CUDA stops reading at the first entry that means no device.
        end = next((position for position, part in enumerate(listed) if part.startswith("-")), len(listed))
        return listed[:end]

    def _describe(self, selector: str) -> Gpu:
        nvml = self._nvml
        find = nvml.nvmlDeviceGetHandleByIndex if selector.isdigit() else nvml.nvmlDeviceGetHandleByUUID
        handle = find(int(selector) if selector.isdigit() else selector)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(selector, str(nvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free))


def _listed(binding: str) -> set[int]:
    """Parses a list of cores such as "0,2-3"; empty for anything else."""
    cores: set[int] = set()
    for part in binding.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return set()
        cores.update(range(int(first), int(last or first) + 1))
    return cores


@dataclass(frozen=True, slots=True)
class FakeProbe:
    """The devices that a test describes."""

    gpu_list: tuple[Gpu, ...] = ()
    core_list: tuple[int, ...] = (0, 1)

    def gpus(self) -> Sequence[Gpu]:
        return self.gpu_list

    def cores(self) -> Sequence[int]:
        return self.core_list
