"""Checks before loading whether the visible devices can hold a model. An estimate: the engine starts in any case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache

from vllama_server.memory.advice import Assessment, Demand, assess
from vllama_server.memory.shape import COMPUTE_BYTES, read_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.config import WorkerConfig
    from vllama_server.memory.advice import DeviceMemory
    from vllama_server.memory.shape import ModelShape

DEFAULT_STREAMS = 256
DEFAULT_STEP_TOKENS = 16_384
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt")


def check(config: WorkerConfig, devices: Sequence[DeviceMemory]) -> list[Assessment]:
    """Returns an assessment for each device that the model will use, first those where it does not fit.

    Empty without a device or a readable config.json.
    """
    directory = _directory(config.model)
    if not devices or directory is None:
        return []
    try:
        model: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        shape = read_shape(model)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return []
    parts = _engine_number(config, "tensor_parallel_size", 1) * _engine_number(config, "pipeline_parallel_size", 1)
    if parts > len(devices):
        return [_too_few(parts, len(devices))]
    weights = (_stored_bytes(directory, model) or shape.weight_bytes) // parts
    demand = _demand(config, shape)
    found = [assess(shape, weights, demand, device, config.gpu_memory_utilization) for device in devices]
    used, spare = found[:parts], found[parts:]
    if parts == 1 and not used[0].fits:
        used = [_with_hint(used[0], spare)]
    return sorted(dict.fromkeys(used), key=lambda assessment: assessment.fits)


def _too_few(parts: int, devices: int) -> Assessment:
    return Assessment(
        False,
        f"tensor_parallel_size and pipeline_parallel_size ask for {parts} GPUs and {devices} can be seen: lower them, "
        "or let CUDA_VISIBLE_DEVICES show more.",
    )


def _with_hint(assessment: Assessment, spare: Sequence[Assessment]) -> Assessment:
    """Adds the index of another visible device with enough memory, if there is one."""
    place = next((index for index, other in enumerate(spare, start=1) if other.fits), None)
    if place is None:
        return assessment
    return Assessment(
        False,
        f"{assessment.message} Of the visible GPUs the one with index {place} has the room: make it the first in "
        "CUDA_VISIBLE_DEVICES.",
    )


def _directory(model: str) -> Path | None:
    """Returns the model's directory: given, or in the hub's cache; None if there is none yet."""
    if Path(model).is_dir():
        return Path(model)
    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _demand(config: WorkerConfig, shape: ModelShape) -> Demand:
    lengths = [tokens for tokens in (config.max_model_len, shape.context_tokens) if tokens]
    return Demand(
        context_tokens=min(lengths, default=0),
        streams=config.max_streams or DEFAULT_STREAMS,
        step_tokens=_engine_number(config, "max_num_batched_tokens", DEFAULT_STEP_TOKENS),
    )


def _engine_number(config: WorkerConfig, key: str, default: int) -> int:
    """Returns an --engine-arg that is a count; the engine refuses wrong ones later."""
    text = config.engine_args.get(key, "")
    return int(text) if text.isdecimal() and int(text) else default


def _stored_bytes(directory: Path, model: dict[str, Any]) -> int:
    """Returns the bytes of a directory's weights on the device; 0 when there are none yet."""
    for pattern in _WEIGHT_PATTERNS:
        size = sum(path.stat().st_size for path in directory.glob(pattern))
        if size:
            stored_as_float32 = (model.get("dtype") or model.get("torch_dtype")) == "float32"
            return size * COMPUTE_BYTES // 4 if stored_as_float32 else size
    return 0
