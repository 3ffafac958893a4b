"""Start advice: why an engine did not start and what to do, in one paragraph.

The root cause is the earliest failure that any of the engine's processes reported. The worker's own exception is only
"Engine core initialization failed. See root cause above.".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.vllm_adapter.child_reports import Report
    from vllama_server.vllm_adapter.engine_config import EngineConfig

LONGEST_CAUSE = 600
"""Characters; vLLM lists some 300 architectures in one cause."""


@dataclass(frozen=True, slots=True)
class _Advice:
    """A known failure: its pattern and what helps. Groups of the pattern fill the text."""

    pattern: str
    text: str


_KNOWN = (
    _Advice(
        r"seq len \((?P<length>\d+)\), \(?(?P<needed>[\d.]+) GiB.*?available KV cache memory \((?P<there>[\d.]+) GiB"
        r".*?estimated maximum model length is (?P<fits>\d+)",
        "The key-value cache of one context of {length} tokens needs {needed} GiB and {there} GiB are there: "
        "pass --max-model-len {fits} or less, or give the cache more memory with --gpu-memory-utilization "
        "(on a CPU: --engine-arg kv_cache_memory_bytes=BYTES).",
    ),
    _Advice(
        r"seq len|No available memory for the cache blocks|not enough memory for.*cache",
        "No memory is left for the key-value cache: pass a smaller --max-model-len or --max-streams, or give the "
        "cache more memory with --gpu-memory-utilization (on a CPU: --engine-arg kv_cache_memory_bytes=BYTES).",
    ),
    _Advice(
        r"CUDA out of memory|OutOfMemoryError",
        "The device's memory does not hold the model: stop what else uses the device (nvidia-smi lists it), use a "
        "quantized or smaller model, or lower --max-model-len and --max-streams.",
    ),
    _Advice(
        r"Free memory on device.*?\((?P<free>[\d./ GiB]+)\).*?less than desired GPU memory utilization",
        "Only {free} of the device are free: stop what else uses it (nvidia-smi lists it), or pass a smaller "
        "--gpu-memory-utilization.",
    ),
    _Advice(
        r"less than desired CPU memory utilization|requested memory for kv|CPU_KVCACHE_SPACE",
        "The machine has too little free memory for the key-value cache: free some, or pass "
        "--engine-arg kv_cache_memory_bytes=BYTES with a smaller size.",
    ),
    _Advice(
        r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len \(.*?=(?P<own>\d+)",
        "The model was made for contexts of {own} tokens: pass --max-model-len {own} or less.",
    ),
    _Advice(
        r"gated repo|GatedRepoError|awaiting a review|access to model .* is restricted|401 Client Error",
        "The repository is gated or private: accept its licence on its page while logged in, create a read token "
        "there, and start again with HF_TOKEN set to it.",
    ),
    _Advice(
        r"RepositoryNotFoundError|404 Client Error|Invalid repository ID or local directory",
        "There is no such model: check the spelling, or give the path of a directory that holds config.json; for a "
        "private repository set HF_TOKEN.",
    ),
    _Advice(
        r"HFValidationError|Repo id must",
        "There is no such directory, and this is no repository's name either: give the path of a directory that "
        "holds config.json, or a name like organisation/model.",
    ),
    _Advice(
        r"LocalEntryNotFoundError|offline mode|Cannot find the requested files in the local cache|couldn't connect",
        "The model is not on this machine and no model hub can be reached: download it first, or give the path of a "
        "directory that holds it.",
    ),
    _Advice(
        r"architectures? \[?.*?are not supported|Model architectures",
        "vLLM cannot run this architecture: take a model of a family it supports, for example qwen2.5, llama3.1 or "
        "mistral.",
    ),
    _Advice(
        r"SafetensorError|HeaderTooLarge|HeaderTooSmall|InvalidHeader|MetadataIncompleteBuffer|"
        r"PytorchStreamReader|incomplete metadata|deserializ",
        "The weight files are damaged or were downloaded only in part: delete the model and fetch it again.",
    ),
    _Advice(
        r"Cannot find any model weights",
        "The directory holds no weight files (*.safetensors): fetch the model again.",
    ),
    _Advice(
        r"size mismatch|shape mismatch|copy_\(\)|The size of tensor|must match the size|expand\(",
        "The weights do not belong to this config.json: fetch the model again.",
    ),
    _Advice(
        r"[Qq]uantization|Cannot find the config file for",
        "This quantization does not work here: drop --engine-arg quantization so that the checkpoint decides, or take "
        "a variant of the model in another format (AWQ, GPTQ and FP8 need a GPU).",
    ),
    _Advice(
        r"World size .* is larger than the number of available GPUs",
        "Fewer GPUs are visible than tensor_parallel_size asks for: lower it, or check CUDA_VISIBLE_DEVICES.",
    ),
    _Advice(
        r"JSONDecodeError|It looks like the config file|not a valid JSON file|valid JSON",
        "A file of the model cannot be read: delete the model and fetch it again.",
    ),
    _Advice(
        r"trust_remote_code",
        "The model brings code of its own, which is never run unasked: if you trust its authors, pass "
        "--engine-arg trust_remote_code=true.",
    ),
    _Advice(
        r"exit code -9|\{'[^']*': -9\}|SIGKILL",
        "A process of the engine was killed, most likely because the machine ran out of memory: take a smaller model, "
        "fewer workers, or a smaller --max-model-len.",
    ),
)

_NOISE = (
    r"ValidationError: \d+ validation errors? for \w+ Value error, ",
    r" ?\[type=value_error.*",
    r"Supported architectures:.*",
    r"To allow overriding this maximum, set the env var.*",
    r" ?If this is a private repository, make sure to pass a token.*",
    r" ?Check (?:the )?stack trace.*",
    r" ?Try increasing `gpu_memory_utilization`.*",
    r" ?For more information check: \S+",
)
"""Additions of vLLM, pydantic and the hub to a cause that say nothing about it."""


def failure_message(engine_config: EngineConfig, error: BaseException, failures: Sequence[Report]) -> str:
    """Returns the paragraph, from the worker's exception and the reports of the engine's processes."""
    cause = root_cause(error, failures)
    advice = advice_for("\n".join([cause, *(report.traceback for report in failures[:1]), _chain(error)]))
    return f"{engine_config.model} could not be started: {_sentence(cause)}{' ' + advice if advice else ''}"


def root_cause(error: BaseException, failures: Sequence[Report]) -> str:
    """Returns the earliest exception that a process reported, else the worker's own."""
    first = next((report for report in failures if report.error_type), None)
    if first is not None:
        return f"{first.error_type}: {first.error}" if first.error else first.error_type
    return f"{type(error).__name__}: {error}"


def advice_for(cause: str) -> str:
    """Returns what helps; empty for an unknown cause."""
    for known in _KNOWN:
        found = re.search(known.pattern, cause, re.DOTALL)
        if found:
            return known.text.format(**found.groupdict())
    return ""


def _chain(error: BaseException) -> str:
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(f"{type(current).__name__}: {current}")
        current = current.__cause__
    return "\n".join(parts)


def _sentence(cause: str) -> str:
    """Returns one line of at most LONGEST_CAUSE characters that ends in a full stop."""
    line = " ".join(cause.split())
    for noise in _NOISE:
        line = re.sub(noise, "", line).strip()
    if len(line) > LONGEST_CAUSE:
        line = line[:LONGEST_CAUSE].rsplit(" ", 1)[0] + " …"
    return line if line.endswith((".", "!", "…")) else line + "."
