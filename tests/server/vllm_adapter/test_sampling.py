"""Every value of the contract becomes one that vLLM accepts."""

from __future__ import annotations

import pytest

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import InvalidRequest
from vllama_server.vllm_adapter.sampling import Limits, clamped_priority, sampling_params, structured_outputs

LIMITS = Limits(max_tokens=100)


@pytest.mark.parametrize(
    ("given", "name", "served"),
    [
        (pb.Sampling(temperature=3.5), "temperature", 2.0),
        (pb.Sampling(temperature=-1.0), "temperature", 0.0),
        (pb.Sampling(top_p=0.0), "temperature", 0.0),
        (pb.Sampling(top_p=-0.5, temperature=1.0), "temperature", 0.0),
        (pb.Sampling(top_p=1.7), "top_p", 1.0),
        (pb.Sampling(top_k=-1), "top_k", 0),
        (pb.Sampling(top_k=0), "top_k", 0),
        (pb.Sampling(min_p=-0.1), "min_p", 0.0),
        (pb.Sampling(min_p=1.1), "min_p", 1.0),
        (pb.Sampling(repetition_penalty=0.0), "repetition_penalty", 1.0),
        (pb.Sampling(repetition_penalty=-3.0), "repetition_penalty", 1.0),
        (pb.Sampling(presence_penalty=5.0), "presence_penalty", 2.0),
        (pb.Sampling(frequency_penalty=-5.0), "frequency_penalty", -2.0),
        (pb.Sampling(seed=-1), "seed", None),
        (pb.Sampling(seed=42), "seed", 42),
        (pb.Sampling(seed=2**63 - 1), "seed", 2**63 - 1),
    ],
)
def test_values_are_brought_into_range(given: pb.Sampling, name: str, served: float | None) -> None:
    """generation.proto says what each is served as."""
    assert getattr(sampling_params(given, {}, LIMITS), name) == served


@pytest.mark.parametrize(("given", "served"), [(-(2**31), -100), (-3, -3), (0, 0), (2**31 - 1, 100)])
def test_a_priority_is_brought_into_range(given: int, served: int) -> None:
    """No client is before all others by a number alone."""
    assert clamped_priority(given) == served


def test_unset_options_take_the_models_then_vllms() -> None:
    """The request beats generation_config, which beats vLLM's own default."""
    parameters = sampling_params(pb.Sampling(top_p=0.5), {"top_p": 0.8, "temperature": 0.7}, LIMITS)
    assert (parameters.top_p, parameters.temperature, parameters.top_k) == (0.5, 0.7, 0)


@pytest.mark.parametrize("name", ["temperature", "top_k", "min_p", "presence_penalty", "frequency_penalty"])
def test_an_option_of_zero_beats_the_models_own(name: str) -> None:
    """Zero is a value, and not the same as unset."""
    assert getattr(sampling_params(pb.Sampling(**{name: 0}), {name: 1}, LIMITS), name) == 0
    assert getattr(sampling_params(pb.Sampling(), {name: 1}, LIMITS), name) == 1


def test_a_seed_of_zero_is_a_seed() -> None:
    """Only an unset or a negative one means a random stream."""
    assert sampling_params(pb.Sampling(seed=0), {}, LIMITS).seed == 0
    assert sampling_params(pb.Sampling(), {}, LIMITS).seed is None


def test_text_is_never_made_by_vllm() -> None:
    """Stop texts are not passed on: the adapter watches for them itself."""
    parameters = sampling_params(pb.Sampling(stop=("a", "b", "c", "d", "e")), {}, LIMITS)
    assert not parameters.detokenize
    assert not parameters.stop


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty"])
def test_a_number_that_is_none_is_refused_by_name(name: str) -> None:
    """NaN and infinity reach no engine."""
    with pytest.raises(InvalidRequest) as caught:
        sampling_params(pb.Sampling(**{name: float("nan")}), {}, LIMITS)
    assert caught.value.field == f"sampling.{name}"


@pytest.mark.parametrize(
    ("wanted", "name", "value"),
    [
        (pb.OutputFormat(json_object=True), "json_object", True),
        (pb.OutputFormat(json_schema="{}"), "json", "{}"),
        (pb.OutputFormat(regex="a+"), "regex", "a+"),
        (pb.OutputFormat(grammar="root ::= x"), "grammar", "root ::= x"),
        (pb.OutputFormat(choice=pb.Choice(options=["a", "b"])), "choice", ["a", "b"]),
    ],
)
def test_constraints_map_one_to_one(wanted: pb.OutputFormat, name: str, value: object) -> None:
    """Each kind sets exactly its own field."""
    assert getattr(structured_outputs(wanted), name) == value


@pytest.mark.parametrize(
    ("kind", "empty"), [("json_schema", ""), ("regex", ""), ("grammar", ""), ("choice", pb.Choice())]
)
def test_an_empty_constraint_is_refused(kind: str, empty: object) -> None:
    """It is named instead of being taken for free text."""
    with pytest.raises(InvalidRequest, match=kind):
        structured_outputs(pb.OutputFormat(**{kind: empty}))
