"""The seeded workloads on which policies are compared.

Lengths follow what chat and agent traffic is known for: outputs are log-normal, chats share a few
system prompts, agents send everything again with each step. The number of requests grows with the
concurrency, so that every client asks several times and a run reaches its steady state.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.workload import Restart, Segment, Session, Turn, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHAT_LIMIT = 1024
"""max_tokens that a client sets: far above what it gets, as clients do."""
LONGEST_ANSWER = 512
"""Keeps the end of a run from being one straggler's decoding, which no placement could help."""

LONG_ANSWER = 2000
"""The longest answer where answers are long."""


class RequestGenerator:
    """Writes prompts from one random source; texts that it does not share are never equal."""

    def __init__(self, seed: int, concurrency: int) -> None:
        self.rng = random.Random(seed)
        self.concurrency = concurrency
        self._texts = 0

    def text(self, tokens: int) -> Segment:
        """Writes a new text."""
        self._texts += 1
        return Segment(self._texts, tokens)

    def lognormal(self, median: float, sigma: float, least: int, most: int) -> int:
        """Draws a length."""
        return max(least, min(most, round(self.rng.lognormvariate(math.log(median), sigma))))

    def requests(self, start: int = 60, per_client: int = 8) -> int:
        """Tells how many requests a run has."""
        return start + per_client * self.concurrency

    def single(self, prompt: tuple[Segment, ...], output_tokens: int, limit: int | None = CHAT_LIMIT) -> Session:
        """Makes a session of one turn."""
        return Session("", (Turn(prompt, output_tokens, limit),))

    def answer_tokens(self) -> int:
        """Draws the length of an ordinary answer."""
        return self.lognormal(100, 0.8, 4, LONGEST_ANSWER)


def uniform(author: RequestGenerator) -> Workload:
    """Writes equal requests: there is nothing to win but a fair share."""
    sessions = [author.single((author.text(200),), 128, 128) for _ in range(author.requests())]
    return Workload("uniform", tuple(sessions))


def lognormal_outputs(author: RequestGenerator) -> Workload:
    """Writes requests whose answers differ by two orders of magnitude, unknown beforehand."""
    sessions = [
        author.single((author.text(200),), author.lognormal(90, 1.1, 2, LONGEST_ANSWER))
        for _ in range(author.requests())
    ]
    return Workload("log-normal outputs", tuple(sessions))


def chats(author: RequestGenerator) -> Workload:
    """Writes conversations that start with one of six system prompts and send their history again."""
    sessions = _conversations(author, lambda: author.rng.randrange(3, 9), author.answer_tokens)
    return Workload("chats", sessions)


def long_answers(author: RequestGenerator) -> Workload:
    """Writes shorter conversations whose answers are long: most of a prompt is what was answered before."""
    sessions = _conversations(
        author, lambda: author.rng.randrange(2, 6), lambda: author.lognormal(600, 0.5, 150, LONG_ANSWER)
    )
    return Workload("long answers", sessions)


def _conversations(
    author: RequestGenerator, turns: Callable[[], int], answer_tokens: Callable[[], int]
) -> tuple[Session, ...]:
    systems = [author.text(author.rng.randrange(300, 1200)) for _ in range(6)]

    def session(number: int) -> Session:
        history = [author.rng.choice(systems)]
        asked = []
        for _ in range(turns()):
            history.append(author.text(author.lognormal(60, 0.8, 8, 600)))
            answer = author.text(answer_tokens())
            asked.append(Turn(tuple(history), answer.tokens, 2 * LONG_ANSWER, answer))
            history.append(answer)
        return Session(f"chat-{number}", tuple(asked))

    return tuple(session(number) for number in range(10 + 2 * author.concurrency))


def hot_prefix(author: RequestGenerator) -> Workload:
    """Writes questions about one and the same 6000-token document."""
    document = author.text(6000)
    sessions = [
        author.single((document, author.text(author.rng.randrange(40, 200))), author.answer_tokens())
        for _ in range(author.requests())
    ]
    return Workload("hot prefix", tuple(sessions))


def agents(author: RequestGenerator) -> Workload:
    """Writes agents: short answers, and after each a tool's result is added to the prompt."""
    instructions = author.text(1500)

    def session(number: int) -> Session:
        history = [instructions, author.text(author.rng.randrange(100, 2000))]
        turns = []
        for _ in range(author.rng.randrange(6, 14)):
            answer = author.text(author.lognormal(50, 0.7, 8, 400))
            turns.append(Turn(tuple(history), answer.tokens, CHAT_LIMIT, answer))
            history += [answer, author.text(author.lognormal(500, 1.0, 40, 4000))]
        return Session(f"agent-{number}", tuple(turns))

    return Workload("agents", tuple(session(number) for number in range(6 + author.concurrency)))


def bursts(author: RequestGenerator) -> Workload:
    """Writes requests that come all at once, as many as there are clients, into an idle fleet."""
    sessions = [
        author.single((author.text(author.lognormal(200, 0.8, 16, 4000)),), author.answer_tokens())
        for _ in range(author.concurrency * (6 if author.concurrency >= 8 else 40))
    ]
    return Workload("bursts", tuple(sessions), burst=True)


def half_speed(author: RequestGenerator) -> Workload:
    """Writes ordinary requests for a fleet whose first worker runs at half speed."""
    sessions = [
        author.single((author.text(author.lognormal(300, 0.8, 16, 4000)),), author.answer_tokens())
        for _ in range(author.requests())
    ]
    return Workload("one at half speed", tuple(sessions), slow_workers=(0,))


def long_prompts(author: RequestGenerator) -> Workload:
    """Writes short questions, and among them one in ten of 12000 tokens."""
    sessions = [
        author.single((author.text(12000 if author.rng.random() < 0.1 else 200),), author.answer_tokens())
        for _ in range(author.requests())
    ]
    return Workload("10 % of 12k tokens", tuple(sessions))


def restart(author: RequestGenerator, cold_steps: int = 0) -> Workload:
    """Writes ordinary requests for a fleet whose first worker dies and comes back empty."""
    sessions = [
        author.single((author.text(author.lognormal(300, 0.8, 16, 4000)),), author.answer_tokens())
        for _ in range(author.requests())
    ]
    return Workload("one restarts", tuple(sessions), restart=Restart(0, 1.5, 3.0, cold_steps))


def cold_restart(author: RequestGenerator) -> Workload:
    """Writes the same for a worker that has to compile its kernels when it is back."""
    return replace(restart(author, cold_steps=6), name="one restarts cold")


def long_contexts(author: RequestGenerator) -> Workload:
    """Writes short questions, and among them a few contexts that fill half of a KV cache and stay there for long."""

    def long() -> Session:
        return author.single(
            (author.text(author.rng.randrange(40_000, 90_000)),), author.lognormal(1200, 0.5, 300, 3000)
        )

    sessions = [
        long() if author.rng.random() < 0.08 else author.single((author.text(200),), author.answer_tokens())
        for _ in range(author.requests())
    ]
    return Workload("long contexts", tuple(sessions))


COMPARED = (
    "uniform", "lognormal", "chats", "hot-prefix", "agents", "bursts", "half-speed", "long-prompts", "restart",
)  # fmt: skip
"""The workloads of the comparison; the others show what single terms are for."""

WORKLOADS: Mapping[str, Callable[[RequestGenerator], Workload]] = {
    "uniform": uniform,
    "lognormal": lognormal_outputs,
    "chats": chats,
    "hot-prefix": hot_prefix,
    "agents": agents,
    "bursts": bursts,
    "half-speed": half_speed,
    "long-prompts": long_prompts,
    "restart": restart,
    "cold-restart": cold_restart,
    "long-contexts": long_contexts,
    "long-answers": long_answers,
}
"""Every workload by the name that the command line takes."""


def write(name: str, seed: int, concurrency: int) -> Workload:
    """Writes a workload; the same arguments give the same requests."""
    return WORKLOADS[name](RequestGenerator(seed, concurrency))
