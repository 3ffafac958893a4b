"""Dimensions of models, against what their makers publish."""

import pytest

from tests.server.memory.models import LLAMA_31_8B, MIXTRAL_8X7B, QWEN_25_05B, QWEN_25_7B, SMOLLM2_135M
from vllama_server.memory.shape import read_shape


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (QWEN_25_7B, 7.616e9),
        (LLAMA_31_8B, 8.030e9),
        (SMOLLM2_135M, 134.5e6),
        (QWEN_25_05B, 494e6),
        (MIXTRAL_8X7B, 46.70e9),
    ],
)
def test_parameters_are_right_to_a_percent(config, parameters):
    """The published counts."""
    assert read_shape(config).parameters == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize(
    ("config", "size"), [(QWEN_25_7B, 56 * 1024), (LLAMA_31_8B, 128 * 1024), (SMOLLM2_135M, 22.5 * 1024)]
)
def test_the_cache_of_a_token_is_exact(config, size):
    """Keys and values, 16 bits each, of every layer and every group of heads."""
    assert read_shape(config).cache_bytes_per_token == size


def test_an_explicit_head_length_counts():
    """Some models have wider heads than their hidden state suggests."""
    assert read_shape(QWEN_25_05B | {"head_dim": 128}).cached_numbers == 2 * 2 * 128


def test_latent_attention_keeps_one_vector():
    """DeepSeek's cache is a compressed one."""
    shape = read_shape(LLAMA_31_8B | {"kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert shape.cached_numbers == 576


def test_layers_without_attention_keep_nothing():
    """Hybrid models have a cache in some of their layers only."""
    kinds = ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 8
    assert read_shape(LLAMA_31_8B | {"layer_types": kinds}).cached_layers == 8


def test_a_model_of_pictures_is_its_text_part():
    """Multimodal configurations nest the decoder."""
    assert read_shape({"text_config": LLAMA_31_8B, "vision_config": {}}) == read_shape(LLAMA_31_8B)


def test_old_names_are_understood():
    """GPT-2 called everything differently."""
    config = {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50_257, "n_positions": 1024}
    shape = read_shape(config)
    assert (shape.hidden, shape.layers, shape.intermediate, shape.context_tokens) == (768, 12, 3072, 1024)


@pytest.mark.parametrize(
    ("quantization", "size"),
    [
        ({"quant_method": "awq"}, 0.5),
        ({"quant_method": "fp8"}, 1.0),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}, 0.5),
        (None, 2),
    ],
)
def test_quantized_weights_are_smaller(quantization, size):
    """As stored on the device."""
    assert read_shape(LLAMA_31_8B | {"quantization_config": quantization}).bytes_per_parameter == size


def test_a_missing_dimension_is_named():
    """A configuration of something else is no shape."""
    with pytest.raises(KeyError, match="hidden_size"):
        read_shape({"vocab_size": 1})
