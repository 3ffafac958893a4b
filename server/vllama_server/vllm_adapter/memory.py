"""How much memory a model takes, whether a device has it, and how large a cache on a CPU may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from vllama_server.vllm_adapter.devices import VisibleDevice

GIB = 1024**3
MOST_CPU_CACHE_BYTES = 4 * GIB
"""A larger cache would take longer to set up than a CPU can ever fill."""
CPU_CACHE_SHARE = 0.2
"""Share of the memory that is free which one worker takes for its cache: several may start at once."""
WORKING_BYTES = int(1.5 * GIB)
"""CUDA's own context and the activations of one step, for a model of some billion parameters."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one device must hold at least; an estimate made before anything is loaded."""

    weights_bytes: int
    """The share of the weight files that falls to one device."""
    context_bytes: int
    """Keys and values of one whole context."""
    context_tokens: int

    @property
    def total_bytes(self) -> int:
        """All of it, with working memory."""
        return self.weights_bytes + self.context_bytes + WORKING_BYTES


def demand_of(config: Any) -> Demand | None:
    """Estimates from a configuration; None when the weight files are not on this machine yet."""
    directory = Path(config.model_config.model)
    weights = sum(file.stat().st_size for file in directory.glob("*.safetensors")) if directory.is_dir() else 0
    if not weights:
        return None
    context = config.model_config.max_model_len
    return Demand(weights // config.parallel_config.world_size, bytes_per_token(config) * context, context)


def shortage(demand: Demand, device: VisibleDevice, utilization: float) -> str:
    """Says in one paragraph, with the numbers, why the device cannot hold the model; empty when it can."""
    allowed = int(device.total_bytes * utilization)
    if demand.total_bytes <= min(device.free_bytes, allowed):
        return ""
    return (
        f"The model needs about {_gib(demand.total_bytes)} (weights {_gib(demand.weights_bytes)}, one context of "
        f"{demand.context_tokens} tokens {_gib(demand.context_bytes)}, working memory {_gib(WORKING_BYTES)}); "
        f"{device.label} has {_gib(device.free_bytes)} of {_gib(device.total_bytes)} free, and "
        f"--gpu-memory-utilization {utilization:g} allows {_gib(allowed)}: {_remedy(demand, device, allowed)}"
    )


def _remedy(demand: Demand, device: VisibleDevice, allowed: int) -> str:
    if demand.total_bytes <= device.free_bytes:
        least = -(-demand.total_bytes * 100 // device.total_bytes) / 100
        return f"pass --gpu-memory-utilization {least:.2f} or more."
    room = min(device.free_bytes, allowed) - demand.weights_bytes - WORKING_BYTES
    if room > 0:
        tokens = room * demand.context_tokens // demand.context_bytes
        return f"pass --max-model-len {tokens} or less."
    if demand.total_bytes <= device.total_bytes:
        return "stop what else uses it (nvidia-smi lists it)."
    return "take a smaller or quantized model, or spread it over several GPUs with --engine-arg tensor_parallel_size=N."


def bytes_per_token(config: Any) -> int:
    """Bytes of keys and values of one token in all layers."""
    model, parallel = config.model_config, config.parallel_config
    heads = model.get_num_kv_heads(parallel)
    layers = model.get_num_layers(parallel)
    return int(2 * layers * heads * model.get_head_size() * model.dtype.itemsize)


def cpu_cache_bytes(per_token: int, context: int, streams: int, block: int, free_bytes: int) -> int:
    """Sizes the cache on a CPU: every stream's whole context if that is affordable, one context at least."""
    context_bytes = per_token * (-(-context // block) + 1) * block
    affordable = min(MOST_CPU_CACHE_BYTES, int(free_bytes * CPU_CACHE_SHARE))
    return max(context_bytes, min(context_bytes * streams, affordable))


def free_memory_bytes() -> int:
    """Memory that processes can still take on this machine."""
    return int(psutil.virtual_memory().available)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
