"""Generations that are cut and continued: prompts of every kind, and what one seam shows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tests.server.vllm_adapter.driving import chat_of, greedy, run

if TYPE_CHECKING:
    import random

    from tests.server.vllm_adapter.driving import Outcome, Prompt
    from vllama_protos.v1 import generation_pb2 as pb
    from vllama_server.engine.protocol import Engine

GREEDY = greedy(28)


class Case(NamedTuple):
    """One prompt with its options."""

    prompt: Prompt
    sampling: pb.Sampling = GREEDY


@dataclass(frozen=True)
class Seam:
    """One cut: what the client had, and what came after."""

    case: Case
    whole: Outcome
    delivered_text: str
    delivered: tuple[int, ...]
    rest: Outcome

    @property
    def joined(self) -> str:
        """What the client sees in the end."""
        return self.delivered_text + self.rest.text


def _chat(text: str) -> pb.Chat:
    return chat_of(("user", text))


CASES = [
    Case(_chat("What is the capital of France?")),
    Case(_chat("Name three colours of the rainbow.")),
    Case(_chat("Write a haiku about the sea.")),
    Case(chat_of(("system", "You answer in one word."), ("user", "Is water wet?"))),
    Case(chat_of(("user", "Hi!"), ("assistant", "Hello!"), ("user", "Who are you?"))),
    Case("Once upon a time"),
    Case("def fibonacci(n):\n", greedy(28, ignore_eos=True)),
    Case("1, 2, 3, 4,", greedy(17)),
    Case(_chat("Repeat exactly: 日本語 🙂🙃 naïve café 👩‍👩‍👧‍👦"), greedy(28, ignore_eos=True)),
    Case("こんにちは、世界。今日は"),
    Case("🙂🙃🙂🙃🙂🙃"),
    Case("Привет, мир! Меня зовут"),
    Case("Emoji: 😀 😃 😄 😁 😆 😅 😂", greedy(28, repetition_penalty=1.2)),
    Case("Ελληνικά: καλημέρα κόσμε,"),
]
"""Chats, completions and texts whose characters take several tokens each."""

STOPPED = [
    "Once upon a time, there was",
    "The quick brown fox",
    "In the beginning",
    _chat("Tell me about the moon."),
    "你好，世界。",
    "A recipe for bread:",
]
"""Prompts whose output a stop text is to end."""


async def all_cases(engine: Engine) -> list[Case]:
    """The cases above, and for the prompts in STOPPED a stop text out of the middle of their own output."""
    texts = [outcome.text for outcome in await asyncio.gather(*(run(engine, prompt, GREEDY) for prompt in STOPPED))]
    stops = [text[len(text) * 2 // 3 :][:6] for text in texts]
    stopped = [
        Case(prompt, greedy(28, stop=(stop, stop[0] + "\u2603"))) for prompt, stop in zip(STOPPED, stops, strict=True)
    ]
    return CASES + stopped


async def cut_everywhere(engine: Engine, cases: list[Case], cuts: int, randomness: random.Random) -> list[Seam]:
    """Runs every case whole, then continues it after that many random cuts; all of them at once."""
    wholes = await asyncio.gather(*(run(engine, case.prompt, case.sampling) for case in cases))
    return await asyncio.gather(
        *(
            _continue(engine, case, whole, randomness.randint(1, len(whole.deltas)))
            for case, whole in zip(cases, wholes, strict=True)
            for _ in range(cuts)
        )
    )


async def _continue(engine: Engine, case: Case, whole: Outcome, cut: int) -> Seam:
    head = whole.deltas[:cut]
    delivered = tuple(token_id for delta in head for token_id in delta.token_ids)
    rest = await run(engine, case.prompt, case.sampling, resume_token_ids=delivered)
    return Seam(case, whole, "".join(delta.text for delta in head), delivered, rest)
