"""Causes of failed starts become one paragraph: what was wrong, and what to do."""

from __future__ import annotations

import logging

import pytest

from vllama_server.vllm_adapter.child_reports import Report
from vllama_server.vllm_adapter.engine_config import EngineConfig
from vllama_server.vllm_adapter.start_advice import LONGEST_CAUSE, advice_for, failure_message, root_cause

GENERIC = RuntimeError(
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)


def failure(error_type: str, error: str) -> Report:
    """A report of an exception."""
    return Report(
        "EngineCore", logging.ERROR, "EngineCore failed to start.", error_type, error, f"{error_type}: {error}"
    )


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("ValueError: No available memory for the cache blocks.", "--max-model-len"),
        (
            "ValueError: To serve at least one request with the model's max seq len (8192), (0.35 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (0.06 GiB). Based on the available memory, "
            "the estimated maximum model length is 1408.",
            "--max-model-len 1408 or less",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "nvidia-smi"),
        (
            "ValueError: Free memory on device cuda:0 (3.1/23.6 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 21.3 GiB).",
            "Only 3.1/23.6 GiB",
        ),
        (
            "User-specified max_model_len (32768) is greater than the derived max_model_len "
            "(max_position_embeddings=8192 or model_max_length=None in model's config.json).",
            "--max-model-len 8192 or less",
        ),
        ("GatedRepoError: 401 Client Error. Cannot access gated repo for url …", "HF_TOKEN"),
        ("RepositoryNotFoundError: 404 Client Error.", "check the spelling"),
        ("HFValidationError: Repo id must be in the form 'repo_name'", "no such directory"),
        ("LocalEntryNotFoundError: Cannot find the requested files in the local cache", "download it first"),
        ("Model architectures ['FooForCausalLM'] are not supported for now.", "architecture"),
        ("SafetensorError: Error while deserializing header: header too large", "damaged"),
        ("RuntimeError: Cannot find any model weights with `/m`", "no weight files"),
        ("ValueError: Unknown quantization method: foo", "drop --engine-arg quantization"),
        ("ValueError: World size (4) is larger than the number of available GPUs (1)", "CUDA_VISIBLE_DEVICES"),
        ("RuntimeError: … Failed core proc(s): {'EngineCore': -9}", "ran out of memory"),
    ],
)
def test_known_causes_say_what_helps(cause: str, advice: str) -> None:
    """Each names a flag, a variable or a step."""
    assert advice in advice_for(cause)


def test_an_unknown_cause_gets_no_made_up_advice() -> None:
    """The cause alone is better than a guess."""
    assert advice_for("ZeroDivisionError: division by zero") == ""


def test_the_earliest_report_of_an_exception_is_the_cause() -> None:
    """Later ones are its echoes; the worker's own exception says nothing."""
    reports = [
        Report("EngineCore", logging.ERROR, "something odd"),
        failure("ValueError", "the true cause"),
        failure("RuntimeError", "an echo"),
    ]
    assert root_cause(GENERIC, reports) == "ValueError: the true cause"


def test_without_reports_the_workers_own_exception_is_the_cause() -> None:
    """As it is for everything that goes wrong before there are other processes."""
    assert root_cause(OSError("no such file"), []) == "OSError: no such file"


def test_advice_sees_the_causes_behind_an_exception() -> None:
    """The outer one may say too little to go by."""
    error = OSError("Can't load the configuration.")
    error.__cause__ = RuntimeError("401 Client Error")
    message = failure_message(EngineConfig("some/model"), error, [])
    assert message.startswith("some/model could not be started: OSError: Can't load the configuration. ")
    assert "HF_TOKEN" in message


def test_a_long_cause_is_cut_to_what_a_reader_can_take_in() -> None:
    """One line, and it still ends in advice."""
    listing = "Model architectures ['Foo'] are not supported for now. Supported architectures: " + "Bar, " * 400
    message = failure_message(EngineConfig("some/model"), ValueError(listing), [])
    assert message.startswith("some/model could not be started: ValueError: Model architectures ['Foo']")
    assert len(message) < LONGEST_CAUSE + 400
    assert "\n" not in message
