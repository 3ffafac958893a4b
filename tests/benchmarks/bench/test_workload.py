"""Lengths, prompts and traces."""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import pytest

from vllama_benchmarks.bench.sample import Request
from vllama_benchmarks.bench.workload import Fixed, LogNormal, Uniform, Workload, length, read_trace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "drawn_from"),
    [("128", Fixed(128)), ("64-256", Uniform(64, 256)), ("lognormal:128:0.8", LogNormal(128, 0.8))],
)
def test_length(text: str, drawn_from: object) -> None:
    """Each form has its distribution."""
    assert length(text) == drawn_from


@pytest.mark.parametrize("text", ["", "x", "0", "-5", "9-3", "lognormal:0:1", "lognormal:5", "1.5"])
def test_bad_length(text: str) -> None:
    """What is no length is refused with the forms that are."""
    with pytest.raises(ValueError, match="64-256"):
        length(text)


def test_draws() -> None:
    """Uniform lengths stay in their range; log-normal ones have the given median."""
    random = Random(1)
    assert {Uniform(2, 4).draw(random) for _ in range(200)} == {2, 3, 4}
    drawn = sorted(LogNormal(100, 0.8).draw(random) for _ in range(1001))
    # The standard error of the median of 1001 draws is 1.25 * 0.8 / sqrt(1001), about 3 %; four of them are 13 %.
    assert 87 < drawn[500] < 113
    assert drawn[0] >= 1


def test_prompts_have_their_length_in_words() -> None:
    """Beside its name a prompt has as many words as requested tokens."""
    (request,) = islice(Workload(Fixed(30), Fixed(7)).requests(Random(1), "n"), 1)
    assert len(request.prompt.split()) == 31
    assert request.max_tokens == 7


def test_runs_share_lengths_but_no_prefix() -> None:
    """Two targets get the same lengths, and no common prefix."""
    workload = Workload(Uniform(5, 50), Uniform(5, 50))
    first = list(islice(workload.requests(Random(1), "a"), 20))
    second = list(islice(workload.requests(Random(1), "b"), 20))
    assert [request.max_tokens for request in first] == [request.max_tokens for request in second]
    assert [len(request.prompt) for request in first] == [len(request.prompt) for request in second]
    assert len({request.prompt.split()[0] for request in first + second}) == 40


def test_a_trace_is_sent_in_turn(tmp_path: Path) -> None:
    """Prompts and lengths of a trace come again when it is over, each under a name of its own."""
    path = tmp_path / "trace"
    path.write_text('{"prompt": "a", "max_tokens": 1}\n{"prompt": "b", "max_tokens": 2}\n')
    workload = Workload(Fixed(1), Fixed(1), read_trace(path))
    drawn = list(islice(workload.requests(Random(1), "n"), 3))
    assert drawn == [Request("[n.0] a", 1), Request("[n.1] b", 2), Request("[n.2] a", 1)]


@pytest.mark.parametrize("text", ["", "x", '{"prompt": "a"}', "[]"])
def test_bad_trace(tmp_path: Path, text: str) -> None:
    """A bad line, or none at all, is named."""
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ValueError, match="trace"):
        read_trace(path)
