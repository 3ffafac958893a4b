"""What a loaded engine is: capabilities from its template and parsers, sizes from its files."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import vllm
from safetensors import safe_open
from vllm.platforms import current_platform

from vllama_server.engine.description import Capability, Device, EngineDescription, ModelInfo
from vllama_server.engine.requests import Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_server.vllm_adapter.families import Traits

_DTYPE_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def capabilities_of(config: Any, template: str, traits: Traits) -> frozenset[Capability]:
    """Works out what the model can do."""
    if config.model_config.runner_type == "pooling":
        return frozenset({Capability.EMBEDDING})
    found = {Capability.COMPLETION}
    if template:
        found.add(Capability.CHAT)
    if template and "tools" in template and traits.tool_parser:
        found.add(Capability.TOOLS)
    if template and traits.reasoning_parser:
        found.add(Capability.THINKING)
    if traits.fim:
        found.add(Capability.INSERT)
    if config.model_config.is_multimodal_model and template:
        found.add(Capability.VISION)
    return frozenset(found)


def describe(config: Any, capabilities: frozenset[Capability], template: str, traits: Traits) -> EngineDescription:
    """Puts the description of a started engine together."""
    cache = config.cache_config
    return EngineDescription(
        capabilities=capabilities,
        context_length=config.model_config.max_model_len,
        max_streams=config.scheduler_config.max_num_seqs,
        kv_cache_tokens=_cache_tokens(config),
        block_tokens=cache.block_size,
        device=_device(),
        versions={
            "vllama": _version("vllama-serve"),
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        model_info=_model_info(config, template, traits),
        can_sleep=bool(config.model_config.enable_sleep_mode),
    )


def default_sampling(values: Mapping[str, Any]) -> Sampling:
    """Takes the sampling values of generation_config.json."""
    names = (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "max_tokens",
    )
    return Sampling(**{name: values[name] for name in names if name in values})


def _cache_tokens(config: Any) -> int:
    cache = config.cache_config
    tokens = getattr(cache, "kv_cache_size_tokens", None)
    return int(tokens or (cache.num_gpu_blocks or 0) * cache.block_size)


def _device() -> Device:
    if current_platform.is_cpu():
        return Device("cpu", platform.processor() or platform.machine(), psutil.virtual_memory().total)
    return Device("cuda", current_platform.get_device_name(), current_platform.get_device_total_memory())


def _model_info(config: Any, template: str, traits: Traits) -> ModelInfo:
    model = config.model_config
    text = model.hf_text_config
    files = sorted(Path(model.model).glob("*.safetensors")) if Path(model.model).is_dir() else []
    quantization = model.quantization or _DTYPE_NAMES.get(str(model.dtype).removeprefix("torch."), "")
    return ModelInfo(
        architecture=model.hf_config.model_type,
        parameter_count=sum(_parameters(path) for path in files),
        size_bytes=sum(path.stat().st_size for path in files),
        embedding_length=model.get_hidden_size(),
        block_count=getattr(text, "num_hidden_layers", 0),
        head_count=getattr(text, "num_attention_heads", 0),
        head_count_kv=getattr(text, "num_key_value_heads", 0) or 0,
        vocabulary_size=model.get_vocab_size(),
        trained_context_length=getattr(text, "max_position_embeddings", 0) or 0,
        quantization=quantization.upper(),
        chat_template=template,
        default_sampling=default_sampling(model.get_diff_sampling_param()),
        tool_parser=traits.tool_parser,
        reasoning_parser=traits.reasoning_parser,
    )


def _parameters(path: Path) -> int:
    """Counts the numbers in a weight file from its header."""
    with safe_open(path, framework="pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118  # not a mapping
    return sum(_product(shape) for shape in shapes)


def _product(shape: list[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "0"
