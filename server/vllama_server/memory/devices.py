"""The NVIDIA devices that this process may use, in CUDA's order, with their memory.

CUDA_VISIBLE_DEVICES has the meaning that it has for CUDA: indices, UUIDs of GPUs or of MIG instances, both also
abbreviated. Everything after the first entry that names no device is ignored; an empty list is no device. A GPU in
MIG mode is used through its first instance.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from vllama_server.memory.advice import DeviceMemory

if TYPE_CHECKING:
    from collections.abc import Iterator


class Nvml(Protocol):
    """The calls of nvidia-ml-py that are used; the module `pynvml` has this shape."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> object: ...  # noqa: N802
    def nvmlShutdown(self) -> object: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any: ...  # noqa: N802


def visible_devices(nvml: Nvml, visible: str | None) -> list[DeviceMemory]:
    """Returns the devices that CUDA would show; `visible` is CUDA_VISIBLE_DEVICES. Empty without a driver."""
    try:
        with _session(nvml):
            return [_memory(nvml, handle) for handle in _handles(nvml, visible)]
    except nvml.NVMLError:
        return []


@contextmanager
def _session(nvml: Nvml) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _handles(nvml: Nvml, visible: str | None) -> list[Any]:
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


def _named(nvml: Nvml, cards: list[Any], entry: str) -> Any | None:
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


def _first_instance(nvml: Nvml, card: Any) -> Any:
    instances = _instances(nvml, card)
    return instances[0] if instances else card


def _instances(nvml: Nvml, card: Any) -> list[Any]:
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


def _memory(nvml: Nvml, handle: Any) -> DeviceMemory:
    info = nvml.nvmlDeviceGetMemoryInfo(handle)
    return DeviceMemory(_text(nvml.nvmlDeviceGetName(handle)), int(info.total), int(info.free))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
