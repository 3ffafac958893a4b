"""GPUs and cores of this machine."""

from __future__ import annotations

import os

from vllama_balancer.fleet.devices import MachineProbe


def test_the_cores_are_those_of_the_affinity_mask() -> None:
    """Cores that this process may not use are not given away."""
    assert MachineProbe({}).cores() == sorted(os.sched_getaffinity(0))


def test_hidden_gpus_are_not_used() -> None:
    """An empty CUDA_VISIBLE_DEVICES hides all, with or without a driver."""
    assert list(MachineProbe({"CUDA_VISIBLE_DEVICES": ""}).gpus()) == []
    assert list(MachineProbe({"CUDA_VISIBLE_DEVICES": "-1"}).gpus()) == []
