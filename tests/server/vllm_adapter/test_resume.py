"""A generation continued elsewhere is the one that was interrupted: nothing lost, nothing repeated."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.vllm_adapter.driving import run
from tests.server.vllm_adapter.seams import all_cases, cut_everywhere
from vllama_server.engine.events import FinishReason
from vllama_server.engine.requests import FormatKind, OutputFormat, Sampling, TextPrompt
from vllama_server.errors import EngineFault

if TYPE_CHECKING:
    from vllama_server.vllm_adapter.engine import VllmEngine

REPOSITORY = Path(__file__).parents[3]

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

STORY = TextPrompt("Once upon a time")


async def test_two_hundred_cuts_all_give_the_undisturbed_text(engine: VllmEngine) -> None:
    """Twenty prompts, ten random cuts each, with the deterministic settings: text, tokens and ending agree."""
    cases = await all_cases(engine)
    seams = await cut_everywhere(engine, cases, 10, random.Random(2026))
    assert len(seams) == 200
    for seam in seams:
        assert seam.joined == seam.whole.text, seam
        assert [*seam.delivered, *seam.rest.token_ids] == seam.whole.token_ids
        assert seam.whole.completed is not None
        assert seam.rest.completed is not None
        assert seam.rest.completed.completion_tokens == seam.whole.completed.completion_tokens
        assert seam.rest.completed.reason is seam.whole.completed.reason
        assert seam.rest.completed.matched_stop == seam.whole.completed.matched_stop
    assert sum(not seam.whole.text.isascii() for seam in seams) >= 40, "many characters must straddle tokens"
    assert sum(bool(seam.whole.completed and seam.whole.completed.matched_stop) for seam in seams) == 60


async def test_in_bfloat16_a_seam_loses_and_repeats_nothing(
    model_directory: Path, record_property: pytest.RecordProperty
) -> None:
    """Rounding may lead elsewhere after the cut, but from exactly the delivered tokens; tells how often it does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.vllm_adapter.bfloat16_seams", str(model_directory),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=REPOSITORY,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    seams = json.loads(output.splitlines()[-1])
    assert seams["whole"] == seams["count"] == 24
    record_property("equal_texts", f"{seams['equal']} of {seams['count']}")
    print(f"bfloat16: {seams['equal']} of {seams['count']} resumed texts equal the undisturbed ones")


async def test_tokens_that_reach_the_limit_end_the_generation_at_once(engine: VllmEngine) -> None:
    """`max_tokens` is the total: nothing is computed when it has been delivered."""
    whole = await run(engine, STORY, Sampling(temperature=0.0, max_tokens=8))
    rest = await run(engine, STORY, Sampling(temperature=0.0, max_tokens=8), resume_token_ids=tuple(whole.token_ids))
    assert rest.chunks == []
    assert rest.completed is not None
    assert (rest.completed.reason, rest.completed.completion_tokens) == (FinishReason.LENGTH, 8)
    assert rest.accepted is not None
    assert whole.accepted is not None
    assert list(rest.accepted.prompt_token_ids) == list(whole.accepted.prompt_token_ids)


@pytest.mark.parametrize(
    ("sampling", "output_format"),
    [
        (Sampling(temperature=1.0, seed=11, max_tokens=16), None),
        (Sampling(temperature=0.0, frequency_penalty=1.0, max_tokens=16), None),
        (Sampling(temperature=0.0, max_tokens=24), OutputFormat(FormatKind.REGEX, "([a-z]+ )+[0-9]{4}")),
    ],
    ids=["seed", "penalty", "constraint"],
)
async def test_what_lives_outside_the_tokens_is_computed_again(
    engine: VllmEngine, sampling: Sampling, output_format: OutputFormat | None
) -> None:
    """Seeds, penalties and constraints go on as if nothing had happened."""
    whole = await run(engine, STORY, sampling, output_format=output_format)
    rest = await run(engine, STORY, sampling, output_format=output_format, resume_token_ids=tuple(whole.token_ids[:7]))
    assert rest.token_ids == whole.token_ids[7:]
    assert "".join(chunk.text for chunk in whole.chunks[:7]) + rest.text == whole.text
    assert rest.completed is not None
    assert rest.completed.completion_tokens == len(whole.token_ids)


async def test_a_generation_that_cannot_be_computed_again_is_an_honest_error(engine: VllmEngine) -> None:
    """Tokens that the seed does not give: refused instead of continued wrongly."""
    with pytest.raises(EngineFault, match="cannot be continued"):
        await run(engine, STORY, Sampling(temperature=1.0, seed=11, max_tokens=16), resume_token_ids=(5, 6, 7))
