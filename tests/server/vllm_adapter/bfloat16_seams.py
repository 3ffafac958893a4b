"""Cuts and continues generations in bfloat16, in a process of its own, and prints one line of JSON.

    python -m tests.server.vllm_adapter.bfloat16_seams MODEL

`whole` counts the seams where the client got exactly the text of all tokens, `equal` those whose
text is that of the undisturbed run.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from tests.server.vllm_adapter.seams import CASES, cut_everywhere
from vllama_server.vllm_adapter.engine import VllmEngine
from vllama_server.vllm_adapter.engine_config import EngineConfig

PROMPTS = 8
CUTS = 3
ARGUMENTS = {"dtype": "bfloat16", "kv_cache_memory_bytes": str(128 * 1024 * 1024)}


async def main(model: str) -> None:
    """Runs it."""
    engine = VllmEngine(EngineConfig(model, device="cpu", engine_args=ARGUMENTS))
    await engine.start(lambda _phase, _fraction: None)
    try:
        seams = await cut_everywhere(engine, CASES[:PROMPTS], CUTS, random.Random(2026))
        # One pass over all tokens says what their text is: what the client got must be just that.
        # Only there does a character that the last token leaves unfinished show, as U+FFFD.
        texts = [await engine.detokenize([*seam.delivered, *seam.rest.token_ids]) for seam in seams]
    finally:
        await engine.stop()
    result = {
        "count": len(seams),
        "whole": sum(seam.joined == text.rstrip("\ufffd") for seam, text in zip(seams, texts, strict=True)),
        "equal": sum(seam.joined == seam.whole.text for seam in seams),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
