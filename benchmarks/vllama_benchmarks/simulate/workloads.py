"""The seeded workloads on which policies are compared.

Lengths follow chat and agent traffic: outputs are log-normal, chats share a few system prompts, agents send everything
again with each step. The number of requests grows with the concurrency, so that every client sends several and a run
reaches its steady state.
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
"""max_tokens of a client: far above what it gets, as in real traffic."""
LONGEST_ANSWER = 512
"""Keeps the end of a run from being one last long answer, which no placement could speed up."""

LONG_ANSWER = 2000
"""The longest answer where answers are long."""


class RequestGenerator:
    """Generates prompts from one random source; texts that are not shared are never equal."""

    def __init__(self, seed: int, concurrency: int) -> None:
        self.rng = random.Random(seed)
        self.concurrency = concurrency
        self._texts = 0

    def text(self, tokens: int) -> Segment:
        """Returns a new text."""
        self._texts += 1
        return Segment(self._texts, tokens)

    def lognormal(self, median: float, sigma: float, least: int, most: int) -> int:
        return max(least, min(most, round(self.rng.lognormvariate(math.log(median), sigma))))

    def requests(self, start: int = 60, per_client: int = 8) -> int:
        """Returns the number of requests of a run."""
        return start + per_client * self.concurrency

    def single(self, prompt: tuple[Segment, ...], output_tokens: int, limit: int | None = CHAT_LIMIT) -> Session:
        return Session("", (Turn(prompt, output_tokens, limit),))

    def answer_tokens(self) -> int:
        return self.lognormal(100, 0.8, 4, LONGEST_ANSWER)


def uniform(generator: RequestGenerator) -> Workload:
    """Equal requests: only a fair share can be gained."""
    sessions = [generator.single((generator.text(200),), 128, 128) for _ in range(generator.requests())]
    return Workload("uniform", tuple(sessions))


def lognormal_outputs(generator: RequestGenerator) -> Workload:
    """Requests whose answers differ by two orders of magnitude, unknown beforehand."""
    sessions = [
        generator.single((generator.text(200),), generator.lognormal(90, 1.1, 2, LONGEST_ANSWER))
        for _ in range(generator.requests())
    ]
    return Workload("log-normal outputs", tuple(sessions))


def chats(generator: RequestGenerator) -> Workload:
    """Conversations that start with one of six system prompts and send their history again."""
    sessions = _conversations(generator, lambda: generator.rng.randrange(3, 9), generator.answer_tokens)
    return Workload("chats", sessions)


def long_answers(generator: RequestGenerator) -> Workload:
    """Shorter conversations with long answers: most of a prompt is earlier answers."""
    sessions = _conversations(
        generator, lambda: generator.rng.randrange(2, 6), lambda: generator.lognormal(600, 0.5, 150, LONG_ANSWER)
    )
    return Workload("long answers", sessions)


def _conversations(
    generator: RequestGenerator, turns: Callable[[], int], answer_tokens: Callable[[], int]
) -> tuple[Session, ...]:
    systems = [generator.text(generator.rng.randrange(300, 1200)) for _ in range(6)]

    def session(number: int) -> Session:
        history = [generator.rng.choice(systems)]
        turn_list = []
        for _ in range(turns()):
            history.append(generator.text(generator.lognormal(60, 0.8, 8, 600)))
            answer = generator.text(answer_tokens())
            turn_list.append(Turn(tuple(history), answer.tokens, 2 * LONG_ANSWER, answer))
            history.append(answer)
        return Session(f"chat-{number}", tuple(turn_list))

    return tuple(session(number) for number in range(10 + 2 * generator.concurrency))


def hot_prefix(generator: RequestGenerator) -> Workload:
    """Questions about one and the same 6000-token document."""
    document = generator.text(6000)
    sessions = [
        generator.single((document, generator.text(generator.rng.randrange(40, 200))), generator.answer_tokens())
        for _ in range(generator.requests())
    ]
    return Workload("hot prefix", tuple(sessions))


def agents(generator: RequestGenerator) -> Workload:
    """Agents: short answers, and after each a tool's result is added to the prompt."""
    instructions = generator.text(1500)

    def session(number: int) -> Session:
        history = [instructions, generator.text(generator.rng.randrange(100, 2000))]
        turns = []
        for _ in range(generator.rng.randrange(6, 14)):
            answer = generator.text(generator.lognormal(50, 0.7, 8, 400))
            turns.append(Turn(tuple(history), answer.tokens, CHAT_LIMIT, answer))
            history += [answer, generator.text(generator.lognormal(500, 1.0, 40, 4000))]
        return Session(f"agent-{number}", tuple(turns))

    return Workload("agents", tuple(session(number) for number in range(6 + generator.concurrency)))


def bursts(generator: RequestGenerator) -> Workload:
    """Requests that come all at once, as many as there are clients, into an idle fleet."""
    sessions = [
        generator.single((generator.text(generator.lognormal(200, 0.8, 16, 4000)),), generator.answer_tokens())
        for _ in range(generator.concurrency * (6 if generator.concurrency >= 8 else 40))
    ]
    return Workload("bursts", tuple(sessions), burst=True)


def half_speed(generator: RequestGenerator) -> Workload:
    """Ordinary requests for a fleet whose first worker runs at half speed."""
    sessions = [
        generator.single((generator.text(generator.lognormal(300, 0.8, 16, 4000)),), generator.answer_tokens())
        for _ in range(generator.requests())
    ]
    return Workload("one at half speed", tuple(sessions), slow_workers=(0,))


def long_prompts(generator: RequestGenerator) -> Workload:
    """Short questions, and among them one in ten of 12000 tokens."""
    sessions = [
        generator.single((generator.text(12000 if generator.rng.random() < 0.1 else 200),), generator.answer_tokens())
        for _ in range(generator.requests())
    ]
    return Workload("10 % of 12k tokens", tuple(sessions))


def restart(generator: RequestGenerator, cold_steps: int = 0) -> Workload:
    """Ordinary requests for a fleet whose first worker dies and restarts empty."""
    sessions = [
        generator.single((generator.text(generator.lognormal(300, 0.8, 16, 4000)),), generator.answer_tokens())
        for _ in range(generator.requests())
    ]
    return Workload("one restarts", tuple(sessions), restart=Restart(0, 1.5, 3.0, cold_steps))


def cold_restart(generator: RequestGenerator) -> Workload:
    """The same for a worker that has to compile its kernels after the restart."""
    return replace(restart(generator, cold_steps=6), name="one restarts cold")


def long_contexts(generator: RequestGenerator) -> Workload:
    """Short questions, and among them a few contexts that fill half of a KV cache and stay there for long."""

    def long() -> Session:
        return generator.single(
            (generator.text(generator.rng.randrange(40_000, 90_000)),), generator.lognormal(1200, 0.5, 300, 3000)
        )

    sessions = [
        long() if generator.rng.random() < 0.08 else generator.single((generator.text(200),), generator.answer_tokens())
        for _ in range(generator.requests())
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


def generate(name: str, seed: int, concurrency: int) -> Workload:
    """Returns a workload; the same arguments give the same requests."""
    return WORKLOADS[name](RequestGenerator(seed, concurrency))
