"""A row whose token is discarded draws nothing from its seed, and every other row draws as always."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

from vllama_server.vllm_adapter.cpu_worker import batch_state, without

ROWS = 3
VOCABULARY = 64


@pytest.fixture
def generators() -> dict[int, torch.Generator]:
    """Seeds of the first and the last row; the row between has none."""
    return {row: torch.Generator(device="cpu").manual_seed(row) for row in (0, 2)}


def sample(generators: dict[int, torch.Generator]) -> list[int]:
    """Samples every row once, with vLLM's own sampler for CPUs, from equal chances."""
    tokens, _ = TopKTopPSampler().forward_cpu(torch.zeros(ROWS, VOCABULARY), generators, None, None)
    return list(tokens.tolist())


@pytest.mark.parametrize("discarded_steps", [1, 2, 7])
def test_discarded_steps_leave_a_seed_where_it_was(
    generators: dict[int, torch.Generator], discarded_steps: int
) -> None:
    """The first token that counts is the one that the seed gives first."""
    undisturbed = [sample({2: torch.Generator(device="cpu").manual_seed(2)})[2]]
    for _ in range(discarded_steps):
        with without(generators, [1, 2]):
            sample(generators)
    assert [sample(generators)[2]] == undisturbed


def test_other_rows_draw_meanwhile(generators: dict[int, torch.Generator]) -> None:
    """A step that is discarded for one row counts for another."""
    alone = {0: torch.Generator(device="cpu").manual_seed(0)}
    undisturbed = [sample(alone)[0] for _ in range(4)]
    drawn = []
    for _ in range(4):
        with without(generators, [2]):
            drawn.append(sample(generators)[0])
    assert drawn == undisturbed


def test_a_step_that_draws_nothing_takes_nothing_back(generators: dict[int, torch.Generator]) -> None:
    """A batch of greedy rows never asks a generator."""
    before = generators[2].get_state()
    with without(generators, [2]):
        pass
    assert torch.equal(generators[2].get_state(), before)


def test_generators_are_back_after_a_failed_step(generators: dict[int, torch.Generator]) -> None:
    """Each is the same object under the same row."""
    before = dict(generators)
    with pytest.raises(ZeroDivisionError), without(generators, [0, 1, 2]):
        assert not generators
        raise ZeroDivisionError
    assert generators == before


def test_the_rows_of_the_batch_are_read_and_no_stale_ones() -> None:
    """The mask is longer than the batch, and keeps what earlier steps left behind it."""
    runner = runner_with(discard_request_mask=SimpleNamespace(np=np.array([False, True, True, True])))
    assert batch_state(runner) == ({}, [1, 2])


def test_a_vllm_with_other_parts_is_refused_by_name() -> None:
    """The worker asks when it starts, before any request."""
    with pytest.raises(RuntimeError, match="discard_request_mask"):
        batch_state(runner_with())


def runner_with(**parts: Any) -> Any:
    """Makes a model runner's state for a batch of three rows, as far as it is read."""
    return SimpleNamespace(input_batch=SimpleNamespace(generators={}, num_reqs=3), **parts)
