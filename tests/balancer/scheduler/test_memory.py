"""Before a load the GPU's memory is checked: idle and sleeping models make room, or the load fails with numbers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.assignment import HostedModel, Slot
from vllama_balancer.fleet.devices import FakeProbe, Gpu
from vllama_balancer.scheduler.memory import GpuInUse, GpuMemory, TooLarge

GIB = 1024**3
SLOT = Slot(0, "cuda", {"CUDA_VISIBLE_DEVICES": "0"})


def gpu(total_gib: float = 24, free_gib: float | None = None) -> Gpu:
    """A GPU of so many GiB."""
    free = total_gib if free_gib is None else free_gib
    return Gpu("0", "NVIDIA L4", int(total_gib * GIB), int(free * GIB))


def look(model_gib: float, device: Gpu, slot: Slot = SLOT, utilization: float | None = None):
    """Returns what keeps a model from fitting."""
    model = HostedModel("/m", ("m:7b",), int(model_gib * GIB))
    return GpuMemory(FakeProbe((device,)), utilization).shortage(model, slot)


def test_a_model_that_fits_has_no_shortage() -> None:
    """15 GiB of weights in 90 % of 24 GiB."""
    assert look(15.2, gpu()) is None


def test_a_model_that_is_too_large_is_refused_with_the_numbers() -> None:
    """What it needs, what there is, and what to do."""
    found = look(27.5, gpu())
    assert isinstance(found, TooLarge)
    assert found.reason == (
        "m:7b needs 27.5 GiB for its weights and some 1.0 GiB to compute, and a worker has 21.6 GiB of GPU 0 "
        "(NVIDIA L4, 24.0 GiB): pull a smaller model or a quantized tag (AWQ, GPTQ, FP8), or use a larger GPU"
    )


def test_a_share_that_is_too_small_is_named_with_the_one_that_suffices() -> None:
    """The operator set 0.5."""
    found = look(15.2, gpu(), utilization=0.5)
    assert isinstance(found, TooLarge) and "raise --gpu-memory-utilization to 0.72" in found.reason


def test_workers_that_share_a_gpu_are_named_as_the_cause() -> None:
    """With fewer of them it would fit."""
    found = look(15.2, gpu(), Slot(0, "cuda", {"CUDA_VISIBLE_DEVICES": "0"}, 0.45))
    assert isinstance(found, TooLarge) and "fewer --workers" in found.reason


def test_memory_that_others_use_is_another_cause() -> None:
    """The model would fit if they left."""
    found = look(15.2, gpu(free_gib=10))
    assert isinstance(found, GpuInUse)
    assert "a worker takes 21.6 GiB of GPU 0 (NVIDIA L4, 24.0 GiB), and 10.0 GiB of it are free" in found.reason


def test_without_a_gpu_there_is_nothing_to_check() -> None:
    """Processors share their memory with everything else."""
    assert look(100, gpu(), Slot(0, "cpu", {})) is None
    assert look(100, gpu(), Slot(0, "cuda", {"CUDA_VISIBLE_DEVICES": "GPU-of-another-machine"})) is None


async def test_a_load_that_cannot_fit_is_refused_before_a_worker_starts(harness_of) -> None:
    """Every waiting request gets the numbers, at once."""
    harness = harness_of(gpus=(gpu(),))
    harness.fleet.weights["large"] = 30 * GIB
    with pytest.raises(NoWorker, match=r"large needs 30.0 GiB .* and a worker has 21.6 GiB"):
        await harness.touch("large")
    assert harness.fleet.log == []


async def test_a_model_that_can_never_fit_evicts_none(harness_of) -> None:
    """However often it is asked for, and whatever else is idle."""
    harness = harness_of(gpus=(gpu(),), failure_memory_seconds=0)
    harness.fleet.weights["large"] = 30 * GIB
    for _ in range(3):
        await harness.touch("a")
        with pytest.raises(NoWorker, match=r"large needs 30.0 GiB"):
            await harness.touch("large")
    assert harness.fleet.log == ["+a@0"]


async def test_a_model_that_fits_on_one_gpu_of_several_is_loaded_there(harness_of) -> None:
    """The size of the smallest does not decide."""
    small, large = replace(gpu(), selector="0"), replace(gpu(total_gib=80), selector="1")
    harness = harness_of(slot_count=2, gpus=(large, small))
    harness.fleet.weights["large"] = 30 * GIB
    await harness.touch("large")
    assert harness.fleet.log == ["+large@0"]


async def test_models_resume_when_the_waiting_one_turns_out_not_to_fit(harness_of) -> None:
    """The GPU is taken by another program: the load fails, and the busy model takes requests again."""
    harness = harness_of(slot_count=2, gpus=(gpu(),), min_tenure_seconds=0, gpu_release_seconds=0.01)
    async with harness.use("a"):
        async with harness.use("c"):
            other = asyncio.create_task(harness.touch("b"))
            await harness.until(lambda: harness.scheduler._models["a"].paused)
            harness.fleet.gpu_list = (gpu(free_gib=1),)
        with pytest.raises(NoWorker, match="GiB of it are free"):
            await other
        await harness.touch("a")


async def test_sleeping_models_make_room_on_the_gpu(harness_of) -> None:
    """What they keep of the GPU is taken back when it is needed, from the longest sleeping one first."""
    harness = harness_of(gpus=(gpu(),))
    harness.fleet.residue_bytes = int(1.5 * GIB)
    harness.fleet.sizes |= {"a": 10, "b": 10}
    for model in ("a", "b", "c"):
        await harness.touch(model)
    assert harness.fleet.log == ["+a@0", "za@0", "+b@0b", "zb@0b", "-a@0", "+c@0"]


async def test_other_sleeping_models_make_room_for_one_that_wakes(harness_of) -> None:
    """It needs its memory back, but for what it has kept; the one that has slept longest ends."""
    harness = harness_of(gpus=(gpu(free_gib=24),))
    harness.fleet.residue_bytes = GIB
    harness.fleet.sizes |= {"a": 10, "b": 10, "c": 10}
    for model in ("a", "b", "c"):
        await harness.touch(model)
    harness.fleet.gpu_list = (gpu(free_gib=23.5),)
    await harness.touch("b")
    assert harness.fleet.log[-3:] == ["zc@0c", "-a@0", "wb@0b"]


async def test_an_idle_neighbour_on_the_same_gpu_makes_room(harness_of) -> None:
    """Two slots share a GPU that other programs have filled meanwhile."""
    harness = harness_of(slot_count=2, gpus=(gpu(),))
    await harness.touch("a")
    harness.fleet.gpu_list = (gpu(free_gib=20),)
    harness.fleet.freed_by["a"] = int(2 * GIB)
    await harness.touch("b")
    assert harness.fleet.log == ["+a@0", "-a@0", "+b@1"]


async def test_a_load_waits_for_memory_of_other_programs_and_then_fails(harness_of) -> None:
    """The message says how much is free."""
    harness = harness_of(gpus=(gpu(free_gib=4),), gpu_release_seconds=0.05, failure_memory_seconds=0)
    with pytest.raises(NoWorker, match=r"4\.0 GiB of it are free"):
        await harness.touch("a")
    harness.fleet.gpu_list = (gpu(),)
    await harness.touch("a")
    assert harness.fleet.log == ["+a@0"]
