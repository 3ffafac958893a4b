"""The body of /v1/completions, translated into a generation; and its replies: one object, or chunks.

The prompt is one turn of a chat, because Ollama applies the chat template here. Only with a `suffix` the model gets
the bare texts around the gap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from vllama_balancer.edge.openai.chat_reply import finish_reason
from vllama_balancer.edge.openai.chat_request import StreamOptions  # noqa: TC001 - msgspec reads annotations at run time
from vllama_balancer.edge.openai.reply_fields import FINGERPRINT, NO_USAGE, Usage, to_usage
from vllama_balancer.edge.openai.sampling import SamplingFields, to_sampling
from vllama_balancer.edge.wire.accumulator import check_completed
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllama_balancer.edge.openai.reply_fields import ReplyIdentity
    from vllama_balancer.edge.wire.accumulator import Accumulator, Event

MOST_LOGPROBS = 20


class CompletionRequest(SamplingFields, frozen=True, kw_only=True):
    """Body of /v1/completions; unknown fields are ignored, null counts as absent."""

    model: str | None = None
    prompt: str | list[Any] | None = None
    suffix: str | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    logprobs: int | None = None
    n: int | None = None
    user: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage is True


def to_generation(request: CompletionRequest) -> generation_pb2.GenerateRequest:
    """Translates a request, except for model and id. Raises InvalidRequest that names the wrong field."""
    _check_logprobs(request)
    generation = generation_pb2.GenerateRequest(
        sampling=to_sampling(request, request.max_tokens),
        logprobs=request.logprobs is not None,
        top_logprobs=request.logprobs or 0,
        session=request.user or "",
    )
    prompt = prompt_of(request)
    if request.suffix:
        generation.prompt = prompt
        generation.suffix = request.suffix
    else:
        generation.chat.messages.add(role="user", content=prompt)
    return generation


def prompt_of(request: CompletionRequest) -> str:
    """Returns the only prompt. Raises InvalidRequest when there is none, or more than one text."""
    match request.prompt:
        case str() as prompt:
            return prompt
        case [str() as prompt]:
            return prompt
        case None:
            raise InvalidRequest("prompt is required", field="prompt")
    message = "prompt must be a string, or an array of one string: send one request for each prompt"
    raise InvalidRequest(message, field="prompt")


def _check_logprobs(request: CompletionRequest) -> None:
    if request.logprobs is None:
        return
    if not 0 <= request.logprobs <= MOST_LOGPROBS:
        raise InvalidRequest(f"logprobs must be between 0 and {MOST_LOGPROBS}", field="logprobs")
    if request.echo and request.max_tokens == 0:
        message = "logprobs of the prompt are not computed: echo with logprobs needs max_tokens of 1 or more"
        raise InvalidRequest(message, field="logprobs")


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Parallel lists, one position for each token; an echoed prompt is one position without numbers."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One text, or what a chunk adds to it."""

    text: str
    index: int
    finish_reason: str | None
    logprobs: Logprobs | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole reply, or one event of a stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: list[Choice]
    usage: Usage | UnsetType = UNSET


def to_completion(identity: ReplyIdentity, choices: Sequence[Accumulator], *, echo: str, logprobs: bool) -> Completion:
    """Returns a whole reply; `echo` is put before each text."""
    return Completion(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[_to_choice(index, choice, echo, logprobs) for index, choice in enumerate(choices)],
        usage=to_usage(choice.finished.usage for choice in choices),
    )


def _to_choice(index: int, accumulator: Accumulator, echo: str, logprobs: bool) -> Choice:
    offsets = _Offsets(echo)
    return Choice(
        text=echo + accumulator.text,
        index=index,
        finish_reason=finish_reason(accumulator.finished.reason, called=False),
        logprobs=offsets.take(accumulator.logprobs) if logprobs else UNSET,
    )


class CompletionStream:
    """Turns events into chunks; keeps a small state per choice."""

    def __init__(
        self, identity: ReplyIdentity, choices: int, *, echo: str, logprobs: bool, include_usage: bool
    ) -> None:
        self._identity = identity
        self._states = [_ChoiceState(echo, _Offsets(echo)) for _ in range(choices)]
        self._logprobs = logprobs
        self._include_usage = include_usage

    def chunks(self, choice: int, event: Event) -> list[Completion]:
        """Translates one event of one choice. Raises WorkerLost for an aborted generation."""
        match event:
            case generation_pb2.Delta() if event.text or event.logprobs:
                return [self._delta(choice, event)]
            case generation_pb2.Finished():
                return [self._finish(choice, check_completed(event))]
        return []

    def closing(self) -> list[Completion]:
        """Returns the chunk of token counts that ends the stream, if requested."""
        if not self._include_usage:
            return []
        return [self._chunk([], to_usage(state.usage for state in self._states))]

    def _delta(self, choice: int, delta: generation_pb2.Delta) -> Completion:
        state = self._states[choice]
        logprobs = state.offsets.take(delta.logprobs) if self._logprobs else UNSET
        text = state.take_echo() + delta.text
        return self._chunk([Choice(text=text, index=choice, finish_reason=None, logprobs=logprobs)])

    def _finish(self, choice: int, finished: generation_pb2.Finished) -> Completion:
        state = self._states[choice]
        state.usage = finished.usage
        reason = finish_reason(finished.reason, called=False)
        return self._chunk([Choice(text=state.take_echo(), index=choice, finish_reason=reason)])

    def _chunk(self, choices: list[Choice], usage: Usage = NO_USAGE) -> Completion:
        identity = self._identity
        return Completion(
            id=identity.id,
            created=identity.created,
            model=identity.model,
            choices=choices,
            # As in Ollama, every chunk has counts if they were requested; all but the last are 0.
            usage=usage if self._include_usage else UNSET,
        )


@dataclass(slots=True)
class _ChoiceState:
    echo: str
    offsets: _Offsets
    usage: generation_pb2.Usage = field(default_factory=generation_pb2.Usage)

    def take_echo(self) -> str:
        """Returns the echoed prompt at the first call, nothing later."""
        echo, self.echo = self.echo, ""
        return echo


class _Offsets:
    """Counts the offset of each token within the text."""

    def __init__(self, echo: str) -> None:
        self._echo = echo
        self._offset = 0

    def take(self, entries: Iterable[generation_pb2.TokenLogprobs]) -> Logprobs:
        """Returns the log probabilities of the next tokens, with their offsets."""
        logprobs = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        if self._echo:
            self._append(logprobs, self._echo, None, None)
            self._echo = ""
        for entry in entries:
            top = {rival.text: rival.logprob for rival in entry.top}
            # The chosen token is always listed, even if it was not among the best.
            top.setdefault(entry.token.text, entry.token.logprob)
            self._append(logprobs, entry.token.text, entry.token.logprob, top)
        return logprobs

    def _append(self, logprobs: Logprobs, token: str, logprob: float | None, top: dict[str, float] | None) -> None:
        logprobs.tokens.append(token)
        logprobs.token_logprobs.append(logprob)
        logprobs.top_logprobs.append(top)
        logprobs.text_offset.append(self._offset)
        self._offset += len(token)
