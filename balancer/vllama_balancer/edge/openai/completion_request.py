"""Requests of /v1/completions: decoded shape, and their translation to a generation.

The prompt is one turn of a chat, because Ollama applies the chat template here; only with a
`suffix` the model sees the bare texts around the gap.
"""

from __future__ import annotations

from typing import Any

from vllama_balancer.edge.openai.chat_request import StreamOptions  # noqa: TC001 - msgspec reads annotations at run time
from vllama_balancer.edge.openai.sampling import SamplingFields, to_sampling
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

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
        """Whether a stream ends with a chunk of counts."""
        return self.stream_options is not None and self.stream_options.include_usage is True


def to_generation(request: CompletionRequest) -> generation_pb2.GenerateRequest:
    """Translates a request, model and identity aside. Raises InvalidRequest that names the wrong field."""
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
    """Takes the one prompt of a request. Raises InvalidRequest when there is none or more than one text."""
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
