"""What clients ask of a fleet: sessions of turns, each with a prompt, an output length and who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

BLOCK_TOKENS = 16
"""Tokens of one block; a prompt is known by the identities of its full blocks."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that several prompts may share."""

    id: int
    """Equal ids mean equal text."""
    tokens: int
    """Its length."""


def block_ids(segments: tuple[Segment, ...]) -> tuple[int, ...]:
    """Names the full blocks of a prompt, each by its content and all that precedes it.

    Equal prefixes give equal names. Integers hash alike in every process, so runs repeat exactly.
    """
    names: list[int] = []
    name = filled = content = 0
    for segment in segments:
        offset = 0
        while offset < segment.tokens:
            taken = min(BLOCK_TOKENS - filled, segment.tokens - offset)
            content = hash((content, segment.id, offset, taken))
            offset += taken
            filled += taken
            if filled == BLOCK_TOKENS:
                name = hash((name, content))
                names.append(name)
                filled = content = 0
    return tuple(names)


@dataclass(frozen=True)
class Turn:
    """One request of a session."""

    segments: tuple[Segment, ...]
    """The prompt."""
    output_tokens: int
    """How many tokens the model answers; only the engine and the oracle know it beforehand."""
    max_tokens: int | None = None
    """What the client allows; None when it sets no limit."""
    answer: Segment | None = None
    """The answer's text, where a later prompt contains it."""

    @cached_property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return sum(segment.tokens for segment in self.segments)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Identities of the prompt's full blocks."""
        return block_ids(self.segments)

    @cached_property
    def answered_blocks(self) -> tuple[int, ...]:
        """Identities of the full blocks of prompt and answer; the prompt's alone where nobody asks for the answer."""
        return self.blocks if self.answer is None else block_ids((*self.segments, self.answer))


@dataclass(frozen=True, slots=True)
class Session:
    """Turns that one client asks one after the other, each when the one before has been answered."""

    key: str
    """What the client sends as its session."""
    turns: tuple[Turn, ...]
    """At least one."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A worker that is killed and comes back with empty caches."""

    worker: int
    """Index of the worker."""
    at_seconds: float
    """When it is killed."""
    down_seconds: float
    """How long until it serves again."""
    cold_steps: int = 0
    """The first steps of its new life, each of which takes long: kernels are compiled."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything that happens to a fleet in one run."""

    name: str
    """As in the report."""
    sessions: tuple[Session, ...]
    """Taken in order by whichever client is free."""
    burst: bool = False
    """Whether clients ask all at once and wait for the last of them before they ask again."""
    slow_workers: tuple[int, ...] = ()
    """Workers that run at half speed."""
    restart: Restart | None = None
    """The worker that fails on the way."""


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way through the fleet."""

    turn: Turn
    """What is asked; a placement may look at anything but `output_tokens`."""
    session: str
    """What the client sends as its session."""
    asked_seconds: float
    """When the client asked."""
    worker: int = -1
    """Where it runs."""
    delivered_tokens: int = 0
    """Output tokens of earlier attempts, which a new attempt continues after."""
    cached_tokens: int = 0
    """Prompt tokens that the worker of the last attempt had cached."""
    first_token_seconds: float = -1.0
    """When the first token came; negative before that."""
    ended_seconds: float = -1.0
    """When the last token came; negative before that."""
