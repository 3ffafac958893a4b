"""Poison detection: which of the requests on a crashed worker may have crashed it.

Every request of a crashed worker is retried on others. A poisonous one crashes the next worker as well and would take
down the whole fleet one by one, so it is quarantined in the end: refused, not retried. These observations separate it
from the innocent requests beside it:

- A crash is far more often caused by a prompt than by the middle of an answer. A stream far into its output is blamed
  only if there is no better suspect.
- A second crash points at the request that was present at the first. So that it points at one request only, suspects
  are placed apart from each other (dispatch/placer.py).
- Real progress on a worker forgives earlier crashes.
- Machines die process by process, so that two crashes in a row may have one cause. A request that was blamed for two
  is tried once more, alone and after a calm while (dispatch/trials.py). It is quarantined only if that worker crashes.
- A cancelled request may go on burning its worker, such as the compilation of a grammar. It stays a suspect there until
  a later request has made progress.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

CRASHES_TO_TRIAL = 2
"""A request that was blamed for this many crashes in a row gets a trial alone."""
UNDERWAY_TOKENS = 16
"""Tokens on one worker after which a stream is far into its output there."""
PROGRESS_SECONDS = 1.0
"""Time from the first token on a worker after which a stream that is underway there has made real progress."""
MAX_CANCELLED = 16
"""Cancelled requests that are remembered on one worker."""
CANCELLED_SECONDS = 300.0
"""How long they are remembered at most."""


class Suspect(Protocol):
    """A request on a worker that has crashed."""

    @property
    def produced(self) -> bool:
        """Whether this worker has generated anything for it."""
        ...

    @property
    def is_underway(self) -> bool:
        """Whether it is far into its output on this worker."""
        ...

    @property
    def had_output(self) -> bool:
        """Whether an earlier worker had generated anything for it."""
        ...

    @property
    def crash_count(self) -> int:
        """Earlier crashes that it was blamed for."""
        ...


@dataclass(slots=True)
class CancelledRequest:
    """A request that was cancelled before its first token; the worker may still be busy with it."""

    request_id: str
    cancelled_at: float
    """On the worker's clock."""
    is_blamed: bool = False
    produced: bool = False
    is_underway: bool = False
    had_output: bool = False
    crash_count: int = 1
    """Counts as blamed before: it exonerates requests that were not."""


S = TypeVar("S", bound=Suspect)


def blamed(aboard: Sequence[S]) -> list[S]:
    """Returns the requests to blame for a crash; at least one if there was any.

    The best suspects come first: without output from any worker, without output from this one, with some, underway.
    Among those of the best rank, the ones that were blamed before. So poison in its prompt is always among the blamed,
    and a stream in the middle of its answer is exonerated as soon as there is a better suspect.
    """
    best = min(map(_rank, aboard), default=0)
    suspects = [suspect for suspect in aboard if _rank(suspect) == best]
    return [suspect for suspect in suspects if suspect.crash_count] or suspects


def _rank(suspect: Suspect) -> int:
    if suspect.is_underway:
        return 3
    if suspect.produced:
        return 2
    return 1 if suspect.had_output else 0
