"""What a loaded model is and can do: capabilities from its template and parsers, sizes from its files.

vLLM has the parsers of tool calls and reasoning but chooses none by itself, and a wrong one garbles output. So the
choice is a table of model families (families.toml), which `--engine-arg tool_parser=…`, `reasoning_parser=…` and
`fim=…` override; "none" turns one off.
"""

from __future__ import annotations

import platform
import re
import tomllib
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import vllm
from safetensors import safe_open
from vllm.platforms import current_platform

from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_server.vllm_adapter.engine_config import EngineConfig


_DTYPE_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def capabilities_of(config: Any, template: str, traits: Traits) -> list[worker_pb2.Capability]:
    """Returns what the model can do, in the order of the enum."""
    if config.model_config.runner_type == "pooling":
        return [worker_pb2.CAPABILITY_EMBEDDING]
    found = [worker_pb2.CAPABILITY_COMPLETION]
    if template:
        found.append(worker_pb2.CAPABILITY_CHAT)
    if template and "tools" in template and traits.tool_parser:
        found.append(worker_pb2.CAPABILITY_TOOLS)
    if template and traits.reasoning_parser:
        found.append(worker_pb2.CAPABILITY_THINKING)
    if traits.fim:
        found.append(worker_pb2.CAPABILITY_INSERT)
    if config.model_config.is_multimodal_model and template:
        found.append(worker_pb2.CAPABILITY_VISION)
    return sorted(found)


def describe(
    config: Any, capabilities: Sequence[worker_pb2.Capability], template: str, traits: Traits
) -> worker_pb2.DescribeResponse:
    """Returns the description of a started engine."""
    cache = config.cache_config
    return worker_pb2.DescribeResponse(
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


def default_sampling(values: Mapping[str, Any]) -> generation_pb2.Sampling:
    """Returns the sampling values of generation_config.json."""
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
    return generation_pb2.Sampling(**{name: values[name] for name in names if name in values})


def _cache_tokens(config: Any) -> int:
    cache = config.cache_config
    tokens = getattr(cache, "kv_cache_size_tokens", None)
    return int(tokens or (cache.num_gpu_blocks or 0) * cache.block_size)


def _device() -> worker_pb2.Device:
    if current_platform.is_cpu():
        name = platform.processor() or platform.machine()
        return worker_pb2.Device(kind="cpu", name=name, memory_bytes=psutil.virtual_memory().total)
    return worker_pb2.Device(
        kind="cuda",
        name=current_platform.get_device_name(),
        memory_bytes=current_platform.get_device_total_memory(),
    )


def _model_info(config: Any, template: str, traits: Traits) -> worker_pb2.ModelInfo:
    model = config.model_config
    text = model.hf_text_config
    files = sorted(Path(model.model).glob("*.safetensors")) if Path(model.model).is_dir() else []
    quantization = model.quantization or _DTYPE_NAMES.get(str(model.dtype).removeprefix("torch."), "")
    return worker_pb2.ModelInfo(
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
    """Returns the count of numbers in a weight file, from its header."""
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


@dataclass(frozen=True, slots=True)
class Traits:
    """Traits of a model that are not in its files; empty means none."""

    tool_parser: str = ""
    """vLLM's name of the parser for tool calls."""
    reasoning_parser: str = ""
    """vLLM's name of the parser for reasoning."""
    fim: str = ""
    """Prompt for filling a gap, with {prefix} and {suffix}."""


@dataclass(frozen=True, slots=True)
class Family:
    """One entry of the table: conditions, all of which must hold, and the traits."""

    label: str
    types: frozenset[str] = frozenset()
    name: str = ""
    template: str = ""
    traits: Traits = Traits()

    def matches(self, model_type: str, name: str, template: str) -> bool:
        """Returns whether a model belongs to this family."""
        return (
            (not self.types or model_type in self.types)
            and (not self.name or re.search(self.name, name.lower()) is not None)
            and (not self.template or re.search(self.template, template) is not None)
        )


def load_families() -> tuple[Family, ...]:
    """Returns the table in the package, in its order."""
    table = tomllib.loads((files("vllama_server.vllm_adapter") / "families.toml").read_text("utf-8"))
    return tuple(_family(entry) for entry in table["family"])


def traits_of(
    families: Sequence[Family], model_type: str, names: Sequence[str], template: str, overrides: Mapping[str, str]
) -> Traits:
    """Returns the traits of the first family that matches any of the model's names, with the overrides."""
    found = next(
        (family.traits for family in families for name in names if family.matches(model_type, name, template)),
        Traits(),
    )
    chosen = {
        field: "" if value.lower() == "none" else value
        for field in ("tool_parser", "reasoning_parser", "fim")
        if (value := overrides.get(field)) is not None
    }
    return replace(found, **chosen)


def fill_in_the_middle(template: str, prefix: str, suffix: str) -> str:
    """Returns the prompt of a gap; braces in the texts mean nothing."""
    before, _, rest = template.partition("{prefix}")
    if "{suffix}" in before:
        head, _, middle = before.partition("{suffix}")
        return head + suffix + middle + prefix + rest
    middle, _, tail = rest.partition("{suffix}")
    return before + prefix + middle + suffix + tail


def _family(entry: Mapping[str, Any]) -> Family:
    return Family(
        label=entry["label"],
        types=frozenset(entry.get("types", ())),
        name=entry.get("name", ""),
        template=entry.get("template", ""),
        traits=Traits(entry.get("tools", ""), entry.get("reasoning", ""), entry.get("fim", "")),
    )


def chat_template(tokenizer: Any, engine_config: EngineConfig) -> str:
    """Returns the template: the operator's, else the model's; empty when there is none."""
    path = engine_config.own_argument("chat_template")
    if path:
        from vllm.renderers.chat_utils import load_chat_template

        return str(load_chat_template(path))
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template or ""


def only_template(tokenizer: Any, engine_config: EngineConfig, *, is_multimodal: bool) -> str | None:
    """Returns the template if it is the only one; None if vLLM has to choose, by chat or by processor.

    Without it vLLM tries the model's processor first, and for a model of text alone loads the tokenizer a second time:
    nearly half a second of the first chat.
    """
    has_one = isinstance(getattr(tokenizer, "chat_template", None), str) and not is_multimodal
    return chat_template(tokenizer, engine_config) if has_one or engine_config.own_argument("chat_template") else None
