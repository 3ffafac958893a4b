"""NVIDIA devices that this process may use, and what is free on them, through NVML.

Asked before anything is loaded: initialising CUDA to find out would itself take memory. NVML knows
nothing of CUDA_VISIBLE_DEVICES, so its three kinds of entry are resolved here: indexes, UUIDs of
GPUs (which may be abbreviated) and UUIDs of MIG slices.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BATCH_INVARIANT_CAPABILITY = (9, 0)
"""Hopper: the oldest devices that vLLM's batch-invariant kernels run on."""


@dataclass(frozen=True, slots=True)
class VisibleDevice:
    """One device as it is now."""

    label: str
    """For people: what CUDA_VISIBLE_DEVICES calls it, and its name."""
    free_bytes: int
    total_bytes: int
    capability: tuple[int, int]
    """CUDA compute capability."""


def visible_devices(nvml: Any, environ: Mapping[str, str]) -> list[VisibleDevice]:
    """Lists the devices in CUDA's order; empty where there is no NVIDIA driver. `nvml` is pynvml or a stand-in."""
    try:
        with _session(nvml):
            return [_device(nvml, entry, handle) for entry, handle in _handles(nvml, environ)]
    except nvml.NVMLError:
        return []


@contextmanager
def _session(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _handles(nvml: Any, environ: Mapping[str, str]) -> list[tuple[str, Any]]:
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [(f"GPU {index}", nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]
    found = []
    for entry in (part.strip() for part in visible.split(",") if part.strip()):
        handle = _handle(nvml, entry)
        if handle is None:
            break  # as CUDA does: an entry that names nothing hides it and all that follow
        found.append((entry if "-" in entry else f"GPU {entry}", handle))
    return found


def _handle(nvml: Any, entry: str) -> Any:
    count = nvml.nvmlDeviceGetCount()
    if entry.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(entry)) if int(entry) < count else None
    if entry.startswith("MIG-"):
        try:
            return nvml.nvmlDeviceGetHandleByUUID(entry)
        except nvml.NVMLError:
            return None
    handles = (nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count))
    return next((handle for handle in handles if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(entry)), None)


def _device(nvml: Any, label: str, handle: Any) -> VisibleDevice:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    whole = handle
    if label.startswith("MIG-"):  # a slice has memory of its own; its capability is the whole device's
        whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    return VisibleDevice(
        label=f"{label} ({_text(nvml.nvmlDeviceGetName(whole))})",
        free_bytes=int(memory.free),
        total_bytes=int(memory.total),
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(whole)),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
