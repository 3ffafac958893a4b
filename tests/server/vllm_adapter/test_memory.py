"""What cannot fit is said before loading, with the numbers; devices are those that CUDA would use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllama_server.vllm_adapter.devices import VisibleDevice, visible_devices
from vllama_server.vllm_adapter.environment import has_batch_invariance
from vllama_server.vllm_adapter.memory import GIB, Demand, cpu_cache_bytes, shortage

QWEN_7B = Demand(weights_bytes=int(14.2 * GIB), context_bytes=int(0.22 * GIB), context_tokens=4096)


def card(free_gib: float, total_gib: float = 23.6) -> VisibleDevice:
    """A 24 GB card."""
    return VisibleDevice("GPU 0 (NVIDIA L4)", int(free_gib * GIB), int(total_gib * GIB), (8, 9))


class FakeNvml:
    """Two GPUs, the second of which is cut into slices."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, gpus: int = 2) -> None:
        self._gpus = gpus
        self.sessions = 0

    def nvmlInit(self) -> None:
        """Fails where there is no driver."""
        if not self._gpus:
            raise self.NVMLError("driver not loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        """Ends a session."""
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        """Whole devices only."""
        return self._gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        """A handle is the UUID here."""
        return f"GPU-{index}{index}aa-bb"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        """Knows one slice."""
        if uuid != "MIG-1234":
            raise self.NVMLError("not found")
        return uuid

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        """The slice is on the second device."""
        return self.nvmlDeviceGetHandleByIndex(1)

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        """As bytes, as old versions of the binding give it."""
        return handle.encode()

    def nvmlDeviceGetName(self, handle: str) -> str:
        """Fails for a slice, as NVML does."""
        if handle.startswith("MIG"):
            raise self.NVMLError("not supported")
        return "NVIDIA H100"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        """A slice has a part of the memory."""
        size = 10 if handle.startswith("MIG") else 80
        return SimpleNamespace(free=size * GIB // 2, total=size * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        """Hopper."""
        return (9, 0)


@pytest.mark.parametrize(
    ("visible", "labels", "total_gib"),
    [
        (None, ["GPU 0", "GPU 1"], 80),
        ("1", ["GPU 1"], 80),
        ("1,0", ["GPU 1", "GPU 0"], 80),
        ("GPU-00aa-bb", ["GPU-00aa-bb"], 80),
        ("GPU-11", ["GPU-11"], 80),
        ("MIG-1234", ["MIG-1234"], 10),
        ("0,7,1", ["GPU 0"], 80),
        ("", [], 0),
        ("MIG-none", [], 0),
    ],
)
def test_devices_are_those_that_cuda_would_use(visible: str | None, labels: list[str], total_gib: int) -> None:
    """Indexes, whole and abbreviated UUIDs and MIG slices; an unknown entry hides what follows."""
    nvml = FakeNvml()
    found = visible_devices(nvml, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert [device.label.split(" (")[0] for device in found] == labels
    assert all(device.total_bytes == total_gib * GIB for device in found)
    assert nvml.sessions == 0


def test_without_a_driver_there_are_no_devices() -> None:
    """Not an error: the engine may run on the CPU."""
    assert visible_devices(FakeNvml(gpus=0), {}) == []


@pytest.mark.parametrize(
    ("devices", "expected"),
    [([], False), ([card(20)], False), (visible_devices(FakeNvml(), {}), True)],
    ids=["none", "Ada", "Hopper"],
)
def test_batch_invariance_needs_hopper(devices: list[VisibleDevice], expected: bool) -> None:
    """On older devices the kernels do not exist."""
    assert has_batch_invariance(devices) is expected


def test_seven_billion_parameters_fit_a_24_gb_card_at_0_9() -> None:
    """The decided profile."""
    assert shortage(QWEN_7B, card(23.0), 0.9) == ""


def test_a_share_that_is_too_small_says_which_is_enough() -> None:
    """The card would do; the flag does not let it."""
    message = shortage(QWEN_7B, card(23.0), 0.5)
    assert "15.9 GiB" in message
    assert "--gpu-memory-utilization 0.5 allows 11.8 GiB" in message
    assert "--gpu-memory-utilization 0.68 or more" in message


def test_memory_that_others_hold_is_told_from_memory_that_is_missing() -> None:
    """Stopping something helps in the first case only."""
    assert "nvidia-smi" in shortage(QWEN_7B, card(9.0), 0.9)
    assert "smaller or quantized" in shortage(QWEN_7B, card(11.0, 12.0), 0.9)


def test_a_context_that_is_too_long_says_which_fits() -> None:
    """Weights fit, one whole context does not."""
    long_context = Demand(int(14.2 * GIB), 8 * GIB, 131072)
    assert "--max-model-len 90767 or less" in shortage(long_context, card(21.9), 0.9)


@pytest.mark.parametrize(
    ("streams", "free_gib", "expected"),
    [(1, 20, 33 * 128 * 1024), (64, 20, 64 * 33 * 128 * 1024), (10_000, 20, 4 * GIB), (64, 0.001, 33 * 128 * 1024)],
    ids=["one stream", "all contexts", "bounded", "at least one context"],
)
def test_the_cache_on_a_cpu_is_what_streams_need_and_memory_affords(
    streams: int, free_gib: float, expected: int
) -> None:
    """A context of 4096 tokens of 1 KiB, in blocks of 128, and one block to spare."""
    assert cpu_cache_bytes(1024, 4096, streams, 128, int(free_gib * GIB)) == expected
