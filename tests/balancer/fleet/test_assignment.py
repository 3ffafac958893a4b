"""Slots of a machine, and the flags of the worker in each."""

from __future__ import annotations

import pytest

from vllama_balancer.config import BalancerConfig
from vllama_balancer.errors import ConfigError
from vllama_balancer.fleet.assignment import HostedModel, engine_args_of, slots, worker_spec
from vllama_balancer.fleet.devices import FakeProbe, Gpu

FOUR = FakeProbe(tuple(Gpu(str(index), "GPU", 80 << 30, 79 << 30) for index in range(4)))
NONE = FakeProbe(core_list=(0, 1, 2, 3, 4))


def environments(probe: FakeProbe, **config: object) -> list[dict[str, str]]:
    """The environments of the slots."""
    return [dict(slot.environment) for slot in slots(BalancerConfig(**config), probe)]


def test_one_worker_for_each_gpu() -> None:
    """The default uses every GPU once."""
    assert environments(FOUR) == [{"CUDA_VISIBLE_DEVICES": str(index)} for index in range(4)]


def test_fewer_workers_than_gpus() -> None:
    """`--workers` takes the first ones."""
    assert environments(FOUR, workers=2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    """Two on one GPU get half of the utilization each; a single one keeps the worker's default."""
    found = slots(BalancerConfig(workers=5), FOUR)
    assert [slot.gpu_share for slot in found] == [0.45, None, None, None, 0.45]
    assert found[0].environment == found[4].environment


def test_a_given_utilization_is_divided() -> None:
    """The flag means the share of a GPU, however many workers are on it."""
    shares = [slot.gpu_share for slot in slots(BalancerConfig(workers=8, gpu_memory_utilization=0.8), FOUR)]
    assert shares == [0.4] * 8


def test_one_worker_without_a_gpu_takes_all_cores() -> None:
    """A machine without GPUs runs one worker by default."""
    assert environments(NONE) == [{"VLLM_CPU_OMP_THREADS_BIND": "0,1,2,3,4"}]


def test_cores_are_divided() -> None:
    """Workers never share a core while there are enough."""
    found = [variables["VLLM_CPU_OMP_THREADS_BIND"] for variables in environments(NONE, workers=2)]
    assert found == ["0,1", "2,3,4"]


def test_more_workers_than_cores_take_turns() -> None:
    """Every worker gets a core."""
    found = [
        variables["VLLM_CPU_OMP_THREADS_BIND"] for variables in environments(FakeProbe(core_list=(4, 7)), workers=5)
    ]
    assert len(found) == 5 and set(found) == {"4", "7"}


def test_the_processor_can_be_asked_for_beside_gpus() -> None:
    """`--device cpu` leaves the GPUs alone."""
    assert environments(FOUR, device="cpu") == [{"VLLM_CPU_OMP_THREADS_BIND": "0,1"}]


def test_cuda_without_a_gpu_is_refused() -> None:
    """The message names the flag and the command to check."""
    with pytest.raises(ConfigError, match=r"--device cuda needs .* nvidia-smi"):
        slots(BalancerConfig(device="cuda"), NONE)


def test_simulated_workers_need_no_device() -> None:
    """The fake engine runs anywhere, as many as asked for and one for each model."""
    assert environments(FOUR, engine="fake", models=("a", "b")) == [{}, {}]
    assert len(environments(NONE, engine="fake", workers=16)) == 16


def test_flags_reach_the_worker() -> None:
    """Options of workers are passed on; unset ones are left to the worker."""
    config = BalancerConfig(
        engine="fake",
        max_streams=8,
        deterministic=True,
        trust_client_templates=True,
        engine_args=(("speed", "2"),),
        drain_timeout_seconds=5,
    )
    (slot,) = slots(config, NONE)
    spec = worker_spec(config, slot, HostedModel("m", ("m:latest",)))
    assert spec.name == "worker-0" and spec.device == "auto"
    assert spec.flags == (
        "--max-streams", "8", "--deterministic", "--trust-client-templates", "--drain-timeout", "5",
        "--log-format", "text", "--engine-arg", "speed=2",
    )  # fmt: skip


def test_an_argument_of_one_worker_wins_and_stays_there() -> None:
    """`1.speed` applies to worker 1 only, in either order of the two."""
    given = (("1.speed", "0.5"), ("speed", "2"), ("step_seconds", "0"))
    assert dict(engine_args_of(0, given)) == {"speed": "2", "step_seconds": "0"}
    assert dict(engine_args_of(1, given)) == {"speed": "0.5", "step_seconds": "0"}


def test_a_dotted_argument_that_names_no_worker_is_the_engines() -> None:
    """Only a number before the dot means a worker."""
    assert engine_args_of(0, (("compilation_config.mode", "3"),)) == [("compilation_config.mode", "3")]
