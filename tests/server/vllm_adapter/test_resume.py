"""A generation continued elsewhere is the one that was interrupted: nothing lost, nothing repeated."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.vllm_adapter.driving import greedy, run
from tests.server.vllm_adapter.seams import all_cases, cut_everywhere
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import CannotContinue

if TYPE_CHECKING:
    from vllama_server.vllm_adapter.engine import VllmEngine

REPOSITORY = Path(__file__).parents[3]

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

STORY = "Once upon a time"


async def test_two_hundred_cuts_all_give_the_undisturbed_text(engine: VllmEngine) -> None:
    """Twenty prompts, ten random cuts each, with the deterministic settings: text, tokens and ending agree."""
    cases = await all_cases(engine)
    seams = await cut_everywhere(engine, cases, 10, random.Random(2026))
    assert len(seams) == 200
    for seam in seams:
        assert seam.joined == seam.whole.text, seam
        assert [*seam.delivered, *seam.rest.token_ids] == seam.whole.token_ids
        assert seam.whole.finished is not None
        assert seam.rest.finished is not None
        assert seam.rest.finished.usage.completion_tokens == seam.whole.finished.usage.completion_tokens
        assert seam.rest.finished.reason == seam.whole.finished.reason
        assert seam.rest.finished.matched_stop == seam.whole.finished.matched_stop
    assert sum(not seam.whole.text.isascii() for seam in seams) >= 40, "many characters must straddle tokens"
    assert sum(bool(seam.whole.finished and seam.whole.finished.matched_stop) for seam in seams) == 60


async def test_in_bfloat16_a_seam_loses_and_repeats_nothing(
    model_directory: Path, record_property: pytest.RecordProperty
) -> None:
    """After the cut rounding may give other text, but from exactly the delivered tokens; prints how often."""
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
    whole = await run(engine, STORY, greedy(8))
    rest = await run(engine, STORY, greedy(8), resume_token_ids=whole.token_ids)
    assert rest.deltas == []
    assert rest.finished is not None
    assert (rest.finished.reason, rest.finished.usage.completion_tokens) == (pb.FINISH_REASON_LENGTH, 8)
    assert rest.started is not None
    assert whole.started is not None
    assert list(rest.started.prompt_token_ids) == list(whole.started.prompt_token_ids)


@pytest.mark.parametrize(
    ("sampling", "output_format"),
    [
        (pb.Sampling(temperature=1.0, seed=11, max_tokens=16), None),
        (greedy(16, frequency_penalty=1.0), None),
        (greedy(), pb.OutputFormat(regex="([a-z]+ )+[0-9]{4}")),
    ],
    ids=["seed", "penalty", "constraint"],
)
async def test_what_lives_outside_the_tokens_is_computed_again(
    engine: VllmEngine, sampling: pb.Sampling, output_format: pb.OutputFormat | None
) -> None:
    """Seeds, penalties and constraints go on as if nothing had happened."""
    whole = await run(engine, STORY, sampling, output_format=output_format)
    rest = await run(engine, STORY, sampling, output_format=output_format, resume_token_ids=whole.token_ids[:7])
    assert rest.token_ids == whole.token_ids[7:]
    assert "".join(delta.text for delta in whole.deltas[:7]) + rest.text == whole.text
    assert rest.finished is not None
    assert rest.finished.usage.completion_tokens == len(whole.token_ids)


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 1.5}, {"frequency_penalty": 0.5}], ids=["presence", "frequency"]
)
async def test_sampled_output_with_a_penalty_continues_after_the_delivered_tokens(
    engine: VllmEngine, penalty: dict[str, float]
) -> None:
    """Computing it again would give other tokens by chance."""
    sampling = pb.Sampling(temperature=0.8, max_tokens=24, **penalty)
    for _ in range(3):
        whole = await run(engine, STORY, sampling)
        rest = await run(engine, STORY, sampling, resume_token_ids=whole.token_ids[:8])
        assert rest.finished is not None
        assert rest.finished.usage.completion_tokens == 8 + len(rest.token_ids)


async def test_a_generation_that_cannot_be_computed_again_is_an_error(engine: VllmEngine) -> None:
    """Tokens that the seed does not give: refused instead of continued wrongly."""
    with pytest.raises(CannotContinue, match="cannot be continued"):
        await run(engine, STORY, pb.Sampling(temperature=1.0, seed=11, max_tokens=16), resume_token_ids=(5, 6, 7))
