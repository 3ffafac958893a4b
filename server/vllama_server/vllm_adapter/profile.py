"""The engine's profile: what a worker asks of vLLM, and how that becomes engine arguments.

Two sets of defaults exist because the devices want opposite things. A GPU wants large steps,
compiled kernels and nearly all of its memory; a CPU shares its memory with everything else and
would spend a minute on compiling for a gain of some 15 %, so it runs eagerly with a key-value
cache of a stated size, in the precision that it computes fastest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllama_server.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_server.config import WorkerConfig

GPU_BATCHED_TOKENS = 16384
"""Tokens of one step on a GPU: long prompts are computed in few steps."""
GPU_STREAMS = 256
CPU_BATCHED_TOKENS = 512
"""Tokens of one step on a CPU: a longer step would hold up every running stream for seconds."""
CPU_STREAMS = 64
GPU_MEMORY_UTILIZATION = 0.9

CPU_WORKER = "vllama_server.vllm_adapter.cpu_worker.SeededCPUWorker"
"""The class that computes on a CPU, by name: it is imported only where the engine computes."""

OWN_KEYS = frozenset({"tool_parser", "reasoning_parser", "chat_template", "fim"})
"""Keys of `--engine-arg` that the adapter takes itself; every other key is an argument of vLLM's engine."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """What a worker asks of its engine, independent of flags and of vLLM's own names."""

    model: str
    """Local directory or Hugging Face id."""
    name: str = ""
    """Name shown in metrics; empty means the model itself."""
    device: str = "auto"
    """"auto", "cuda" or "cpu"."""
    max_streams: int | None = None
    """Streams computed at once; None takes the device's default."""
    max_queue: int = 512
    """Requests that may wait beyond `max_streams`."""
    max_model_len: int = 4096
    """Longest context in tokens, capped by the model's own; 0 means the model's own."""
    gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION
    """Share of a GPU's memory, above 0 up to 1."""
    deterministic: bool = False
    """Whether greedy and seeded output must not depend on the batch."""
    engine_args: Mapping[str, str] = field(default_factory=dict)
    """Arguments as given, by key; checked when the engine starts."""

    @classmethod
    def from_config(cls, config: WorkerConfig) -> EngineProfile:
        """Takes from a worker's configuration what concerns the engine."""
        return cls(
            model=config.model,
            name=config.names[0],
            device=config.device,
            max_streams=config.max_streams,
            max_queue=config.max_queue,
            max_model_len=config.max_model_len,
            gpu_memory_utilization=config.gpu_memory_utilization,
            deterministic=config.deterministic,
            engine_args=config.engine_args,
        )

    def streams(self, on_cpu: bool) -> int:
        """Streams computed at once on the device that was found."""
        return self.max_streams or (CPU_STREAMS if on_cpu else GPU_STREAMS)

    def own_argument(self, key: str) -> str | None:
        """Looks up one of OWN_KEYS; None when it was not given."""
        return self.engine_args.get(key)


def engine_arguments(profile: EngineProfile, *, on_cpu: bool, cpu_dtype: str = "auto") -> dict[str, Any]:
    """Builds the keyword arguments of AsyncEngineArgs; `--engine-arg` beats every default.

    `cpu_dtype` is the number format that the processor computes fast. Raises StartFailed for an
    unknown key or a value that vLLM cannot read.
    """
    streams = profile.streams(on_cpu)
    arguments: dict[str, Any] = {
        "model": profile.model,
        "served_model_name": [profile.name or profile.model],
        "max_model_len": profile.max_model_len or None,
        "max_num_seqs": streams,
        "max_num_queued_reqs": streams + profile.max_queue,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS if on_cpu else GPU_BATCHED_TOKENS, streams),
        "scheduling_policy": "priority",
    }
    if on_cpu:
        arguments["enforce_eager"] = True
        arguments["worker_cls"] = CPU_WORKER
        arguments["dtype"] = "float32" if profile.deterministic else cpu_dtype
    else:
        arguments["gpu_memory_utilization"] = profile.gpu_memory_utilization
    arguments.update(typed_arguments(profile.engine_args))
    return arguments


def typed_arguments(given: Mapping[str, str]) -> dict[str, Any]:
    """Reads textual `key=value` pairs with vLLM's own command line parser, so types and choices are its own.

    Raises StartFailed that names the key and, for a likely misspelling, the key that was meant.
    """
    foreign = {key: value for key, value in given.items() if key not in OWN_KEYS}
    if not foreign:
        return {}
    from vllama_server.vllm_adapter.engine_flags import read_flags  # costs a second: only when it is needed

    try:
        return read_flags(foreign)
    except ValueError as error:
        raise StartFailed(f"--engine-arg {error}") from error
