"""Flags that say where workers are started, and contradictions among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama_balancer.config import BalancerConfig, parse
from vllama_balancer.errors import ConfigError
from vllama_balancer.fleet.assignment import HostedModel, slots, worker_spec
from vllama_balancer.fleet.devices import FakeProbe

HOME = Path("/home/user")


def config_of(*flags: str) -> BalancerConfig:
    """The configuration of these flags."""
    return parse(flags, {}, home=HOME)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--replicas", "2"], "--fleet ray"),
        (["--tensor-parallel", "2"], "--fleet ray"),
        (["--fleet", "ray", "--workers", "2"], "--replicas"),
        (["--fleet", "ray", "--worker", "h:1"], "--worker"),
        (["a", "b", "--fleet", "ray", "--replicas", "1"], "at least 2"),
        (["--fleet", "ray", "--tensor-parallel", "2", "--device", "cpu"], "GPUs"),
        (["--fleet", "none"], "--join-token-file"),
        (["a", "--fleet", "none", "--join-token-file", "t"], "starts no workers"),
        (["--fleet", "none", "--workers", "2", "--join-token-file", "t"], "starts no workers"),
        (["--fleet", "elsewhere"], "local, ray, none"),
        (["--tls-ca", "ca.pem"], "--tls-cert"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags: list[str], message: str) -> None:
    """The message names the flag to change."""
    with pytest.raises(ConfigError, match=message):
        config_of(*flags)


def test_a_balancer_of_joining_workers_names_no_model() -> None:
    """Its models are those of the workers that join."""
    assert config_of("--fleet", "none", "--join-token-file", "t").models == ()


def test_replicas_are_slots_without_a_device() -> None:
    """Ray finds the device; the flags go to every worker."""
    config = config_of("m", "--fleet", "ray", "--replicas", "3", "--gpu-memory-utilization", "0.8")
    found = slots(config, FakeProbe())
    assert [(slot.index, slot.device, dict(slot.environment)) for slot in found] == [
        (index, "auto", {}) for index in range(3)
    ]
    flags = " ".join(worker_spec(config, found[0], HostedModel("m", ("m",))).flags)
    assert "--gpu-memory-utilization 0.8" in flags
    assert "tensor_parallel" not in flags


def test_a_model_over_several_gpus_uses_vllms_own_executor() -> None:
    """The engine gets its size, and asks Ray for its processes."""
    config = config_of("m", "--fleet", "ray", "--tensor-parallel", "2")
    flags = " ".join(worker_spec(config, slots(config, FakeProbe())[0], HostedModel("m", ("m",))).flags)
    assert "--engine-arg tensor_parallel_size=2" in flags
    assert "--engine-arg distributed_executor_backend=ray" in flags


def test_workers_on_the_network_get_the_certificates() -> None:
    """The same paths on every node."""
    pair = ("--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-ca", "ca.pem")
    config = config_of("m", "--fleet", "ray", *pair)
    flags = worker_spec(config, slots(config, FakeProbe())[0], HostedModel("m", ("m",))).flags
    assert " ".join(pair) in " ".join(flags)
