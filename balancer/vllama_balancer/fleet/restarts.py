"""Decides what follows the death of a worker: another start after a pause, or none.

The pause doubles from one second to a minute and starts over after a healthy minute. A worker that cannot even
start, or keeps dying young, is given up with the cause: an endless loop would hide it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """When to try again, and when to stop trying."""

    first_delay_seconds: float = 1.0
    """Pause after the first death."""
    longest_delay_seconds: float = 60.0
    """The pause doubles up to this."""
    healthy_seconds: float = 60.0
    """A worker that lived so long starts with a clean slate."""
    most_early_deaths: int = 5
    """So many deaths in a row before that, and it is a crash loop."""
    most_failed_starts: int = 3
    """So many failed starts in a row, and it cannot start."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again after a pause."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not start again."""

    verdict: str
    """How it came to that, for people: "failed to start 3 times"."""


EXIT_START_FAILED = 1
EXIT_BAD_FLAGS = 2


class RestartJudge:
    """Remembers the deaths of one worker."""

    def __init__(self, settings: RestartSettings) -> None:
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets the past."""
        self._delay_seconds = self._settings.first_delay_seconds
        self._early_deaths = 0
        self._failed_starts = 0

    def after_death(self, exit_status: int, lived_seconds: float) -> Retry | GiveUp:
        """Judges a death that nobody asked for; a negative status is the signal that killed it."""
        if lived_seconds >= self._settings.healthy_seconds:
            self.reset()
        if exit_status == EXIT_BAD_FLAGS:
            return GiveUp("refused its flags")
        # A worker that was told to leave from outside drained and ended well: that is no crash.
        self._early_deaths += exit_status != 0
        self._failed_starts = self._failed_starts + 1 if exit_status == EXIT_START_FAILED else 0
        if self._failed_starts >= self._settings.most_failed_starts:
            return GiveUp(f"failed to start {self._failed_starts} times")
        if self._early_deaths >= self._settings.most_early_deaths:
            return GiveUp(f"died {self._early_deaths} times, each within {self._settings.healthy_seconds:.0f} s")
        delay = self._delay_seconds
        self._delay_seconds = min(2 * delay, self._settings.longest_delay_seconds)
        return Retry(delay)
