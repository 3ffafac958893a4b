"""The requests of simulated clients: sessions of turns, each with a prompt and an output length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

BLOCK_TOKENS = 16
"""Tokens of one block; a prompt is identified by its full blocks."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that several prompts may share."""

    id: int
    """Equal ids mean equal text."""
    tokens: int
    """Its length."""


def block_ids(segments: tuple[Segment, ...]) -> tuple[int, ...]:
    """Returns a name for each full block of a prompt, from its content and all that precedes it.

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
    """Tokens of the answer; before its end only the engine and the oracle use it."""
    max_tokens: int | None = None
    """The client's limit; None for no limit."""
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
        """Identities of the full blocks of prompt and answer; without an answer those of the prompt."""
        return self.blocks if self.answer is None else block_ids((*self.segments, self.answer))


@dataclass(frozen=True, slots=True)
class Session:
    """Turns of one client, each sent when the one before has been answered."""

    key: str
    """What the client sends as its session."""
    turns: tuple[Turn, ...]
    """At least one."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A worker that is killed and restarts with empty caches."""

    worker: int
    """Index of the worker."""
    at_seconds: float
    """When it is killed."""
    down_seconds: float
    """How long until it serves again."""
    cold_steps: int = 0
    """Slow steps after its restart, while kernels are compiled."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests and failures of one run."""

    name: str
    """As in the report."""
    sessions: tuple[Session, ...]
    """Taken in order by the next free client."""
    burst: bool = False
    """True if clients send all at once and wait for the last answer before they send again."""
    slow_workers: tuple[int, ...] = ()
    """Workers that run at half speed."""
    restart: Restart | None = None
    """The worker that is restarted."""


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way through the fleet."""

    turn: Turn
    """The turn; a placement may read anything but `output_tokens`."""
    session: str
    """What the client sends as its session."""
    asked_seconds: float
    """When the client sent it."""
    worker: int = -1
    """Where it runs."""
    delivered_tokens: int = 0
    """Output tokens of earlier attempts; a new attempt continues after them."""
    cached_tokens: int = 0
    """Prompt tokens that the worker of the last attempt had cached."""
    first_token_seconds: float = -1.0
    """When the first token came; negative before that."""
    ended_seconds: float = -1.0
    """When the last token came; negative before that."""
