"""Translates the clients' requests into the wire's messages: pure functions, no I/O."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf import json_format

from vllama_clients.errors import InvalidRequest
from vllama_clients.messages import (
    ChatRequest,
    Choice,
    GenerateRequest,
    Grammar,
    JsonObject,
    JsonSchema,
    Message,
    Options,
    Regex,
    Sampling,
    ThinkLevel,
    Tool,
    ToolMode,
    Truncation,
)
from vllama_protos.errors import reason_text
from vllama_protos.v1 import embedding_pb2, generation_pb2
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllama_clients.messages import EmbedRequest, OutputFormat

ItemT = TypeVar("ItemT")

TRUNCATIONS = {
    Truncation.REJECT: generation_pb2.TRUNCATION_REJECT,
    Truncation.DROP_OLDEST: generation_pb2.TRUNCATION_DROP_OLDEST,
}
TOOL_MODES = {
    ToolMode.AUTO: generation_pb2.TOOL_CHOICE_MODE_AUTO,
    ToolMode.NONE: generation_pb2.TOOL_CHOICE_MODE_NONE,
    ToolMode.REQUIRED: generation_pb2.TOOL_CHOICE_MODE_REQUIRED,
}
THINK_LEVELS = {
    ThinkLevel.DEFAULT: generation_pb2.THINK_LEVEL_UNSPECIFIED,
    ThinkLevel.OFF: generation_pb2.THINK_LEVEL_OFF,
    ThinkLevel.ON: generation_pb2.THINK_LEVEL_ON,
    ThinkLevel.LOW: generation_pb2.THINK_LEVEL_LOW,
    ThinkLevel.MEDIUM: generation_pb2.THINK_LEVEL_MEDIUM,
    ThinkLevel.HIGH: generation_pb2.THINK_LEVEL_HIGH,
    ThinkLevel.MAX: generation_pb2.THINK_LEVEL_MAX,
}
INVALID_REQUEST = reason_text(ErrorReason.ERROR_REASON_INVALID_REQUEST)
OPTIONAL_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
)


def generation_request(request: GenerateRequest | ChatRequest) -> generation_pb2.GenerateRequest:
    """Builds the request of one generation. InvalidRequest for values that the wire cannot carry."""
    with _refusing():
        message = _with_options(request.options)
        message.model, message.request_id = request.model, request.request_id
        if isinstance(request, ChatRequest):
            message.chat.CopyFrom(chat(request))
            return message
        message.suffix = request.suffix
        if isinstance(request.prompt, str):
            message.prompt = request.prompt
        else:
            message.token_ids.CopyFrom(generation_pb2.TokenIds(ids=_listed("prompt", request.prompt)))
        return message


def tokenize_request(request: GenerateRequest | ChatRequest) -> generation_pb2.TokenizeRequest:
    """Builds the request that tokenizes a generation's input. InvalidRequest for token ids."""
    with _refusing():
        message = generation_pb2.TokenizeRequest(model=request.model)
        if isinstance(request, ChatRequest):
            message.chat.CopyFrom(chat(request))
        elif isinstance(request.prompt, str):
            message.prompt = request.prompt
        else:
            raise _refusal("prompt", "holds token ids already; tokenize takes text or a chat")
        return message


def embed_request(request: EmbedRequest) -> embedding_pb2.EmbedRequest:
    """Builds the request that embeds texts. InvalidRequest for values that the wire cannot carry."""
    with _refusing():
        return embedding_pb2.EmbedRequest(
            model=request.model,
            request_id=request.request_id,
            inputs=_listed("inputs", request.inputs),
            truncate=request.truncate,
            dimensions=request.dimensions,
            normalize=request.normalize,
        )


def detokenize_request(model: str, token_ids: Sequence[int]) -> generation_pb2.DetokenizeRequest:
    """Builds the request that turns ids into text. InvalidRequest for ids that the wire cannot carry."""
    with _refusing():
        return generation_pb2.DetokenizeRequest(model=model, token_ids=token_ids)


def chat(request: ChatRequest) -> generation_pb2.Chat:
    """Builds a conversation."""
    message = generation_pb2.Chat(
        messages=[_turn(turn) for turn in _listed("messages", request.messages)],
        tools=[_tool(tool) for tool in _listed("tools", request.tools)],
        tool_choice=_tool_choice(request.tool_choice),
        think=THINK_LEVELS[request.think],
        continue_last=request.continue_last,
        template=request.template,
    )
    json_format.ParseDict(dict(request.template_switches), message.template_switches)
    return message


def _with_options(options: Options) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        sampling=_sampling(options.sampling),
        output_format=None if options.output_format is None else _output_format(options.output_format),
        logprobs=options.top_logprobs is not None,
        top_logprobs=options.top_logprobs or 0,
        truncation=TRUNCATIONS[options.truncation],
        session=options.session,
        priority=options.priority,
        max_context_tokens=options.max_context_tokens,
        return_prompt_token_ids=options.return_prompt_token_ids,
    )


def _sampling(sampling: Sampling) -> generation_pb2.Sampling:
    message = generation_pb2.Sampling(stop=_listed("sampling.stop", sampling.stop))
    for name in OPTIONAL_SAMPLING:
        value = getattr(sampling, name)
        if value is not None:
            try:
                setattr(message, name, value)
            except (TypeError, ValueError) as error:
                raise _refusal(f"sampling.{name}", f"cannot be {value!r}: {error}") from error
    return message


def _output_format(output_format: OutputFormat) -> generation_pb2.OutputFormat:
    match output_format:
        case JsonObject():
            return generation_pb2.OutputFormat(json_object=True)
        case JsonSchema(schema):
            return generation_pb2.OutputFormat(json_schema=json.dumps(schema))
        case Regex(pattern):
            return generation_pb2.OutputFormat(regex=pattern)
        case Grammar(ebnf):
            return generation_pb2.OutputFormat(grammar=ebnf)
        case Choice(options):
            choice = generation_pb2.Choice(options=_listed("output_format.choice", options))
            return generation_pb2.OutputFormat(choice=choice)


def _turn(turn: Message) -> generation_pb2.Message:
    return generation_pb2.Message(
        role=turn.role,
        content=turn.content,
        images=[generation_pb2.Image(data=image) for image in _listed("messages.images", turn.images)],
        thinking=turn.thinking,
        tool_calls=[
            generation_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in _listed("messages.tool_calls", turn.tool_calls)
        ],
        tool_name=turn.tool_name,
        tool_call_id=turn.tool_call_id,
    )


def _tool(tool: Tool) -> generation_pb2.Tool:
    parameters_json = "" if tool.parameters is None else json.dumps(tool.parameters)
    return generation_pb2.Tool(name=tool.name, description=tool.description, parameters_json=parameters_json)


def _tool_choice(choice: ToolMode | str) -> generation_pb2.ToolChoice:
    if isinstance(choice, ToolMode):
        return generation_pb2.ToolChoice(mode=TOOL_MODES[choice])
    return generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_NAMED, name=choice)


def _listed(field: str, values: Sequence[ItemT]) -> Sequence[ItemT]:
    """Returns the values; a text or bytes, which Python takes for a sequence, is refused."""
    if isinstance(values, str | bytes):
        raise _refusal(field, f"is one {'text' if isinstance(values, str) else 'bytes object'}; put it in a list")
    return values


def _refusal(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {why}", code=grpc.StatusCode.INVALID_ARGUMENT, reason=INVALID_REQUEST, field=field)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turns what protobuf and json raise for a value of a wrong type or range into a server's InvalidRequest."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, json_format.ParseError) as error:
        raise InvalidRequest(
            f"the request has a value that cannot be sent: {error}",
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason=INVALID_REQUEST,
        ) from error
