"""Engine arguments: from a worker's configuration to the arguments of vLLM's engine.

Two sets of defaults exist because the devices need opposite things. A GPU needs large steps, compiled kernels and
nearly all of its memory. A CPU shares its memory with everything else, and compiling would take a minute for a gain
of some 15 %. So it runs eagerly with a key-value cache of a stated size, in the precision that it computes fastest.

Textual arguments are read by vLLM's own command line parser: it has some two hundred with types, choices and JSON
forms.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NoReturn

from vllama_server.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_server.config import WorkerConfig


GPU_BATCHED_TOKENS = 16384
"""Tokens of one step on a GPU: long prompts are computed in few steps."""
GPU_STREAMS = 256
CPU_BATCHED_TOKENS = 512
"""Tokens of one step on a CPU: a longer step would delay every running stream for seconds."""
CPU_STREAMS = 64
GPU_MEMORY_UTILIZATION = 0.9
CONSTRAINT_BACKEND = "xgrammar"
"""vLLM's own choice would be that of the first request, and the others would depend on it."""

CPU_WORKER = "vllama_server.vllm_adapter.cpu_worker.SeededCPUWorker"
"""The class that computes on a CPU, by name: it is imported only where the engine computes."""

OWN_KEYS = frozenset({"tool_parser", "reasoning_parser", "chat_template", "fim"})
"""Keys of `--engine-arg` for the adapter itself; every other key is an argument of vLLM's engine."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's settings, independent of flags and of vLLM's own names."""

    model: str
    """Local directory or Hugging Face id."""
    name: str = ""
    """Name shown in metrics; empty means the model itself."""
    device: str = "auto"
    """"auto", "cuda" or "cpu"."""
    max_streams: int | None = None
    """Streams computed at once; None takes the device's default."""
    max_queue: int = 512
    """Requests that may wait beyond `max_streams`."""
    max_model_len: int = 4096
    """Longest context in tokens, capped by the model's own; 0 means the model's own."""
    gpu_memory_utilization: float = GPU_MEMORY_UTILIZATION
    """Share of a GPU's memory, above 0 up to 1."""
    deterministic: bool = False
    """True if greedy and seeded output must not depend on the batch."""
    engine_args: Mapping[str, str] = field(default_factory=dict)
    """Arguments as given, by key; checked when the engine starts."""

    @classmethod
    def from_config(cls, config: WorkerConfig) -> EngineConfig:
        return cls(
            model=config.model,
            name=config.names[0],
            device=config.device,
            max_streams=config.max_streams,
            max_queue=config.max_queue,
            max_model_len=config.max_model_len,
            gpu_memory_utilization=config.gpu_memory_utilization,
            deterministic=config.deterministic,
            engine_args=config.engine_args,
        )

    def streams(self, on_cpu: bool) -> int:
        """Returns how many streams are computed at once."""
        return self.max_streams or (CPU_STREAMS if on_cpu else GPU_STREAMS)

    def own_argument(self, key: str) -> str | None:
        """Returns the value of one of OWN_KEYS; None when it was not given."""
        return self.engine_args.get(key)


def engine_arguments(engine_config: EngineConfig, *, on_cpu: bool, cpu_dtype: str = "auto") -> dict[str, Any]:
    """Returns the keyword arguments of AsyncEngineArgs; `--engine-arg` beats every default.

    `cpu_dtype` is the number format that the processor computes fast. Raises StartFailed for an
    unknown key or a value that vLLM cannot read.
    """
    streams = engine_config.streams(on_cpu)
    arguments: dict[str, Any] = {
        "model": engine_config.model,
        "served_model_name": [engine_config.name or engine_config.model],
        "max_model_len": engine_config.max_model_len or None,
        "max_num_seqs": streams,
        "max_num_queued_reqs": streams + engine_config.max_queue,
        "max_num_batched_tokens": max(CPU_BATCHED_TOKENS if on_cpu else GPU_BATCHED_TOKENS, streams),
        "scheduling_policy": "priority",
    }
    if on_cpu:
        arguments["enforce_eager"] = True
        arguments["worker_cls"] = CPU_WORKER
        arguments["dtype"] = "float32" if engine_config.deterministic else cpu_dtype
    else:
        arguments["gpu_memory_utilization"] = engine_config.gpu_memory_utilization
    arguments.update(typed_arguments(engine_config.engine_args))
    return arguments


def typed_arguments(given: Mapping[str, str]) -> dict[str, Any]:
    """Returns textual `key=value` pairs with the types of vLLM's own command line parser.

    Raises StartFailed that names the key and, for a likely misspelling, the key that was meant.
    """
    foreign = {key: value for key, value in given.items() if key not in OWN_KEYS}
    if not foreign:
        return {}
    try:
        return read_flags(foreign)
    except ValueError as error:
        raise StartFailed(f"--engine-arg {error}") from error


_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def read_flags(given: Mapping[str, str]) -> dict[str, Any]:
    """Returns typed values. Raises ValueError, without "--engine-arg" in front, for a wrong key or value."""
    # vLLM is imported only where an argument needs it: that takes a second.
    from vllm import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    known = {field.name for field in fields(AsyncEngineArgs)}
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(add_help=False))
    parser.error = _refuse
    switches = {
        action.dest for action in parser._actions if any(flag.startswith("--no-") for flag in action.option_strings)
    }
    return {_key(key, known): _value(parser, key, value, _key(key, known) in switches) for key, value in given.items()}


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _key(key: str, known: set[str]) -> str:
    name = key.replace("-", "_")
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else " The keys are those of vLLM's AsyncEngineArgs."
    raise ValueError(f"{key}: vLLM has no such engine argument.{hint}")


def _value(parser: Any, key: str, value: str, is_switch: bool) -> Any:
    name = key.replace("-", "_")
    flag = "--" + name.replace("_", "-")
    if is_switch:
        if value.lower() not in _SWITCH:
            raise ValueError(f"{key}={value}: is a switch; give true or false.")
        return _SWITCH[value.lower()]
    try:
        parsed = parser.parse_args([f"{flag}={value}"])
    except (ValueError, SystemExit) as error:
        raise ValueError(f"{key}={value}: {error}") from error
    return getattr(parsed, name)
