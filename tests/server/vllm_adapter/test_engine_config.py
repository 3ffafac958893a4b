"""Flags become engine arguments, and a wrong one is named."""

from __future__ import annotations

import pytest

from vllama_server.config import WorkerConfig
from vllama_server.errors import StartFailed
from vllama_server.vllm_adapter.engine_config import CPU_WORKER, EngineConfig, engine_arguments, typed_arguments


def test_a_gpu_gets_the_decided_profile() -> None:
    """Large steps, many streams, contexts of 4096 tokens, 90 % of the memory."""
    arguments = engine_arguments(EngineConfig("m"), on_cpu=False)
    assert arguments["max_num_batched_tokens"] == 16384
    assert arguments["max_num_seqs"] == 256
    assert arguments["max_model_len"] == 4096
    assert arguments["gpu_memory_utilization"] == 0.9
    assert "enforce_eager" not in arguments


def test_a_cpu_runs_eagerly_and_takes_no_share_of_memory() -> None:
    """Compiling takes a minute there, and its memory is shared."""
    arguments = engine_arguments(EngineConfig("m"), on_cpu=True)
    assert arguments["enforce_eager"] is True
    assert "gpu_memory_utilization" not in arguments


def test_only_a_cpu_gets_a_worker_of_its_own() -> None:
    """On a GPU vLLM's own takes draws back; an operator's choice beats both."""
    assert engine_arguments(EngineConfig("m"), on_cpu=True)["worker_cls"] == CPU_WORKER
    assert "worker_cls" not in engine_arguments(EngineConfig("m"), on_cpu=False)
    own = EngineConfig("m", engine_args={"worker_cls": "their.Worker"})
    assert engine_arguments(own, on_cpu=True)["worker_cls"] == "their.Worker"


@pytest.mark.parametrize(("deterministic", "dtype"), [(True, "float32"), (False, "bfloat16")])
def test_deterministic_computes_in_float32_on_a_cpu(deterministic: bool, dtype: str) -> None:
    """bfloat16 rounds differently with every make-up of a batch."""
    engine_config = EngineConfig("m", deterministic=deterministic)
    arguments = engine_arguments(engine_config, on_cpu=True, cpu_dtype="bfloat16")
    assert arguments["dtype"] == dtype


def test_the_queue_bounds_what_the_engine_accepts() -> None:
    """Streams and queue together."""
    arguments = engine_arguments(EngineConfig("m", max_streams=8, max_queue=4), on_cpu=True)
    assert (arguments["max_num_seqs"], arguments["max_num_queued_reqs"]) == (8, 12)


def test_max_model_len_zero_takes_the_models_own() -> None:
    """The model's own files say it then."""
    assert engine_arguments(EngineConfig("m", max_model_len=0), on_cpu=True)["max_model_len"] is None


def test_a_profile_takes_what_it_needs_from_the_workers_configuration() -> None:
    """The first served name is the one in metrics."""
    config = WorkerConfig("dir", served_names=("a", "b"), max_streams=3, deterministic=True, engine_args={"x": "1"})
    engine_config = EngineConfig.from_config(config)
    assert (engine_config.model, engine_config.name, engine_config.max_streams, engine_config.deterministic) == (
        "dir",
        "a",
        3,
        True,
    )
    assert engine_config.engine_args == {"x": "1"}


def test_engine_args_are_typed_by_vllm_and_beat_defaults() -> None:
    """Numbers, switches and choices come out as such."""
    engine_config = EngineConfig("m", engine_args={"max_num_seqs": "7", "enforce-eager": "false", "dtype": "float16"})
    arguments = engine_arguments(engine_config, on_cpu=True)
    assert (arguments["max_num_seqs"], arguments["enforce_eager"], arguments["dtype"]) == (7, False, "float16")


def test_own_keys_are_not_handed_to_vllm() -> None:
    """Parsers and templates are the adapter's."""
    assert typed_arguments({"tool_parser": "hermes", "chat_template": "t.jinja", "fim": "none"}) == {}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"max_num_seq": "8"}, "max_num_seq.*Did you mean max_num_seqs"),
        ({"max_num_seqs": "many"}, "max_num_seqs=many"),
        ({"enforce_eager": "perhaps"}, "enforce_eager=perhaps.*true or false"),
        ({"dtype": "float7"}, "dtype=float7"),
    ],
)
def test_a_wrong_engine_arg_is_named(given: dict[str, str], complaint: str) -> None:
    """The message names it and what would be right."""
    with pytest.raises(StartFailed, match=complaint):
        typed_arguments(given)
