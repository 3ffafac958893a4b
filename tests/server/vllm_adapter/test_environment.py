"""The environment of the engine's processes: ours where it must be, the operator's where it may be.

The placement group that an actor passes to its worker.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from vllama_server.vllm_adapter.engine_config import EngineConfig
from vllama_server.vllm_adapter.environment import (
    RAY_GROUP_VARIABLE,
    has_batch_invariance,
    prepare,
    use_placement_group,
)


class FakeNvml:
    """Devices of given capabilities."""

    class NVMLError(Exception):
        """What NVML raises."""

    def __init__(self, *capabilities: tuple[int, int]) -> None:
        self._capabilities = capabilities
        self.sessions = 0

    def nvmlInit(self) -> None:
        """Fails where there is no driver."""
        if not self._capabilities:
            raise self.NVMLError("driver not loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        """Ends a session."""
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        """How many."""
        return len(self._capabilities)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """A handle is the index here."""
        return index

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        """Of one device."""
        return self._capabilities[handle]


def prepared(environ: dict[str, str], *, deterministic: bool = False, batch_invariant: bool = False) -> dict[str, str]:
    """Prepares this environment for a worker on cores 0 and 2."""
    engine_config = EngineConfig("m", deterministic=deterministic)
    prepare(environ, engine_config, Path("/r"), cores={2, 0}, batch_invariant=batch_invariant, process_id=7)
    return environ


def test_processes_are_spawned_whatever_the_operator_says() -> None:
    """Forking beside gRPC's threads can deadlock."""
    assert prepared({"VLLM_WORKER_MULTIPROC_METHOD": "fork"})["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_all_allowed_cores_compute_unless_bound_otherwise() -> None:
    """The fleet binds each worker to cores of its own."""
    assert prepared({})["VLLM_CPU_OMP_THREADS_BIND"] == "0,2"
    assert prepared({"VLLM_CPU_OMP_THREADS_BIND": "1"})["VLLM_CPU_OMP_THREADS_BIND"] == "1"


def test_sockets_lie_in_the_engines_directory() -> None:
    """Whatever the operator says: what is not there is not removed."""
    environ = prepared({"VLLM_RPC_BASE_PATH": "/tmp"})
    assert environ["VLLM_RPC_BASE_PATH"] == environ["VLLAMA_ENGINE_DIRECTORY"] == "/r"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"TORCHINDUCTOR_CACHE_DIR": "/mine"}, "/mine"),
        ({"VLLM_CACHE_ROOT": "/vllm"}, "/vllm/torchinductor"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/vllm/torchinductor"),
        ({}, str(Path.home() / ".cache/vllm/torchinductor")),
    ],
    ids=["own", "vLLM's", "XDG", "home"],
)
def test_compiled_kernels_outlive_the_engine(given: dict[str, str], expected: str) -> None:
    """The engine's own directory goes with it, so they must lie elsewhere."""
    assert prepared(given)["TORCHINDUCTOR_CACHE_DIR"] == expected


@pytest.mark.parametrize(
    ("given", "expected"), [("other", "other,vllama"), ("vllama", "vllama"), ("", "vllama"), (None, None)]
)
def test_our_plug_in_is_among_those_allowed(given: str | None, expected: str | None) -> None:
    """A list that leaves it out would leave causes unreported; no list allows all."""
    environ = {} if given is None else {"VLLM_PLUGINS": given}
    assert prepared(environ).get("VLLM_PLUGINS") == expected


@pytest.mark.parametrize(
    ("deterministic", "supported", "expected"), [(True, True, "1"), (True, False, "0"), (False, True, None)]
)
def test_deterministic_asks_for_batch_invariance_where_it_exists(
    deterministic: bool, supported: bool, expected: str | None
) -> None:
    """Elsewhere float32 has to do."""
    environ = prepared({}, deterministic=deterministic, batch_invariant=supported)
    assert environ.get("VLLM_BATCH_INVARIANT") == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [((), False), (((8, 9),), False), (((9, 0),), True), (((9, 0), (8, 0)), False)],
    ids=["no driver", "Ada", "Hopper", "mixed"],
)
def test_batch_invariance_needs_hopper_everywhere(capabilities: tuple[tuple[int, int], ...], expected: bool) -> None:
    """On older devices the kernels do not exist."""
    nvml = FakeNvml(*capabilities)
    assert has_batch_invariance(nvml) is expected
    assert nvml.sessions == 0


GROUP_ID = "ab" * 18


def config_of(backend):
    """An engine's configuration, as far as it matters here."""
    parallel = SimpleNamespace(distributed_executor_backend=backend, placement_group=None)
    return SimpleNamespace(parallel_config=parallel)


def test_an_engine_on_ray_takes_the_actors_group():
    """The group of the given id goes into the configuration, without a connection to any cluster."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    config = config_of("ray")
    use_placement_group(config, {RAY_GROUP_VARIABLE: GROUP_ID})
    assert config.parallel_config.placement_group.id.hex() == GROUP_ID


@pytest.mark.parametrize(("backend", "environ"), [("ray", {}), ("mp", {RAY_GROUP_VARIABLE: GROUP_ID}), (None, {})])
def test_any_other_engine_is_left_alone(backend, environ):
    """Without a group, or without Ray, nothing changes."""
    config = config_of(backend)
    use_placement_group(config, environ)
    assert config.parallel_config.placement_group is None
