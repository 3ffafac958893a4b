"""Decides which of the requests aboard a dying worker may have killed it.

Failover moves every request of a dead worker to others. If one of them is poison it kills the next
worker as well, and would take the whole fleet down one by one; so a request that has killed two is
quarantined. The difficulty is that innocent requests travel with it. Two observations tell them
apart: a request dies of its prompt far more often than in the middle of an answer, and a second
death points at the one that was aboard the first. So that the second one speaks clearly, requests
under suspicion are placed apart from each other (see `Placer`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

CRASHES_TO_QUARANTINE = 2
"""A request that has killed this many workers is not tried again."""


class Suspect(Protocol):
    """A request aboard a worker at its death."""

    @property
    def produced(self) -> bool:
        """Whether this worker has generated anything for it."""
        ...

    @property
    def had_output(self) -> bool:
        """Whether an earlier worker had."""
        ...

    @property
    def crash_count(self) -> int:
        """Deaths that it was blamed for before."""
        ...


S = TypeVar("S", bound=Suspect)


def blamed(aboard: Sequence[S]) -> list[S]:
    """Picks the requests that are to blame for a death; never none of them when any was aboard.

    Those that no worker has generated anything for come first, then those that this one has
    not; among these, those that have been blamed before. So poison is always among the blamed,
    and streams in the middle of an answer are exonerated as soon as there is a better suspect.
    """
    unproven = [suspect for suspect in aboard if not (suspect.produced or suspect.had_output)]
    suspects = unproven or [suspect for suspect in aboard if not suspect.produced] or list(aboard)
    return [suspect for suspect in suspects if suspect.crash_count] or suspects
