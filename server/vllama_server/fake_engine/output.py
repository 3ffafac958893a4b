"""Output of a simulated generation: determined in full beforehand, so stop texts are found before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.fake_engine import tokens

if TYPE_CHECKING:
    from collections.abc import Sequence


class Output:
    """The tokens and the text of one generation."""

    __slots__ = ("_hash", "_offsets", "_text", "limit", "matched_stop", "reason")

    def __init__(self, hash16: int, limit: int, stop: Sequence[str] = (), min_tokens: int = 0) -> None:
        self._hash = hash16
        self._text = ""
        self._offsets: list[int] = []
        self.limit = limit
        """Tokens until the end, resumed ones included."""
        self.reason = pb.FINISH_REASON_LENGTH
        """Why it will end."""
        self.matched_stop = ""
        """The stop text that will end it."""
        if stop:
            self._find(stop, min_tokens)

    def ids(self, start: int, end: int) -> list[int]:
        """The token ids of positions start to end."""
        return [tokens.output_id(self._hash, index) for index in range(start, end)]

    def text(self, start: int, end: int) -> str:
        """The text of positions start to end, up to the stop text."""
        if not self.matched_stop:
            if end - start == 1:
                return tokens.output_text(self._hash, start)
            return "".join([tokens.output_text(self._hash, index) for index in range(start, end)])
        return self._text[self._offsets[start] : self._offsets[end]]

    def logprobs(self, start: int, end: int, alternatives: int) -> list[pb.TokenLogprobs]:
        """The log probabilities of positions start to end: 0, since each token is certain."""
        entries = []
        for index in range(start, end):
            text = tokens.output_text(self._hash, index)
            token = pb.TokenLogprob(id=tokens.output_id(self._hash, index), text=text, bytes=text.encode(), logprob=0.0)
            entries.append(pb.TokenLogprobs(token=token, top=[token] if alternatives else ()))
        return entries

    def _find(self, stop: Sequence[str], min_tokens: int) -> None:
        """Ends the output with the token that first completes a stop text."""
        text, offsets = "", [0]
        longest = max(map(len, stop))
        for index in range(self.limit):
            seen = max(0, len(text) - longest + 1)
            text += tokens.output_text(self._hash, index)
            offsets.append(len(text))
            found = [(at, word) for word in stop if (at := text.find(word, seen)) >= 0]
            if found and index >= min_tokens:
                cut, self.matched_stop = min(found)
                self.limit, self.reason = index + 1, pb.FINISH_REASON_STOP
                self._text, self._offsets = text[:cut], offsets
                return
