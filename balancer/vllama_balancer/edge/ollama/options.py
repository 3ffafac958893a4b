"""`options`, translated into Sampling, and `keep_alive`.

An option comes from the request, else from the model's presets, else from its generation_config, else from Ollama's
defaults; vLLM's own defaults never apply. Values that Ollama accepts and vLLM refuses become the nearest accepted one.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from vllama_balancer.edge.wire.bounds import INT32_MAX, INT64_MAX
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.gateway import keep_alive
from vllama_balancer.preset_options import option_values
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_balancer.gateway import ModelEntry

_log = logging.getLogger(__name__)

_MIN_CONTEXT_TOKENS = 4

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")
_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Options:
    """The supported options, with Ollama's defaults; those after `num_ctx` have no effect.

    `ignore_eos` is not Ollama's: benchmarks need answers of a given length.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    seed: int = -1
    num_predict: int = -1
    stop: tuple[str, ...] = ()
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ignore_eos: bool = False
    num_ctx: int = 0
    num_keep: int = 4
    typical_p: float = 1.0
    draft_num_predict: int = 4
    num_batch: int = 512
    num_gpu: int = -1
    num_thread: int = 0
    main_gpu: int = 0
    use_mmap: bool = True


_KINDS = {each.name: str(each.type) for each in fields(Options)}


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the types of supported options; drops unknown names and nulls.

    Integers may come as floats and lose their fraction. Raises InvalidRequest naming the option.
    """
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in _KINDS:
            _log.debug("option %r is unknown and has no effect", name)
            continue
        checked[name] = _CHECKS[_KINDS[name]](name, value)
    return checked


def model_options(entry: ModelEntry) -> dict[str, Any]:
    """Returns a model's own options: its presets over its generation_config."""
    return {**_generation_config(entry), **check_options(option_values(entry.presets.options))}


def resolve_options(given: Mapping[str, Any], entry: ModelEntry) -> Options:
    """Returns the request's options over the model's own, over Ollama's defaults."""
    return Options(**{**model_options(entry), **check_options(given)})


def to_sampling(options: Options) -> generation_pb2.Sampling:
    """Returns Sampling with every field set, within vLLM's limits."""
    sampling = generation_pb2.Sampling(
        temperature=_clamp(options.temperature, 0.0, 2.0),
        top_p=_clamp(options.top_p, 0.0, 1.0),
        top_k=max(0, min(options.top_k, INT32_MAX)),
        min_p=_clamp(options.min_p, 0.0, 1.0),
        repetition_penalty=_repetition_penalty(options),
        presence_penalty=_clamp(options.presence_penalty, -2.0, 2.0),
        frequency_penalty=_clamp(options.frequency_penalty, -2.0, 2.0),
        stop=options.stop,
    )
    if options.top_p <= 0:
        # A nucleus without mass holds the best token only: that is greedy.
        sampling.temperature, sampling.top_p = 0.0, 1.0
    if options.seed >= 0:
        sampling.seed = min(options.seed, INT64_MAX)
    if options.num_predict >= 0:
        sampling.max_tokens = min(options.num_predict, INT32_MAX)
    if options.ignore_eos:
        sampling.ignore_eos = True
    return sampling


def context_tokens(options: Options, entry: ModelEntry) -> int:
    """Returns the most tokens of prompt and output together; 0: the served context length."""
    if options.num_ctx <= 0:
        return 0
    served = entry.description.context_length if entry.description is not None else 0
    asked = min(max(options.num_ctx, _MIN_CONTEXT_TOKENS), INT32_MAX)
    return 0 if served and asked >= served else asked


def _generation_config(entry: ModelEntry) -> dict[str, Any]:
    """Returns the sampling values of generation_config, by Ollama's names."""
    if entry.description is None:
        return {}
    sampling = entry.description.model_info.default_sampling
    names = {
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "repetition_penalty": "repeat_penalty",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
    }
    values = {ours: getattr(sampling, theirs) for theirs, ours in names.items() if sampling.HasField(theirs)}
    return {**values, "stop": tuple(sampling.stop)} if sampling.stop else values


def _repetition_penalty(options: Options) -> float:
    # vLLM has no window; it can serve exactly only the one of no tokens.
    return 1.0 if options.repeat_penalty <= 0 or options.repeat_last_n == 0 else options.repeat_penalty


def _clamp(value: float, least: float, most: float) -> float:
    return max(least, min(value, most))


def _check_int(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "of type integer")
    return int(value)


def _check_float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "of type float32")
    return float(max(-1e30, min(value, 1e30)))


def _check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "of type boolean")
    return value


def _check_texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise _wrong(name, "of type array")
    if not all(isinstance(each, str) for each in value):
        raise _wrong(name, "of an array of strings")
    return tuple(each for each in value if each)


_CHECKS = {"int": _check_int, "float": _check_float, "bool": _check_bool, "tuple[str, ...]": _check_texts}


def _wrong(name: str, kind: str) -> InvalidRequest:
    return InvalidRequest(f'option "{name}" must be {kind}', field=f"options.{name}")


def parse_keep_alive(value: object) -> float | None:
    """Returns the seconds of a number, or of a Go duration such as "1h30m"; None: not given.

    A negative value is forever, and so is one beyond ten years.
    A string with a bare integer is seconds. Raises InvalidRequest for anything else.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return keep_alive(_parse_text(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(value)
    if isinstance(value, float) and math.isnan(value):
        raise _invalid(value)
    return keep_alive(value)


def _parse_text(text: str) -> float:
    if _INTEGER.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None:
        raise _invalid(text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match[2]))
    return -seconds if match[1] == "-" else seconds


def _invalid(value: object) -> InvalidRequest:
    message = f'invalid keep_alive {str(value)[:40]!r}: give seconds, or a duration such as "5m" or "1h30m"'
    return InvalidRequest(message, field="keep_alive")
