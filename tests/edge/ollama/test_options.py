"""Options: their order of precedence, Ollama's defaults, vLLM's limits; and keep_alive: numbers and Go durations."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.edge.ollama.options import (
    context_tokens,
    model_options,
    parse_keep_alive,
    resolve_options,
    to_sampling,
)
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.fake_gateway import model, presets
from vllama_protos.v1 import generation_pb2


def sampling(**options: Any) -> generation_pb2.Sampling:
    """Translates options for a model without values of its own."""
    return to_sampling(resolve_options(options, model()))


def test_unset_options_take_ollamas_defaults() -> None:
    """Every field but seed, stop and max_tokens is set: vLLM's defaults never apply."""
    assert sampling() == generation_pb2.Sampling(
        temperature=0.8,
        top_p=0.9,
        top_k=40,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )


def test_defaults_yield_to_generation_config_to_presets_to_the_request() -> None:
    """Each layer wins over the one before."""
    config = generation_pb2.Sampling(temperature=0.1, top_k=11, top_p=0.5, repetition_penalty=1.2)
    entry = model(sampling=config, presets=presets(top_k=22, top_p=0.6, stop=["###"]))
    result = to_sampling(resolve_options({"top_p": 0.7}, entry))
    assert (result.temperature, result.top_k, result.top_p) == (0.1, 22, 0.7)
    assert result.repetition_penalty == 1.2
    assert list(result.stop) == ["###"]
    assert model_options(entry)["temperature"] == 0.1


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"temperature": -1}, "temperature", 0.0),
        ({"temperature": 9}, "temperature", 2.0),
        ({"top_k": 0}, "top_k", 0),
        ({"top_k": -5}, "top_k", 0),
        ({"top_k": 10**30}, "top_k", 2**31 - 1),
        ({"top_k": 5.7}, "top_k", 5),
        ({"top_p": 3}, "top_p", 1.0),
        ({"top_p": 0}, "temperature", 0.0),
        ({"top_p": 0}, "top_p", 1.0),
        ({"min_p": -1}, "min_p", 0.0),
        ({"min_p": 2}, "min_p", 1.0),
        ({"seed": 0}, "seed", 0),
        ({"seed": 10**30}, "seed", 2**63 - 1),
        ({"num_predict": 0}, "max_tokens", 0),
        ({"num_predict": 7.0}, "max_tokens", 7),
        ({"repeat_penalty": 0}, "repetition_penalty", 1.0),
        ({"repeat_penalty": 1.3}, "repetition_penalty", 1.3),
        ({"repeat_penalty": 1.3, "repeat_last_n": 0}, "repetition_penalty", 1.0),
        ({"presence_penalty": 5}, "presence_penalty", 2.0),
        ({"frequency_penalty": -5}, "frequency_penalty", -2.0),
        ({"stop": "x"}, "stop", ["x"]),
        ({"stop": ["", "a", "b"]}, "stop", ["a", "b"]),
        ({"ignore_eos": True}, "ignore_eos", True),
        ({"temperature": None}, "temperature", 0.8),
        ({"mirostat": "?", "num_gqa": [], "wholly_unknown": {}}, "temperature", 0.8),
    ],
)
def test_values_are_served_as_the_nearest_possible(options: dict[str, Any], field: str, expected: object) -> None:
    """Nothing that Ollama takes is refused."""
    result = sampling(**options)
    if field == "stop":
        assert list(result.stop) == expected
        return
    # A field that is not set reads as 0 too.
    assert result.HasField(field)  # type: ignore[arg-type]
    assert getattr(result, field) == expected


@pytest.mark.parametrize(("option", "field"), [("seed", "seed"), ("num_predict", "max_tokens")])
def test_negative_means_unset(option: str, field: str) -> None:
    """A random seed, and no limit but the context."""
    assert not sampling(**{option: -2}).HasField(field)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("num_ctx", "expected"),
    [(None, 0), (0, 0), (-1, 0), (1, 4), (100, 100), (2048, 0), (99999, 0), (10**30, 0)],
)
def test_num_ctx_bounds_the_request_and_never_reloads(num_ctx: int | None, expected: int) -> None:
    """What the served context allows anyway needs no bound of its own."""
    assert context_tokens(resolve_options({"num_ctx": num_ctx}, model()), model()) == expected


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(["temperature", "top_k", "seed", "stop", "num_ctx", "use_mmap", "num_predict", "other"])


@given(st.dictionaries(NAMES, ANY_JSON))
def test_any_value_is_served_or_refused_by_name(options: dict[str, Any]) -> None:
    """No value makes the translation fail in any other way."""
    try:
        resolved = resolve_options(options, model())
    except InvalidRequest as error:
        assert error.field.startswith("options.")
        return
    to_sampling(resolved)
    assert 0 <= context_tokens(resolved, model()) < 2**32


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (0.5, 0.5),
        (1800, 1800),
        (-1, math.inf),
        (-0.1, math.inf),
        ("0", 0),
        ("0s", 0),
        ("300", 300),
        ("-1", math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("-1m", math.inf),
        ("100ms", 0.1),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("10ns", 1e-8),
        (10**400, math.inf),
        (-(10**400), math.inf),
        (9223372036854775807, math.inf),
        (1e15, math.inf),
        (1e300, math.inf),
        (math.inf, math.inf),
        (-math.inf, math.inf),
        ("9223372036854775807", math.inf),
        ("100000000h", math.inf),
        ("9" * 400 + "h", math.inf),
        ("87600h", 315_360_000),
        ("87601h", math.inf),
    ],
)
def test_reads_seconds(value: object, seconds: float | None) -> None:
    """Negative is forever, and so is anything beyond ten years."""
    assert parse_keep_alive(value) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    "value", ["", "abc", "1d", "5 m", "m", "1h-30m", "1.2.3s", True, False, [], {}, "0x1", "١", math.nan]
)
def test_refuses_the_rest(value: object) -> None:
    """The field is named."""
    with pytest.raises(InvalidRequest, match="invalid keep_alive") as caught:
        parse_keep_alive(value)
    assert caught.value.field == "keep_alive"


@pytest.mark.timeout(5)
def test_a_long_text_is_refused_at_once() -> None:
    """The time to read it grows with its length, not with the square of that."""
    with pytest.raises(InvalidRequest):
        parse_keep_alive("1" * 1_000_000 + "x")
