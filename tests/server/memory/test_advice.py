"""Whether models fit devices, and what to change if not."""

import pytest

from tests.server.memory.models import LLAMA_31_8B, QWEN_25_05B, QWEN_25_7B, SMOLLM2_135M
from vllama_server.memory.advice import GIB, Demand, DeviceMemory, assess
from vllama_server.memory.shape import read_shape

DEMAND = Demand(context_tokens=4096, streams=256, step_tokens=16_384)


def card(total=24, free=None, name="NVIDIA RTX 4090"):
    """A device of so many GiB."""
    return DeviceMemory(name, int(total * GIB), int((total - 0.5 if free is None else free) * GIB))


def judge(config, device, utilization, demand=DEMAND):
    """Assesses a model with the weights that its shape suggests."""
    shape = read_shape(config)
    return assess(shape, shape.weight_bytes, demand, device, utilization)


def test_seven_billion_need_most_of_a_24_gb_card():
    """0.9 serves them, 0.5 cannot."""
    assert judge(QWEN_25_7B, card(), 0.9).fits
    assert not judge(QWEN_25_7B, card(), 0.5).fits


@pytest.mark.parametrize("config", [QWEN_25_05B, SMOLLM2_135M])
def test_half_of_a_24_gb_card_is_enough_below_two_billion(config):
    """Small models leave room for others."""
    assert judge(config, card(), 0.5).fits


def test_too_small_a_share_says_which_one_would_do():
    """The numbers and the flag with its value are in one sentence, and the advice works."""
    message = judge(QWEN_25_7B, card(), 0.5).message
    assert "14.2 GiB for its weights" in message
    assert "--gpu-memory-utilization 0.5 gives it 12.0 GiB of NVIDIA RTX 4090, which has 24.0 GiB" in message
    assert "pass --gpu-memory-utilization 0.75 or more." in message
    assert judge(QWEN_25_7B, card(), 0.75).fits


def test_too_long_a_context_says_how_long_it_may_be():
    """The cache must hold one context, and the length that is advised fits."""
    demand = Demand(131_072, 64, 8192)
    message = judge(LLAMA_31_8B, card(), 0.9, demand).message
    length = int(message.split("--max-model-len ")[1].split()[0])
    assert 16_384 < length < 131_072
    assert judge(LLAMA_31_8B, card(), 0.9, Demand(length, 64, 8192)).fits
    assert not judge(LLAMA_31_8B, card(), 0.9, Demand(length + 512, 64, 8192)).fits


def test_a_device_that_is_too_small_says_which_one_would_do():
    """No flag helps eight billion on 12 GiB."""
    message = judge(LLAMA_31_8B, card(12), 0.9).message
    assert "take a smaller or a quantized model, or a device with at least 19.0 GiB." in message


def test_a_busy_device_says_so():
    """What others use cannot be had; a smaller share that would do is named."""
    message = judge(QWEN_25_05B, card(24, free=14), 0.9).message
    assert "14.0 GiB of them free: stop what else uses the device" in message
    assert message.endswith("or pass --gpu-memory-utilization 0.55.")
    assert judge(QWEN_25_05B, card(24, free=14), 0.55).fits


def test_a_full_device_can_only_be_emptied():
    """When not even what is needed is free there is one way."""
    message = judge(QWEN_25_7B, card(24, free=2), 0.9).message
    assert message.endswith("stop what else uses the device (nvidia-smi lists it).")


def test_what_fits_says_for_how_many():
    """Full contexts at once, at most as many as there may be streams."""
    assert judge(SMOLLM2_135M, card(), 0.9, Demand(4096, 8, 2048)).message.endswith("8 full contexts at once.")
