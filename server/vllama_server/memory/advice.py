"""Memory advice for one device: whether a model fits, in numbers, and which flag to change if it does not.

Follows vLLM's start: it takes `gpu_memory_utilization` of the device's whole memory, which must be free, loads the
weights, computes one largest step to measure its memory, and gives the rest to the key-value cache, which must hold
one context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_server.memory.shape import COMPUTE_BYTES

if TYPE_CHECKING:
    from vllama_server.memory.shape import ModelShape

GIB = 1024**3
MIB = 1024**2
RUNTIME_BYTES = 768 * MIB
"""CUDA's own context, the libraries' workspaces and captured graphs."""
MOST_UTILIZATION = 0.95
"""More than this leaves too little for the driver and for fragmentation."""
STOP_OTHERS = "stop what else uses the device (nvidia-smi lists it)"


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of one device."""

    name: str
    """Its name, for messages."""
    total_bytes: int
    """All of it."""
    free_bytes: int
    """Unused now."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The load that the model has to serve."""

    context_tokens: int
    """Tokens of one stream."""
    streams: int
    """Streams at once."""
    step_tokens: int
    """Most tokens of one step."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """The result: whether the model fits, and a sentence."""

    fits: bool
    """True if vLLM can be expected to start."""
    message: str
    """Numbers, and the flag to change if it does not fit."""


def assess(
    shape: ModelShape, weight_bytes: int, demand: Demand, device: DeviceMemory, utilization: float
) -> Assessment:
    """Compares the memory that a model needs with `utilization` of a device."""
    computing = _computing_bytes(shape, demand)
    context = shape.cache_bytes_per_token * demand.context_tokens
    needed = weight_bytes + computing + context
    granted = round(device.total_bytes * utilization)
    needs = (
        f"The model needs {_gib(weight_bytes)} for its weights, {_gib(computing)} for computing and {_gib(context)} "
        f"for one context of {demand.context_tokens} tokens, {_gib(needed)} in all; --gpu-memory-utilization "
        f"{utilization:g} gives it {_gib(granted)} of {device.name}, which has {_gib(device.total_bytes)}, "
        f"{_gib(device.free_bytes)} of them free"
    )
    if needed > granted:
        room = granted - weight_bytes - computing
        return Assessment(False, f"{needs}: {_fix(shape, needed, room, device, utilization)}")
    if granted > device.free_bytes:
        return Assessment(False, f"{needs}: {_fix_for_used(needed, device)}")
    streams = (granted - weight_bytes - computing) // max(1, context)
    return Assessment(True, f"{needs}; that holds {min(streams, demand.streams)} full contexts at once.")


def _computing_bytes(shape: ModelShape, demand: Demand) -> int:
    """Returns the largest intermediate results of a step, the logits of all streams, and the runtime's memory."""
    activations = demand.step_tokens * (2 * shape.intermediate + 4 * shape.hidden) * COMPUTE_BYTES
    logits = demand.streams * shape.vocabulary * 4
    return RUNTIME_BYTES + activations + logits


def _fix(shape: ModelShape, needed: int, room: int, device: DeviceMemory, utilization: float) -> str:
    """Returns what to change when the share of the device is too small."""
    share = _share_for(needed, device)
    tokens = room // max(1, shape.cache_bytes_per_token) // 256 * 256
    ways = []
    if utilization < share <= MOST_UTILIZATION:
        stop = f", after you {STOP_OTHERS}" if share * device.total_bytes > device.free_bytes else ""
        ways.append(f"pass --gpu-memory-utilization {share:g} or more{stop}")
    if tokens > 0:
        ways.append(f"pass --max-model-len {tokens} or less")
    if not ways:
        ways.append(f"take a smaller or a quantized model, or a device with at least {_gib(_device_for(needed))}")
    return ", or ".join(ways) + "."


def _fix_for_used(needed: int, device: DeviceMemory) -> str:
    """Returns what to change when other processes use the memory."""
    share = _share_for(needed, device)
    if share * device.total_bytes <= device.free_bytes:
        free = math.floor(device.free_bytes / device.total_bytes * 20) / 20
        return f"{STOP_OTHERS}, or pass --gpu-memory-utilization {free:g}."
    return f"{STOP_OTHERS}."


def _share_for(needed: int, device: DeviceMemory) -> float:
    """Returns the least share of the device, in steps of 0.05, that holds so much."""
    return math.ceil(round(needed / device.total_bytes * 20, 6)) / 20


def _device_for(needed: int) -> int:
    return math.ceil(needed / MOST_UTILIZATION / GIB) * GIB


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
