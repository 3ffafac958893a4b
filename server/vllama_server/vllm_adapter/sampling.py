"""Sampling options as vLLM's parameters, with every value that vLLM refuses brought into its range.

Clients of Ollama may send a temperature of 3 or a top_p of 0; vLLM refuses the whole request for either.
generation.proto states what is served instead; this module is the only place that does it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_protos.v1 import generation_pb2 as pb

MAX_TEMPERATURE = 2.0
MAX_PENALTY = 2.0
MAX_PRIORITY = 100
_CONSTRAINTS = {"json_schema": "json", "regex": "regex", "grammar": "grammar"}
"""vLLM's names of constraints that are one text."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tokens a generation may still produce, as derived from the context and the request."""

    max_tokens: int
    """At least 1: vLLM computes a prompt only together with one token."""
    min_tokens: int = 0


def sampling_params(
    sampling: pb.Sampling, defaults: Mapping[str, Any], limits: Limits, *, logprobs: int | None = None, **extra: Any
) -> SamplingParams:
    """Returns the parameters of one request: the request's value, else the model's, else vLLM's.

    The adapter makes text from tokens itself, so vLLM does not, and gets no stop texts. `extra` carries what a parser
    or a constraint adds. Raises InvalidRequest.
    """
    values = _chosen(sampling, defaults)
    return SamplingParams(
        **_in_range(values),
        # A negative seed means a random stream.
        seed=sampling.seed if sampling.HasField("seed") and sampling.seed >= 0 else None,
        ignore_eos=sampling.ignore_eos,
        max_tokens=limits.max_tokens,
        min_tokens=min(limits.min_tokens, limits.max_tokens),
        logprobs=logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
        **extra,
    )


def clamped_priority(given: int) -> int:
    """Returns a priority that leaves room for others on both sides."""
    return max(-MAX_PRIORITY, min(given, MAX_PRIORITY))


def structured_outputs(wanted: pb.OutputFormat) -> StructuredOutputsParams:
    """Returns vLLM's form of a constraint on the output. Raises InvalidRequest for an empty one."""
    kind = wanted.WhichOneof("kind")
    if kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    if kind == "choice":
        if not wanted.choice.options:
            raise InvalidRequest("output_format.choice needs at least one option.", "output_format.choice.options")
        return StructuredOutputsParams(choice=list(wanted.choice.options))
    text: str = getattr(wanted, kind)
    if not text.strip():
        raise InvalidRequest(f"output_format.{kind} is empty.", f"output_format.{kind}")
    return StructuredOutputsParams(**{_CONSTRAINTS[kind]: text})


def _chosen(sampling: pb.Sampling, defaults: Mapping[str, Any]) -> dict[str, float]:
    """Returns each option of the request, else of the model, else the neutral value."""
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
        value = getattr(sampling, name) if sampling.HasField(name) else defaults.get(name, default)
        if not math.isfinite(value):
            raise InvalidRequest(f"sampling.{name} must be a finite number.", f"sampling.{name}")
        values[name] = value
    return values


def _in_range(values: Mapping[str, float]) -> dict[str, float]:
    """Clamps as generation.proto defines."""
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
