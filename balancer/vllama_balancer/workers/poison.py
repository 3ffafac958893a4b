"""Poison detection: which of the requests on a crashed worker may have crashed it.

Every request of a crashed worker is retried on others. A poisonous one crashes the next worker as well and would take
down the whole fleet one by one, so a request that has crashed two workers is quarantined. Two observations separate it
from the innocent requests beside it:

- A crash is far more often caused by a prompt than by the middle of an answer.
- A second crash points at the request that was present at the first. So that it points at one request only, suspects
  are placed apart from each other (dispatch/placer.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

CRASHES_TO_QUARANTINE = 2
"""A request that has crashed this many workers is not tried again."""


class Suspect(Protocol):
    """A request on a worker that has crashed."""

    @property
    def produced(self) -> bool:
        """Whether this worker has generated anything for it."""
        ...

    @property
    def had_output(self) -> bool:
        """Whether an earlier worker had generated anything for it."""
        ...

    @property
    def crash_count(self) -> int:
        """Earlier crashes that it was blamed for."""
        ...


S = TypeVar("S", bound=Suspect)


def blamed(aboard: Sequence[S]) -> list[S]:
    """Returns the requests to blame for a crash; at least one if there was any.

    Requests without output from any worker come first, then those without output from this worker. Among these, the
    ones that were blamed before. So poison is always among the blamed, and a stream in the middle of its answer is
    exonerated as soon as there is a better suspect.
    """
    unproven = [suspect for suspect in aboard if not (suspect.produced or suspect.had_output)]
    suspects = unproven or [suspect for suspect in aboard if not suspect.produced] or list(aboard)
    return [suspect for suspect in suspects if suspect.crash_count] or suspects
