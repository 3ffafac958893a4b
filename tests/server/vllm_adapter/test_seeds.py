"""A seed gives one text, however many steps its prompt takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.server.vllm_adapter.driving import ids_of, run
from vllama_protos.v1.generation_pb2 import Sampling

if TYPE_CHECKING:
    from vllama_server.vllm_adapter.engine import VllmEngine

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

LONG_PROMPT = ids_of(*(1000 + (50 * 7919 + place * place * 31) % 40_000 for place in range(1200)))
"""Three steps with the CPU's settings; the same tokens whenever it is computed."""


async def test_a_seed_repeats_its_text_whatever_is_left_to_compute_of_its_prompt(engine: VllmEngine) -> None:
    """Three steps of prompt draw as one does: nothing that is thrown away moves the seed on."""
    seeded, other = (Sampling(temperature=1.0, seed=seed, max_tokens=24) for seed in (7, 8))
    in_steps = await run(engine, LONG_PROMPT, seeded)
    cached = await run(engine, LONG_PROMPT, seeded)
    assert in_steps.started is not None
    assert cached.started is not None
    assert in_steps.started.cached_prompt_tokens == 0
    assert cached.started.cached_prompt_tokens > 1000
    assert in_steps.token_ids == cached.token_ids
    assert in_steps.token_ids != (await run(engine, LONG_PROMPT, other)).token_ids
