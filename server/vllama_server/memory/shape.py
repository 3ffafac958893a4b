"""The dimensions of a model that decide its memory, from its config.json.

The parameters are counted from the dimensions, which is right to a few percent for common decoders. Weight files, where
there are any, are measured instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS_WITHOUT_CACHE = frozenset({"linear_attention", "mamba", "conv", "recurrent"})
"""Kinds of layer whose state does not grow with the context."""
COMPUTE_BYTES = 2
"""Bytes of a weight and of a cached number: models are computed in 16 bits by default."""
_QUANTIZED_BYTES = {"awq": 0.5, "gptq": 0.5, "fp8": 1.0, "bitsandbytes": 0.5, "mxfp4": 0.5}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a decoder."""

    hidden: int
    """Length of the hidden state."""
    layers: int
    """Layers of any kind."""
    cached_layers: int
    """Layers that keep keys and values."""
    cached_numbers: int
    """Numbers that such a layer keeps of one token."""
    intermediate: int
    """Width of the feed-forward part."""
    vocabulary: int
    """Size of the vocabulary."""
    context_tokens: int
    """Longest context of the model; 0: unknown."""
    parameters: int
    """Estimated number of parameters."""
    bytes_per_parameter: float
    """As stored on the device."""

    @property
    def weight_bytes(self) -> int:
        """Estimated bytes of the weights."""
        return round(self.parameters * self.bytes_per_parameter)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in all layers."""
        return self.cached_layers * self.cached_numbers * COMPUTE_BYTES


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """Reads a config.json; of a multimodal model its text part. Raises KeyError for a missing dimension."""
    text = config.get("text_config") or config
    hidden = _first(text, "hidden_size", "n_embd", "d_model")
    layers = _first(text, "num_hidden_layers", "n_layer", "num_layers")
    heads = _first(text, "num_attention_heads", "n_head", "num_heads")
    head = text.get("head_dim") or hidden // heads
    groups = text.get("num_key_value_heads") or (1 if text.get("multi_query") else heads)
    intermediate = text.get("intermediate_size") or text.get("n_inner") or 4 * hidden
    vocabulary = _first(text, "vocab_size")
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    attention = hidden * head * (2 * heads + 2 * groups)
    parameters = vocabulary * hidden * (1 if tied else 2)
    parameters += layers * attention + _feed_forward(text, hidden, intermediate, layers)
    return ModelShape(
        hidden=hidden,
        layers=layers,
        cached_layers=_cached_layers(text, layers),
        cached_numbers=_cached_numbers(text, groups, head),
        intermediate=intermediate,
        vocabulary=vocabulary,
        context_tokens=int(text.get("max_position_embeddings") or text.get("n_positions") or 0),
        parameters=parameters,
        bytes_per_parameter=_bytes_per_parameter(config),
    )


def _first(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if config.get(name):
            return int(config[name])
    raise KeyError(names[0])


def _feed_forward(config: Mapping[str, Any], hidden: int, intermediate: int, layers: int) -> int:
    """Returns the parameters of all feed-forward parts: three matrices each, for every expert if there are experts."""
    experts = config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts") or 0
    if not experts:
        return layers * 3 * hidden * intermediate
    width = config.get("moe_intermediate_size") or intermediate
    shared = (config.get("n_shared_experts") or 0) * width or config.get("shared_expert_intermediate_size") or 0
    return layers * 3 * hidden * (experts * width + shared)


def _cached_layers(config: Mapping[str, Any], layers: int) -> int:
    kinds = config.get("layer_types")
    return sum(kind not in LAYERS_WITHOUT_CACHE for kind in kinds) if kinds else layers


def _cached_numbers(config: Mapping[str, Any], groups: int, head: int) -> int:
    # Latent attention keeps one compressed vector instead of keys and values for each head.
    if config.get("kv_lora_rank"):
        return int(config["kv_lora_rank"] + config.get("qk_rope_head_dim", 0))
    return int(2 * groups * head)


def _bytes_per_parameter(config: Mapping[str, Any]) -> float:
    method = str((config.get("quantization_config") or {}).get("quant_method", ""))
    if method == "compressed-tensors":
        groups = (config["quantization_config"].get("config_groups") or {}).values()
        bits = [group["weights"]["num_bits"] for group in groups if group.get("weights")]
        return max(bits) / 8 if bits else COMPUTE_BYTES
    return _QUANTIZED_BYTES.get(method, COMPUTE_BYTES)
