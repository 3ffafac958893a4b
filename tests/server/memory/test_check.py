"""The look at a model before it is loaded."""

import json

from tests.server.memory.models import QWEN_25_7B, SMOLLM2_135M
from vllama_server.config import WorkerConfig
from vllama_server.memory.advice import GIB, DeviceMemory
from vllama_server.memory.check import check

CARD = [DeviceMemory("card", 24 * GIB, 23 * GIB)]


def model(directory, config, weights=()):
    """Writes a model with sparse weight files of so many bytes."""
    (directory / "config.json").write_text(json.dumps(config))
    for index, size in enumerate(weights):
        with (directory / f"model-{index}.safetensors").open("wb") as file:
            file.truncate(size)
    return str(directory)


def said(config, devices=CARD):
    """What is said of the one device that is used."""
    (assessment,) = check(config, devices)
    return assessment.message


def test_weights_that_are_there_are_weighed(tmp_path):
    """The files count, not the estimate."""
    path = model(tmp_path, SMOLLM2_135M, [3 * GIB, 2 * GIB])
    assert "5.0 GiB for its weights" in said(WorkerConfig(path))


def test_float32_files_are_loaded_in_half_the_size(tmp_path):
    """The engine computes them in 16 bits."""
    path = model(tmp_path, SMOLLM2_135M | {"torch_dtype": "float32"}, [4 * GIB])
    assert "2.0 GiB for its weights" in said(WorkerConfig(path))


def test_weights_that_are_not_there_are_estimated(tmp_path):
    """A model whose files come later is judged by its dimensions."""
    path = model(tmp_path, QWEN_25_7B)
    assert "14.2 GiB for its weights" in said(WorkerConfig(path))
    assert not check(WorkerConfig(path, gpu_memory_utilization=0.5), CARD)[0].fits


def test_the_context_is_at_most_the_models_own(tmp_path):
    """--max-model-len 0 means the model's own, and more than that is never served."""
    path = model(tmp_path, SMOLLM2_135M)
    for asked, served in ((4096, 4096), (0, 8192), (100_000, 8192)):
        assert f"one context of {served} tokens" in said(WorkerConfig(path, max_model_len=asked))


def test_a_model_on_two_devices_needs_half_of_each(tmp_path):
    """tensor_parallel_size divides the weights."""
    path = model(tmp_path, SMOLLM2_135M, [4 * GIB])
    config = WorkerConfig(path, engine_args={"tensor_parallel_size": "2"})
    (assessment,) = check(config, CARD * 2)
    assert "2.0 GiB for its weights" in assessment.message


def test_a_wrong_engine_argument_is_left_to_the_engine(tmp_path):
    """The check is no place to fail."""
    config = WorkerConfig(model(tmp_path, SMOLLM2_135M), engine_args={"tensor_parallel_size": "two"})
    assert check(config, CARD)[0].fits


def test_without_a_device_or_a_config_there_is_nothing_to_say(tmp_path):
    """No guess is better than a wrong one."""
    path = model(tmp_path, SMOLLM2_135M)
    assert check(WorkerConfig(path), []) == []
    assert check(WorkerConfig("no/such-model-here"), CARD) == []
    assert check(WorkerConfig("two words"), CARD) == []
    (tmp_path / "config.json").write_text("{")
    assert check(WorkerConfig(path), CARD) == []


def test_every_device_that_is_used_is_looked_at(tmp_path):
    """What stops a model on two devices may be on the second."""
    path = model(tmp_path, SMOLLM2_135M, [4 * GIB])
    full = DeviceMemory("full", 24 * GIB, 1 * GIB)
    config = WorkerConfig(path, engine_args={"tensor_parallel_size": "2"})
    misfit, fit = check(config, [*CARD, full])
    assert not misfit.fits
    assert "full" in misfit.message
    assert fit.fits


def test_another_visible_device_with_room_is_named(tmp_path):
    """The engine takes the first one whatever the others have."""
    path = model(tmp_path, QWEN_25_7B)
    small = DeviceMemory("small", 8 * GIB, 8 * GIB)
    message = said(WorkerConfig(path), [small, small, *CARD])
    assert "small" in message
    assert "index 2" in message
    assert "CUDA_VISIBLE_DEVICES" not in said(WorkerConfig(path), [small, small])


def test_more_parts_than_devices_are_counted(tmp_path):
    """Both numbers are said before the engine finds out."""
    config = WorkerConfig(model(tmp_path, SMOLLM2_135M), engine_args={"tensor_parallel_size": "4"})
    message = said(config, CARD * 2)
    assert "4 GPUs" in message
    assert "2 can be seen" in message
