"""The check of one generation's stream: every event of it, not its text alone.

The simulated engine's token i is the text " {h}.{i}", h being the first four hex digits of the SHA-256 of the rendered
prompt, and its id is made of the same two numbers. So a lost, repeated or foreign token shows in texts and in ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from vllama_protos.v1 import generation_pb2
from vllama_server.fake_engine import tokens as simulated

LENGTH = generation_pb2.FINISH_REASON_LENGTH


def expected_text(prompt: str, tokens: int, first: int = 0) -> str:
    """Returns the tokens `first` to `tokens` of the simulated engine's answer."""
    mark = hashlib.sha256(prompt.encode()).hexdigest()[:4]
    return "".join(f" {mark}.{index}" for index in range(first, tokens))


def expected_ids(prompt: str, tokens: int) -> list[int]:
    """Returns the ids of the simulated engine's answer."""
    hash16 = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:2], "big")
    return [simulated.output_id(hash16, index) for index in range(tokens)]


@dataclass
class StreamCheck:
    """Follows the events of one stream: one `started`, first; deltas; one `finished`, last."""

    started: generation_pb2.Started | None = None
    finished: generation_pb2.Finished | None = None
    text: str = ""
    thinking: str = ""
    token_ids: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What is wrong with the order of the events and with the end."""

    def add(self, event: generation_pb2.GenerateResponse) -> None:
        """Takes the next event."""
        kind = event.WhichOneof("event")
        if self.finished is not None:
            self.faults.append(f"{kind} after finished")
        if (kind == "started") != (self.started is None):
            self.faults.append(f"{kind} {'before' if self.started is None else 'after'} started")
        if kind == "started":
            self.started = event.started
        elif kind == "finished":
            self.finished = event.finished
        else:
            self._add_delta(event.delta)

    def _add_delta(self, delta: generation_pb2.Delta) -> None:
        self.text += delta.text
        self.thinking += delta.thinking
        self.token_ids += delta.token_ids
        if delta.logprobs and [entry.token.id for entry in delta.logprobs] != list(delta.token_ids):
            self.faults.append("logprobs of other tokens")

    def differences(self, text: str, ids: list[int], reason: int = LENGTH) -> list[str]:
        """Returns what is wrong with the whole stream, which should have been this text of these tokens."""
        found = list(self.faults)
        if self.text != text:
            found.append(f"text {self.text[-40:]!r} instead of {text[-40:]!r}")
        if self.token_ids != ids:
            found.append(f"{len(self.token_ids)} token ids, or others than the {len(ids)} expected")
        if self.thinking:
            found.append("thinking")
        if self.finished is None:
            found.append("no finished")
        else:
            found += self._ends_otherwise(len(ids), reason)
        return found

    def _ends_otherwise(self, tokens: int, reason: int) -> list[str]:
        assert self.finished is not None
        found = []
        if self.finished.reason != reason:
            found.append(f"reason {generation_pb2.FinishReason.Name(self.finished.reason)}")
        if self.finished.usage.completion_tokens != tokens:
            found.append(f"{self.finished.usage.completion_tokens} tokens counted")
        return found
