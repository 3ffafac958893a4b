"""Generations that are cut and continued: prompts of every kind, and what one seam shows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.server.vllm_adapter.driving import run
from vllama_server.engine.requests import ChatPrompt, Message, Sampling, TextPrompt

if TYPE_CHECKING:
    import random

    from tests.server.vllm_adapter.driving import Outcome
    from vllama_server.engine.protocol import Engine
    from vllama_server.engine.requests import Prompt

GREEDY = Sampling(temperature=0.0, max_tokens=28)


@dataclass(frozen=True)
class Case:
    """One prompt with its options."""

    prompt: Prompt
    sampling: Sampling = GREEDY


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


def _chat(text: str) -> ChatPrompt:
    return ChatPrompt((Message("user", text),))


CASES = [
    Case(_chat("What is the capital of France?")),
    Case(_chat("Name three colours of the rainbow.")),
    Case(_chat("Write a haiku about the sea.")),
    Case(ChatPrompt((Message("system", "You answer in one word."), Message("user", "Is water wet?")))),
    Case(ChatPrompt((Message("user", "Hi!"), Message("assistant", "Hello!"), Message("user", "Who are you?")))),
    Case(TextPrompt("Once upon a time")),
    Case(TextPrompt("def fibonacci(n):\n"), replace(GREEDY, ignore_eos=True)),
    Case(TextPrompt("1, 2, 3, 4,"), replace(GREEDY, max_tokens=17)),
    Case(_chat("Repeat exactly: 日本語 🙂🙃 naïve café 👩‍👩‍👧‍👦"), replace(GREEDY, ignore_eos=True)),
    Case(TextPrompt("こんにちは、世界。今日は")),
    Case(TextPrompt("🙂🙃🙂🙃🙂🙃")),
    Case(TextPrompt("Привет, мир! Меня зовут")),
    Case(TextPrompt("Emoji: 😀 😃 😄 😁 😆 😅 😂"), replace(GREEDY, repetition_penalty=1.2)),
    Case(TextPrompt("Ελληνικά: καλημέρα κόσμε,")),
]
"""Chats, completions and texts whose characters take several tokens each."""

STOPPED = [
    TextPrompt("Once upon a time, there was"),
    TextPrompt("The quick brown fox"),
    TextPrompt("In the beginning"),
    _chat("Tell me about the moon."),
    TextPrompt("你好，世界。"),
    TextPrompt("A recipe for bread:"),
]
"""Prompts whose output a stop text is to end."""


async def all_cases(engine: Engine) -> list[Case]:
    """The cases above, and for the prompts in STOPPED a stop text out of the middle of their own output."""
    texts = [outcome.text for outcome in await asyncio.gather(*(run(engine, prompt, GREEDY) for prompt in STOPPED))]
    stops = [text[len(text) * 2 // 3 :][:6] for text in texts]
    stopped = [
        Case(prompt, replace(GREEDY, stop=(stop, stop[0] + "\u2603")))
        for prompt, stop in zip(STOPPED, stops, strict=True)
    ]
    return CASES + stopped


async def cut_everywhere(engine: Engine, cases: list[Case], cuts: int, randomness: random.Random) -> list[Seam]:
    """Runs every case whole, then continues it after that many random cuts; all of them at once."""
    wholes = await asyncio.gather(*(run(engine, case.prompt, case.sampling) for case in cases))
    return await asyncio.gather(
        *(
            _continue(engine, case, whole, randomness.randint(1, len(whole.chunks)))
            for case, whole in zip(cases, wholes, strict=True)
            for _ in range(cuts)
        )
    )


async def _continue(engine: Engine, case: Case, whole: Outcome, cut: int) -> Seam:
    head = whole.chunks[:cut]
    delivered = tuple(token_id for chunk in head for token_id in chunk.token_ids)
    rest = await run(engine, case.prompt, case.sampling, resume_token_ids=delivered)
    return Seam(case, whole, "".join(chunk.text for chunk in head), delivered, rest)
