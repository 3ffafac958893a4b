"""Every value of the contract becomes one that vLLM accepts."""

from __future__ import annotations

import pytest

from vllama_server.engine.requests import FormatKind, OutputFormat, Sampling
from vllama_server.errors import InvalidRequest
from vllama_server.vllm_adapter.sampling import Limits, sampling_params, structured_outputs

LIMITS = Limits(max_tokens=100)


@pytest.mark.parametrize(
    ("given", "name", "served"),
    [
        (Sampling(temperature=3.5), "temperature", 2.0),
        (Sampling(temperature=-1.0), "temperature", 0.0),
        (Sampling(top_p=0.0), "temperature", 0.0),
        (Sampling(top_p=-0.5, temperature=1.0), "temperature", 0.0),
        (Sampling(top_p=1.7), "top_p", 1.0),
        (Sampling(top_k=-1), "top_k", 0),
        (Sampling(top_k=0), "top_k", 0),
        (Sampling(min_p=-0.1), "min_p", 0.0),
        (Sampling(min_p=1.1), "min_p", 1.0),
        (Sampling(repetition_penalty=0.0), "repetition_penalty", 1.0),
        (Sampling(repetition_penalty=-3.0), "repetition_penalty", 1.0),
        (Sampling(presence_penalty=5.0), "presence_penalty", 2.0),
        (Sampling(frequency_penalty=-5.0), "frequency_penalty", -2.0),
        (Sampling(seed=-1), "seed", None),
        (Sampling(seed=42), "seed", 42),
        (Sampling(seed=2**70 + 3), "seed", 3),
    ],
)
def test_values_are_brought_into_range(given: Sampling, name: str, served: float | None) -> None:
    """generation.proto says what each is served as."""
    assert getattr(sampling_params(given, {}, LIMITS), name) == served


def test_unset_options_take_the_models_then_vllms() -> None:
    """The request beats generation_config, which beats vLLM's own default."""
    parameters = sampling_params(Sampling(top_p=0.5), {"top_p": 0.8, "temperature": 0.7}, LIMITS)
    assert (parameters.top_p, parameters.temperature, parameters.top_k) == (0.5, 0.7, 0)


def test_text_is_never_made_by_vllm() -> None:
    """Stop texts are not passed on: the adapter watches for them itself."""
    parameters = sampling_params(Sampling(stop=("a", "b", "c", "d", "e")), {}, LIMITS)
    assert not parameters.detokenize
    assert not parameters.stop


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty"])
def test_a_number_that_is_none_is_refused_by_name(name: str) -> None:
    """NaN and infinity reach no engine."""
    with pytest.raises(InvalidRequest) as caught:
        sampling_params(Sampling(**{name: float("nan")}), {}, LIMITS)
    assert caught.value.field == f"sampling.{name}"


@pytest.mark.parametrize(
    ("wanted", "name", "value"),
    [
        (OutputFormat(FormatKind.JSON_OBJECT), "json_object", True),
        (OutputFormat(FormatKind.JSON_SCHEMA, "{}"), "json", "{}"),
        (OutputFormat(FormatKind.REGEX, "a+"), "regex", "a+"),
        (OutputFormat(FormatKind.GRAMMAR, "root ::= x"), "grammar", "root ::= x"),
        (OutputFormat(FormatKind.CHOICE, choices=("a", "b")), "choice", ["a", "b"]),
    ],
)
def test_constraints_map_one_to_one(wanted: OutputFormat, name: str, value: object) -> None:
    """Each kind sets exactly its own field."""
    assert getattr(structured_outputs(wanted), name) == value


@pytest.mark.parametrize("kind", [FormatKind.JSON_SCHEMA, FormatKind.REGEX, FormatKind.GRAMMAR, FormatKind.CHOICE])
def test_an_empty_constraint_is_refused(kind: FormatKind) -> None:
    """It is named instead of being taken for free text."""
    with pytest.raises(InvalidRequest, match=kind.value):
        structured_outputs(OutputFormat(kind))
