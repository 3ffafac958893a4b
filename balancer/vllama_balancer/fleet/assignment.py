"""Divides a machine into slots, and builds the specification of the worker in a slot; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_balancer.config import BalancerConfig
    from vllama_balancer.fleet.devices import DeviceProbe, Gpu

DEFAULT_GPU_SHARE = 0.9
"""Share of a GPU that its workers take together by default."""


@dataclass(frozen=True, slots=True)
class HostedModel:
    """The model that a worker hosts."""

    argument: str
    """Directory, hub id, or any word for the simulated engine."""
    names: tuple[str, ...]
    """Names under which it is served; the first is the one to show."""
    size_bytes: int = 0
    """Bytes of its weights; 0: unknown."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker of this balancer, without its address."""

    index: int
    """Index of its slot."""
    model: HostedModel
    """The model that it hosts."""
    engine: str = "vllm"
    """"vllm" or "fake"."""
    device: str = "cpu"
    """"cuda", "cpu", or "auto" for the simulated engine."""
    flags: tuple[str, ...] = ()
    """Further flags of the worker."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that bind it to its device."""
    suffix: str = ""
    """Distinguishes it from another worker of the same slot; empty for the only one."""

    @property
    def name(self) -> str:
        return f"worker-{self.index}{self.suffix}"


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one worker in the fleet: its share of a device."""

    index: int
    """Number of the slot, and of the worker in it."""
    device: str
    """"cuda", "cpu" or "auto"."""
    environment: Mapping[str, str]
    """Variables that bind a worker to the device."""
    gpu_share: float | None = None
    """Share of the GPU's memory; None off GPUs."""


def slots(config: BalancerConfig, probe: DeviceProbe) -> list[Slot]:
    """Returns the slots of the fleet. Raises ConfigError for `--device cuda` on a machine without a GPU."""
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


def worker_spec(config: BalancerConfig, slot: Slot, model: HostedModel) -> WorkerSpec:
    """Returns the worker that hosts a model in a slot."""
    flags = _shared_flags(config)
    if slot.device == "cuda" and config.sleep_seconds > 0 and not _is_pinned(config, model):
        # vLLM then keeps its memory in an allocator that can release it.
        flags += ["--engine-arg", "enable_sleep_mode=true"]
    if slot.gpu_share is not None:
        flags += ["--gpu-memory-utilization", f"{slot.gpu_share:.4g}"]
    if config.fleet == "ray" and config.tls_authority is not None:
        # Workers listen on the network; the files have the same paths on every node.
        flags += ["--tls-cert", str(config.tls_certificate), "--tls-key", str(config.tls_key)]
        flags += ["--tls-ca", str(config.tls_authority)]
    if config.tensor_parallel > 1 and config.engine == "vllm":
        flags += ["--engine-arg", f"tensor_parallel_size={config.tensor_parallel}"]
        flags += ["--engine-arg", "distributed_executor_backend=ray"]
    for key, value in engine_args_of(slot.index, config.engine_args):
        flags += ["--engine-arg", f"{key}={value}"]
    return WorkerSpec(slot.index, model, config.engine, slot.device, tuple(flags), slot.environment)


def engine_args_of(index: int, given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the engine arguments of one worker: "0.speed" applies to worker 0 only, and wins over "speed"."""
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
    if config.trust_client_templates:
        flags.append("--trust-client-templates")
    return [*flags, "--drain-timeout", f"{config.drain_timeout_seconds:g}", "--log-format", config.log_format]


def _on_a_cluster(config: BalancerConfig) -> list[Slot]:
    """Returns slots without devices: Ray assigns those when a worker starts."""
    count = max(config.replicas or 1, len(config.models))
    return [Slot(index, config.device, {}, config.gpu_memory_utilization) for index in range(count)]


def _on_gpus(gpus: Sequence[Gpu], count: int, utilization: float | None) -> list[Slot]:
    found = []
    for index in range(count):
        sharers = sum(1 for other in range(count) if other % len(gpus) == index % len(gpus))
        share = (utilization or DEFAULT_GPU_SHARE) / sharers
        binding = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)].selector}
        found.append(Slot(index, "cuda", binding, share if utilization or sharers > 1 else None))
    return found


def _on_cores(cores: Sequence[int], count: int) -> list[Slot]:
    """Returns slots with contiguous groups of cores: workers on the same cores would halve each other's speed."""
    found = []
    for index in range(count):
        start, end = index * len(cores) // count, (index + 1) * len(cores) // count
        group = cores[start:end] or [cores[index % len(cores)]]
        found.append(Slot(index, "cpu", {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, group))}))
    return found
