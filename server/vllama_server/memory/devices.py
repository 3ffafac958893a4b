"""The NVIDIA devices that this process may use, in CUDA's order, with their memory.

CUDA_VISIBLE_DEVICES has the meaning that it has for CUDA: indices, UUIDs of GPUs or of MIG instances, both also
abbreviated. Everything after the first entry that names no device is ignored; an empty list is no device. A GPU in
MIG mode is used through its first instance.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from vllama_server.memory.advice import DeviceMemory

if TYPE_CHECKING:
    from collections.abc import Iterator


def visible_devices(nvml: Any, visible: str | None) -> list[DeviceMemory]:
    """Returns the devices that CUDA would show; empty without a driver.

    `nvml` is the module `pynvml`, `visible` is CUDA_VISIBLE_DEVICES.
    """
    try:
        with _session(nvml):
            return [_memory(nvml, handle) for handle in _handles(nvml, visible)]
    except nvml.NVMLError:
        return []


@contextmanager
def _session(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _handles(nvml: Any, visible: str | None) -> list[Any]:
    cards = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if visible is None:
        return [_first_instance(nvml, card) for card in cards]
    chosen = []
    for entry in visible.split(","):
        handle = _named(nvml, cards, entry.strip())
        if handle is None:
            break
        chosen.append(handle)
    return chosen


def _named(nvml: Any, cards: list[Any], entry: str) -> Any | None:
    """Returns a device by its index, its UUID or the beginning of that; None when it names none or several."""
    if entry.isdecimal():
        return _first_instance(nvml, cards[int(entry)]) if int(entry) < len(cards) else None
    if entry.startswith("MIG-"):
        candidates = [instance for card in cards for instance in _instances(nvml, card)]
    elif entry.startswith("GPU-"):
        candidates = cards
    else:
        return None
    found = [handle for handle in candidates if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(entry)]
    if len(found) != 1:
        return None
    return found[0] if entry.startswith("MIG-") else _first_instance(nvml, found[0])


def _first_instance(nvml: Any, card: Any) -> Any:
    instances = _instances(nvml, card)
    return instances[0] if instances else card


def _instances(nvml: Any, card: Any) -> list[Any]:
    """Returns the MIG instances of a card; empty when it is not in MIG mode."""
    try:
        enabled, _ = nvml.nvmlDeviceGetMigMode(card)
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(card) if enabled else 0
    except nvml.NVMLError:
        return []
    instances = []
    for index in range(count):
        with suppress(nvml.NVMLError):
            instances.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))
    return instances


def _memory(nvml: Any, handle: Any) -> DeviceMemory:
    info = nvml.nvmlDeviceGetMemoryInfo(handle)
    return DeviceMemory(_text(nvml.nvmlDeviceGetName(handle)), int(info.total), int(info.free))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
