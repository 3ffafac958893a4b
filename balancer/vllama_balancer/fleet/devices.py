"""Which GPUs and processor cores there are for local workers.

Behind a protocol, so that placement is tested with devices that no test machine has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pynvml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that this process may use."""

    selector: str
    """What CUDA_VISIBLE_DEVICES must say to mean this one: an index or a UUID."""
    name: str
    """For people."""
    memory_bytes: int
    """Memory in all."""
    free_bytes: int
    """Memory that nobody uses now."""


class DeviceProbe(Protocol):
    """Looks at the machine."""

    def gpus(self) -> Sequence[Gpu]:
        """Lists the GPUs that may be used; empty on a machine without."""
        ...

    def cores(self) -> Sequence[int]:
        """Lists the logical processors that may be used."""
        ...


class MachineProbe:
    """Asks the NVIDIA driver and the kernel."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._visible = environment.get("CUDA_VISIBLE_DEVICES")

    def gpus(self) -> Sequence[Gpu]:
        """Lists the GPUs that CUDA_VISIBLE_DEVICES allows, in its order."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return ()
        try:
            return tuple(_described(selector) for selector in self._selectors())
        finally:
            pynvml.nvmlShutdown()

    def cores(self) -> Sequence[int]:
        """Lists the processors of this process's affinity mask."""
        return sorted(os.sched_getaffinity(0))

    def _selectors(self) -> Sequence[str]:
        if self._visible is None:
            return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
        listed = [part.strip() for part in self._visible.split(",") if part.strip()]
        # CUDA stops reading at the first entry that means no device.
        end = next((position for position, part in enumerate(listed) if part.startswith("-")), len(listed))
        return listed[:end]


@dataclass(frozen=True, slots=True)
class FakeProbe:
    """A machine that a test describes."""

    gpu_list: tuple[Gpu, ...] = ()
    core_list: tuple[int, ...] = (0, 1)

    def gpus(self) -> Sequence[Gpu]:
        """Lists what the test said."""
        return self.gpu_list

    def cores(self) -> Sequence[int]:
        """Lists what the test said."""
        return self.core_list


def _described(selector: str) -> Gpu:
    by_index = selector.isdigit()
    handle = (
        pynvml.nvmlDeviceGetHandleByIndex(int(selector)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(selector)
    )
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(selector, str(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free))
