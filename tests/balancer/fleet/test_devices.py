"""GPUs and cores of this machine."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from vllama_balancer.fleet.devices import Gpu, MachineProbe


def test_the_cores_are_those_of_the_affinity_mask() -> None:
    """Cores that this process may not use are not assigned."""
    assert MachineProbe({}).cores() == sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("binding", ["{core}", "{core}-{core}", " {core} , 99999"])
def test_an_operator_may_keep_cores_for_something_else(binding: str) -> None:
    """Workers share the list in vLLM's own variable; missing cores are ignored."""
    core = max(os.sched_getaffinity(0))
    assert MachineProbe({"VLLM_CPU_OMP_THREADS_BIND": binding.format(core=core)}).cores() == [core]


@pytest.mark.parametrize("binding", ["", "auto", "nobind", "0-1|2-3", "0-", "99999"])
def test_a_binding_without_usable_cores_is_ignored(binding: str) -> None:
    """Other values of vLLM's variable are no list of cores."""
    assert MachineProbe({"VLLM_CPU_OMP_THREADS_BIND": binding}).cores() == sorted(os.sched_getaffinity(0))


def test_hidden_gpus_are_not_used() -> None:
    """An empty CUDA_VISIBLE_DEVICES hides all, with or without a driver."""
    assert list(MachineProbe({"CUDA_VISIBLE_DEVICES": ""}).gpus()) == []
    assert list(MachineProbe({"CUDA_VISIBLE_DEVICES": "-1"}).gpus()) == []


class FakeDriver:
    """NVIDIA's driver as nvidia-ml-py shows it, with two GPUs."""

    class NVMLError(Exception):
        """The driver's error."""

    def __init__(self, *, is_installed: bool = True) -> None:
        self.is_installed = is_installed
        self.sessions = 0

    def nvmlInit(self) -> None:
        if not self.is_installed:
            raise self.NVMLError("no driver")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        """The last digit is the handle."""
        return int(uuid[-1])

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"NVIDIA {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=24_000, free=1_000 * (handle + 1))


def test_gpus_are_listed_with_what_is_free_now() -> None:
    """All of them, or those in CUDA_VISIBLE_DEVICES up to the first entry that means none."""
    driver = FakeDriver()
    both = [Gpu("0", "NVIDIA 0", 24_000, 1_000), Gpu("1", "NVIDIA 1", 24_000, 2_000)]
    assert list(MachineProbe({}, driver).gpus()) == both
    assert list(MachineProbe({"CUDA_VISIBLE_DEVICES": "1,-1,0"}, driver).gpus()) == both[1:]
    by_uuid = MachineProbe({"CUDA_VISIBLE_DEVICES": "GPU-a1"}, driver).gpus()
    assert list(by_uuid) == [Gpu("GPU-a1", "NVIDIA 1", 24_000, 2_000)]
    assert driver.sessions == 0


def test_without_a_driver_there_are_no_gpus() -> None:
    """A machine without NVIDIA is no error."""
    assert list(MachineProbe({}, FakeDriver(is_installed=False)).gpus()) == []
