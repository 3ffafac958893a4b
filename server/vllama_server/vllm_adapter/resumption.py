"""How a generation that began on another worker goes on here.

Usually the delivered tokens are put behind the prompt and the model continues after them: what
follows is conditioned on exactly what the client was given. Three things live outside the tokens,
though, and would be lost: the state of a grammar, the position in a seeded random stream, and the
counts behind presence and frequency penalties. Such a generation is computed again from its start
and must come to the delivered tokens by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_server.errors import EngineFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm import SamplingParams


def must_replay(parameters: SamplingParams) -> bool:
    """Whether something beside the tokens decides how the generation goes on."""
    draws_from_seed = parameters.seed is not None and parameters.temperature > 0
    counts_tokens = parameters.presence_penalty != 0 or parameters.frequency_penalty != 0
    return bool(parameters.structured_outputs is not None or draws_from_seed or counts_tokens)


@dataclass(slots=True)
class Replay:
    """Checks a generation that is computed again against what was delivered of it."""

    delivered: Sequence[int]
    """The tokens that must come again."""
    checked: int = 0
    """How many have come."""

    def take(self, token_ids: Sequence[int]) -> int:
        """Counts the leading tokens of this output that were delivered before.

        Raises EngineFault when they differ from what was delivered: the stream cannot go on.
        """
        expected = self.delivered[self.checked : self.checked + len(token_ids)]
        if list(token_ids[: len(expected)]) != list(expected):
            raise EngineFault(
                "This generation cannot be continued after its worker was lost: its outcome depends on a seed, a "
                "constraint or a penalty, and computing it again gave other tokens than those delivered."
            )
        self.checked += len(expected)
        return len(expected)
