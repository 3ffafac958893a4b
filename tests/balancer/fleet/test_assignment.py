"""Every worker gets its share of the machine, and its own arguments."""

from __future__ import annotations

import pytest

from vllama_balancer.config import BalancerConfig
from vllama_balancer.errors import ConfigError
from vllama_balancer.fleet.assignment import HostedModel, engine_args_of, slots, worker_spec
from vllama_balancer.fleet.devices import FakeProbe, Gpu

FOUR = FakeProbe(tuple(Gpu(str(index), "GPU", 80 << 30, 79 << 30) for index in range(4)))
NONE = FakeProbe(core_list=(0, 1, 2, 3, 4))


def places(probe: FakeProbe, **config: object) -> list[dict[str, str]]:
    """The environments of the places."""
    return [dict(place.environment) for place in slots(BalancerConfig(**config), probe)]


def test_one_worker_for_each_gpu() -> None:
    """The default uses every GPU once."""
    assert places(FOUR) == [{"CUDA_VISIBLE_DEVICES": str(index)} for index in range(4)]


def test_fewer_workers_than_gpus() -> None:
    """`--workers` takes the first ones."""
    assert places(FOUR, workers=2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    """Two on one GPU get half of the utilization each; one alone keeps the worker's default."""
    found = slots(BalancerConfig(workers=5), FOUR)
    assert [place.gpu_share for place in found] == [0.45, None, None, None, 0.45]
    assert found[0].environment == found[4].environment


def test_a_given_utilization_is_divided() -> None:
    """The flag means the share of a GPU, however many workers are on it."""
    shares = [place.gpu_share for place in slots(BalancerConfig(workers=8, gpu_memory_utilization=0.8), FOUR)]
    assert shares == [0.4] * 8


def test_one_worker_without_a_gpu_takes_all_cores() -> None:
    """A machine without GPUs runs one worker by default."""
    assert places(NONE) == [{"VLLM_CPU_OMP_THREADS_BIND": "0,1,2,3,4"}]


def test_cores_are_divided() -> None:
    """Workers never share a core while there are enough."""
    found = [place["VLLM_CPU_OMP_THREADS_BIND"] for place in places(NONE, workers=2)]
    assert found == ["0,1", "2,3,4"]


def test_more_workers_than_cores_take_turns() -> None:
    """Nobody is left without a core."""
    found = [place["VLLM_CPU_OMP_THREADS_BIND"] for place in places(FakeProbe(core_list=(4, 7)), workers=5)]
    assert len(found) == 5 and set(found) == {"4", "7"}


def test_the_processor_can_be_asked_for_beside_gpus() -> None:
    """`--device cpu` leaves the GPUs alone."""
    assert places(FOUR, device="cpu") == [{"VLLM_CPU_OMP_THREADS_BIND": "0,1"}]


def test_cuda_without_a_gpu_is_refused() -> None:
    """The sentence names the flag and what to look at."""
    with pytest.raises(ConfigError, match=r"--device cuda needs .* nvidia-smi"):
        slots(BalancerConfig(device="cuda"), NONE)


def test_simulated_workers_need_no_device() -> None:
    """The fake engine runs anywhere, as many as asked for and one for each model."""
    assert places(FOUR, engine="fake", models=("a", "b")) == [{}, {}]
    assert len(places(NONE, engine="fake", workers=16)) == 16


def test_flags_reach_the_worker() -> None:
    """What concerns workers is passed on; what is not set is left to them."""
    config = BalancerConfig(
        engine="fake", max_streams=8, deterministic=True, engine_args=(("speed", "2"),), drain_timeout_seconds=5
    )
    (place,) = slots(config, NONE)
    spec = worker_spec(config, place, HostedModel("m", ("m:latest",)))
    assert spec.name == "worker-0" and spec.device == "auto"
    assert spec.flags == (
        "--max-streams", "8", "--deterministic", "--drain-timeout", "5", "--log-format", "text",
        "--engine-arg", "speed=2",
    )  # fmt: skip


def test_an_argument_of_one_worker_wins_and_stays_there() -> None:
    """`1.speed` is worker 1's alone, in whatever order the two are given."""
    given = (("1.speed", "0.5"), ("speed", "2"), ("step_seconds", "0"))
    assert dict(engine_args_of(0, given)) == {"speed": "2", "step_seconds": "0"}
    assert dict(engine_args_of(1, given)) == {"speed": "0.5", "step_seconds": "0"}


def test_a_dotted_argument_that_names_no_worker_is_the_engines() -> None:
    """Only a number before the dot means a worker."""
    assert engine_args_of(0, (("compilation_config.mode", "3"),)) == [("compilation_config.mode", "3")]
