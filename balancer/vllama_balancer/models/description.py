"""Describes a model from its files: configuration, chat template and headers of the weights.

Clients list and inspect models that are not loaded, and choose by capability. The description is the message with
which workers describe themselves; a worker's own has more in it and replaces this one.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_LONGEST_HEADER = 100 << 20
"""More than any real safetensors header has; a damaged file may announce any length."""
_WORDS = {
    "completion": worker_pb2.CAPABILITY_COMPLETION,
    "tools": worker_pb2.CAPABILITY_TOOLS,
    "thinking": worker_pb2.CAPABILITY_THINKING,
    "vision": worker_pb2.CAPABILITY_VISION,
    "insert": worker_pb2.CAPABILITY_INSERT,
    "embedding": worker_pb2.CAPABILITY_EMBEDDING,
}


def describe(name: str, weights: Path, known: Sequence[str] = ()) -> worker_pb2.DescribeResponse | None:
    """Describes the model in a directory; None if its configuration cannot be read.

    `known` are its capabilities by Ollama's names, if the table of known models has it.
    """
    config = _json(weights / "config.json")
    if not config:
        return None
    template = _template(weights)
    info = _info(weights, config, template)
    capabilities = _capabilities(config, template, (weights / "modules.json").is_file(), known)
    return worker_pb2.DescribeResponse(
        models=[name], capabilities=capabilities, context_length=info.trained_context_length, model_info=info
    )


def _capabilities(
    config: dict[str, Any], template: str, is_embedder: bool, known: Sequence[str]
) -> list[worker_pb2.Capability]:
    if known:
        found = {_WORDS[word] for word in known}
    elif is_embedder or not _is_generative(config):
        found = {worker_pb2.CAPABILITY_EMBEDDING}
    else:
        found = {worker_pb2.CAPABILITY_COMPLETION}
        if "vision_config" in config and template:
            found.add(worker_pb2.CAPABILITY_VISION)
        if "<think>" in template and "</think>" in template:
            found.add(worker_pb2.CAPABILITY_THINKING)
    if template and worker_pb2.CAPABILITY_COMPLETION in found:
        found.add(worker_pb2.CAPABILITY_CHAT)
    return sorted(found)


def _is_generative(config: dict[str, Any]) -> bool:
    """Returns False for bare encoders and classifiers; a model without `architectures` is taken to generate."""
    names = config.get("architectures") or []
    return not names or any(name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) for name in names)


def _info(weights: Path, config: dict[str, Any], template: str) -> worker_pb2.ModelInfo:
    text = {**config, **config.get("text_config", {})}
    files = sorted(weights.glob("*.safetensors"))
    heads = _count(text, "num_attention_heads", "n_head")
    return worker_pb2.ModelInfo(
        architecture=str(config.get("model_type", "")),
        parameter_count=sum(_parameters(path) for path in files),
        size_bytes=sum(path.stat().st_size for path in files),
        embedding_length=_count(text, "hidden_size", "n_embd", "dim"),
        block_count=_count(text, "num_hidden_layers", "n_layer", "n_layers"),
        head_count=heads,
        head_count_kv=_count(text, "num_key_value_heads") or heads,
        vocabulary_size=_count(text, "vocab_size"),
        trained_context_length=_count(text, "max_position_embeddings", "n_positions"),
        quantization=_quantization(text),
        chat_template=template,
        default_sampling=_sampling(_json(weights / "generation_config.json")),
    )


def _count(values: dict[str, Any], *names: str) -> int:
    return next((value for name in names if isinstance(value := values.get(name), int) and value > 0), 0)


def _quantization(config: dict[str, Any]) -> str:
    method = (config.get("quantization_config") or {}).get("quant_method")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "")
    return str(method).upper() if method else _DTYPES.get(dtype, dtype.upper())


def _sampling(values: dict[str, Any]) -> generation_pb2.Sampling:
    chosen = {name: values[name] for name in _SAMPLING if isinstance(values.get(name), int | float)}
    if "top_k" in chosen:
        chosen["top_k"] = int(chosen["top_k"])
    return generation_pb2.Sampling(**chosen)


def _template(weights: Path) -> str:
    path = weights / "chat_template.jinja"
    if path.is_file():
        return path.read_text(errors="replace")
    given = _json(weights / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(given, list):
        named = {str(entry.get("name")): str(entry.get("template", "")) for entry in given}
        return named.get("default") or next(iter(named.values()), "")
    return str(given)


def _parameters(path: Path) -> int:
    """Counts the parameters in a safetensors file by its header: a length, and JSON with every tensor's shape."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= _LONGEST_HEADER:
            return 0
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return 0
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
