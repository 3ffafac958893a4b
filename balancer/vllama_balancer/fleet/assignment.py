"""Which worker hosts which model on which device: pure, from the configuration and what the machine has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_balancer.config import BalancerConfig
    from vllama_balancer.fleet.devices import DeviceProbe, Gpu

DEFAULT_GPU_SHARE = 0.9
"""Share of a GPU that its workers take together when nothing is said."""


@dataclass(frozen=True, slots=True)
class HostedModel:
    """A model as a worker is told of it."""

    argument: str
    """Directory, hub id, or any word for the simulated engine."""
    names: tuple[str, ...]
    """Names under which it is served; the first is the one to show."""
    size_bytes: int = 0
    """Bytes of its weights; 0: unknown."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One local worker, but for its address."""

    index: int
    """Its place in the fleet."""
    model: HostedModel
    """What it hosts."""
    engine: str = "vllm"
    """"vllm" or "fake"."""
    device: str = "cpu"
    """"cuda", "cpu", or "auto" for the simulated engine."""
    flags: tuple[str, ...] = ()
    """Further flags of the worker."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that tie it to its device."""
    suffix: str = ""
    """What tells it from another worker of the same place; empty for the only one."""

    @property
    def name(self) -> str:
        """Name of the worker."""
        return f"worker-{self.index}{self.suffix}"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one worker: its share of a device."""

    index: int
    """Number of the worker that takes it."""
    device: str
    """"cuda", "cpu" or "auto"."""
    environment: Mapping[str, str]
    """Variables that tie a worker to the place."""
    gpu_share: float | None = None
    """Share of the GPU's memory; None off GPUs."""


def slots(config: BalancerConfig, probe: DeviceProbe) -> list[Slot]:
    """Divides the machine into places for workers.

    Raises ConfigError for `--device cuda` on a machine without a GPU.
    """
    if config.fleet == "ray":
        return _on_a_cluster(config)
    if config.engine == "fake":
        return [Slot(index, "auto", {}) for index in range(config.workers or max(1, len(config.models)))]
    gpus = probe.gpus() if config.device != "cpu" else ()
    if gpus:
        return _on_gpus(gpus, max(config.workers or len(gpus), len(config.models)), config.gpu_memory_utilization)
    if config.device == "cuda":
        raise ConfigError(
            "--device cuda needs an NVIDIA GPU and its driver, and none was found; see nvidia-smi, or use --device cpu"
        )
    return _on_cores(probe.cores(), max(config.workers or 1, len(config.models)))


def worker_spec(config: BalancerConfig, place: Slot, model: HostedModel) -> WorkerSpec:
    """Describes the worker that hosts a model at a place."""
    flags = _shared_flags(config)
    if place.device == "cuda" and config.sleep_seconds > 0 and not _is_pinned(config, model):
        # vLLM then keeps its memory in an allocator that can give it back.
        flags += ["--engine-arg", "enable_sleep_mode=true"]
    if place.gpu_share is not None:
        flags += ["--gpu-memory-utilization", f"{place.gpu_share:.4g}"]
    if config.fleet == "ray" and config.tls_authority is not None:
        # They listen on the network; the files lie at the same paths on every node.
        flags += ["--tls-cert", str(config.tls_certificate), "--tls-key", str(config.tls_key)]
        flags += ["--tls-ca", str(config.tls_authority)]
    if config.tensor_parallel > 1 and config.engine == "vllm":
        flags += ["--engine-arg", f"tensor_parallel_size={config.tensor_parallel}"]
        flags += ["--engine-arg", "distributed_executor_backend=ray"]
    for key, value in engine_args_of(place.index, config.engine_args):
        flags += ["--engine-arg", f"{key}={value}"]
    return WorkerSpec(place.index, model, config.engine, place.device, tuple(flags), place.environment)


def engine_args_of(index: int, given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Picks the engine arguments of one worker: "0.speed" is worker 0's alone, and wins over "speed"."""
    chosen: dict[str, str] = {}
    for key, value in sorted(given, key=lambda pair: pair[0].split(".")[0].isdigit()):
        owner, separator, rest = key.partition(".")
        if not (separator and owner.isdigit()):
            chosen[key] = value
        elif int(owner) == index:
            chosen[rest] = value
    return list(chosen.items())


def _is_pinned(config: BalancerConfig, model: HostedModel) -> bool:
    return config.is_pinned and bool(set(model.names) & set(config.models))


def _shared_flags(config: BalancerConfig) -> list[str]:
    flags = []
    for flag, value in (("--max-streams", config.max_streams), ("--max-model-len", config.max_model_len)):
        if value is not None:
            flags += [flag, str(value)]
    if config.deterministic:
        flags.append("--deterministic")
    return [*flags, "--drain-timeout", f"{config.drain_timeout_seconds:g}", "--log-format", config.log_format]


def _on_a_cluster(config: BalancerConfig) -> list[Slot]:
    """Places without devices: Ray finds them when a worker needs them."""
    count = max(config.replicas or 1, len(config.models))
    return [Slot(index, config.device, {}, config.gpu_memory_utilization) for index in range(count)]


def _on_gpus(gpus: Sequence[Gpu], count: int, utilization: float | None) -> list[Slot]:
    found = []
    for index in range(count):
        sharers = sum(1 for other in range(count) if other % len(gpus) == index % len(gpus))
        share = (utilization or DEFAULT_GPU_SHARE) / sharers
        place = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)].selector}
        found.append(Slot(index, "cuda", place, share if utilization or sharers > 1 else None))
    return found


def _on_cores(cores: Sequence[int], count: int) -> list[Slot]:
    """Contiguous groups of cores; two workers that find the same ones would halve each other's speed."""
    found = []
    for index in range(count):
        start, end = index * len(cores) // count, (index + 1) * len(cores) // count
        group = cores[start:end] or [cores[index % len(cores)]]
        found.append(Slot(index, "cpu", {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, group))}))
    return found
