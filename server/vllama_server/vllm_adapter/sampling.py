"""The contract's sampling options as vLLM's, with every value that vLLM refuses brought into its range.

Clients of Ollama may send a temperature of 3 or a top_p of 0; vLLM rejects the whole request for
either. generation.proto states what is served instead, and this module is the only place that
does it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from vllama_server.engine.requests import FormatKind
from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_server.engine.requests import OutputFormat, Sampling

MAX_TEMPERATURE = 2.0
MAX_PENALTY = 2.0
SEED_MODULUS = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tokens a generation may still produce, as worked out from the context and the request."""

    max_tokens: int
    """At least 1: vLLM computes a prompt only together with one token."""
    min_tokens: int = 0


def sampling_params(
    sampling: Sampling, defaults: Mapping[str, Any], limits: Limits, *, logprobs: int | None = None, **extra: Any
) -> SamplingParams:
    """Builds the parameters of one request: the request's value, else the model's, else vLLM's.

    Text is made from tokens by the adapter itself, so vLLM is told not to, and knows no stop
    texts. `extra` carries what a parser or a constraint adds. Raises InvalidRequest.
    """
    values = _chosen(sampling, defaults)
    return SamplingParams(
        **_in_range(values),
        seed=_seed(sampling.seed),
        ignore_eos=bool(sampling.ignore_eos),
        max_tokens=limits.max_tokens,
        min_tokens=min(limits.min_tokens, limits.max_tokens),
        logprobs=logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        **extra,
    )


def structured_outputs(wanted: OutputFormat) -> StructuredOutputsParams:
    """Turns a constraint on the output into vLLM's. Raises InvalidRequest for an empty one."""
    key = {
        FormatKind.JSON_SCHEMA: "json",
        FormatKind.REGEX: "regex",
        FormatKind.GRAMMAR: "grammar",
    }.get(wanted.kind)
    if wanted.kind is FormatKind.JSON_OBJECT:
        return StructuredOutputsParams(json_object=True)
    if wanted.kind is FormatKind.CHOICE:
        if not wanted.choices:
            raise InvalidRequest("output_format.choice needs at least one option.", "output_format.choice.options")
        return StructuredOutputsParams(choice=list(wanted.choices))
    if not wanted.spec.strip():
        raise InvalidRequest(f"output_format.{wanted.kind.value} is empty.", f"output_format.{wanted.kind.value}")
    return StructuredOutputsParams(**{str(key): wanted.spec})


def _chosen(sampling: Sampling, defaults: Mapping[str, Any]) -> dict[str, float]:
    """Takes each option from the request, else from the model, else as off."""
    neutral = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    values = {}
    for name, default in neutral.items():
        value = getattr(sampling, name)
        if value is None:
            value = defaults.get(name, default)
        if not math.isfinite(value):
            raise InvalidRequest(f"sampling.{name} must be a finite number.", f"sampling.{name}")
        values[name] = value
    return values


def _in_range(values: Mapping[str, float]) -> dict[str, float]:
    """Clamps as generation.proto says."""
    temperature = min(max(values["temperature"], 0.0), MAX_TEMPERATURE)
    top_p = values["top_p"]
    if top_p <= 0:
        temperature, top_p = 0.0, 1.0
    repetition = values["repetition_penalty"]
    return {
        "temperature": temperature,
        "top_p": min(top_p, 1.0),
        "top_k": max(int(values["top_k"]), 0),
        "min_p": min(max(values["min_p"], 0.0), 1.0),
        "repetition_penalty": repetition if repetition > 0 else 1.0,
        "presence_penalty": min(max(values["presence_penalty"], -MAX_PENALTY), MAX_PENALTY),
        "frequency_penalty": min(max(values["frequency_penalty"], -MAX_PENALTY), MAX_PENALTY),
    }


def _seed(seed: int | None) -> int | None:
    """Brings a seed into 64 signed bits; a negative one means a random stream."""
    return None if seed is None or seed < 0 else seed % SEED_MODULUS
