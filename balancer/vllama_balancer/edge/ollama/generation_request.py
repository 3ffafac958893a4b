"""From the body of /api/chat to the wire; pure.

From the body of /api/generate to the wire; pure.

Fields that generate and chat share: format, think, images, logprobs; to the wire.

Messages are Ollama's own where tools match on them. All of it is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.body import compact_json
from vllama_balancer.edge.ollama.options import context_tokens, resolve_options, to_sampling
from vllama_balancer.edge.wire.chat import check_template, continue_unfinished
from vllama_balancer.edge.wire.images import decode_base64_image
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.ollama.schema import ChatBody, FunctionCall, GenerateBody, GenerationBody, Message, Tool


def to_chat_request(body: ChatBody, model: RequestedModel) -> generation_pb2.GenerateRequest:
    """Translates a body.

    Raises InvalidRequest naming the field, CapabilityMissing for what the model cannot do.
    """
    model.require("completion", "chat")
    if body.tools:
        model.require("tools")
    wire = generation_pb2.GenerateRequest()
    fill_shared(wire, body, model)
    chat = _chat(body, model)
    if model.has("chat") is False:
        # A model without a chat template continues the conversation's text.
        wire.prompt = "\n\n".join(turn.content for turn in chat.messages)
    else:
        wire.chat.CopyFrom(chat)
    return wire


def _chat(body: ChatBody, model: RequestedModel) -> generation_pb2.Chat:
    chat = generation_pb2.Chat(think=to_think(body.think, model))
    turns = [_message(turn, f"messages[{index}]", model) for index, turn in enumerate(body.messages or ())]
    if model.entry.presets.system and (not turns or turns[0].role != "system"):
        chat.messages.add(role="system", content=model.entry.presets.system)
    chat.messages.extend(model.entry.presets.messages)
    chat.messages.extend(turns)
    chat.template = model.entry.presets.template
    continue_unfinished(chat)
    chat.tools.extend(_tool(tool, f"tools[{index}].function") for index, tool in enumerate(body.tools or ()))
    return chat


def _message(turn: Message, field: str, model: RequestedModel) -> generation_pb2.Message:
    calls = [call.function for call in turn.tool_calls or () if call.function is not None]
    ids = [call.id or "" for call in turn.tool_calls or () if call.function is not None]
    return generation_pb2.Message(
        role=(turn.role or "").lower(),
        content=turn.content or "",
        thinking=turn.thinking or "",
        images=to_images(turn.images, model, f"{field}.images"),
        tool_calls=[
            _tool_call(call, call_id, f"{field}.tool_calls[{index}].function")
            for index, (call, call_id) in enumerate(zip(calls, ids, strict=True))
        ],
        tool_name=turn.tool_name or turn.name or "",
        tool_call_id=turn.tool_call_id or "",
    )


def _tool_call(call: FunctionCall, call_id: str, field: str) -> generation_pb2.ToolCall:
    if not call.name:
        raise InvalidRequest(f"{field}.name is required", field=f"{field}.name")
    arguments = _object_text(bytes(call.arguments), f"{field}.arguments")
    return generation_pb2.ToolCall(id=call_id, name=call.name, arguments_json=arguments or "{}")


def _tool(tool: Tool, field: str) -> generation_pb2.Tool:
    function = tool.function
    if function is None or not function.name:
        raise InvalidRequest(f"{field}.name is required", field=f"{field}.name")
    parameters = _object_text(bytes(function.parameters), f"{field}.parameters")
    return generation_pb2.Tool(name=function.name, description=function.description or "", parameters_json=parameters)


def _object_text(raw: bytes, field: str) -> str:
    """Passes a JSON object on as text; null and nothing are empty."""
    if raw in (b"", b"null"):
        return ""
    if not raw.startswith(b"{"):
        raise InvalidRequest(f"{field} must be an object", field=field)
    return compact_json(raw)


_LAST_TOKEN_ID = 2**32 - 1


def to_generate_request(body: GenerateBody, model: RequestedModel) -> generation_pb2.GenerateRequest:
    """Translates a body.

    A plain prompt cannot carry `context`: its tokens are in `context_token_ids` all the same, and
    the caller puts them before the prompt's own. Raises InvalidRequest naming the field,
    CapabilityMissing for what the model cannot do.
    """
    _check(body, model)
    wire = generation_pb2.GenerateRequest()
    fill_shared(wire, body, model)
    think = to_think(body.think, model)
    if body.suffix or body.raw:
        wire.prompt, wire.suffix = body.prompt or "", body.suffix or ""
    elif model.has("chat") is False:
        wire.prompt = _plain_prompt(body, model)
    else:
        wire.chat.CopyFrom(_prompt_chat(body, model, think))
    wire.context_token_ids.extend(body.context or ())
    # Without a template there is nothing that a later call could continue from.
    wire.return_prompt_token_ids = not body.raw
    return wire


def _check(body: GenerateBody, model: RequestedModel) -> None:
    if body.raw and (body.template or body.system or body.context):
        raise InvalidRequest("raw mode does not support template, system, or context", field="raw")
    model.require("completion", "generate")
    if body.suffix:
        model.require("insert")
    if body.images and (body.raw or body.suffix):
        raise InvalidRequest("images need the chat template: leave out raw and suffix", field="images")
    for token_id in body.context or ():
        if not 0 <= token_id <= _LAST_TOKEN_ID:
            raise InvalidRequest(f"context contains {token_id}, which is no token id", field="context")


def _prompt_chat(body: GenerateBody, model: RequestedModel, think: generation_pb2.ThinkLevel) -> generation_pb2.Chat:
    template = check_template(body.template) if body.template else model.entry.presets.template
    chat = generation_pb2.Chat(think=think, template=template)
    system = model.entry.presets.system if body.system is None else body.system
    if system:
        chat.messages.add(role="system", content=system)
    if not body.context:
        chat.messages.extend(model.entry.presets.messages)
    chat.messages.add(role="user", content=body.prompt or "", images=to_images(body.images, model))
    return chat


def _plain_prompt(body: GenerateBody, model: RequestedModel) -> str:
    """A model without a chat template continues the system text and the prompt."""
    to_images(body.images, model)
    system = model.entry.presets.system if body.system is None else body.system
    return f"{system}\n\n{body.prompt or ''}" if system else body.prompt or ""


_MOST_TOP_LOGPROBS = 20

_LEVELS = {
    "low": generation_pb2.THINK_LEVEL_LOW,
    "medium": generation_pb2.THINK_LEVEL_MEDIUM,
    "high": generation_pb2.THINK_LEVEL_HIGH,
    "max": generation_pb2.THINK_LEVEL_MAX,
}


def check_top_logprobs(body: GenerationBody) -> None:
    """Raises InvalidRequest for a number outside 0..20; comes before everything about the model."""
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= _MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {_MOST_TOP_LOGPROBS}", field="top_logprobs")


def fill_shared(wire: generation_pb2.GenerateRequest, body: GenerationBody, model: RequestedModel) -> None:
    """Fills in what both kinds of request have. Raises InvalidRequest naming the field."""
    options = resolve_options(body.options or {}, model.entry)
    wire.sampling.CopyFrom(to_sampling(options))
    wire.max_context_tokens = context_tokens(options, model.entry)
    # False alone refuses an over-long chat; a single prompt that does not fit is refused anyway.
    drop_oldest = body.truncate is not False
    wire.truncation = generation_pb2.TRUNCATION_DROP_OLDEST if drop_oldest else generation_pb2.TRUNCATION_REJECT
    output_format = to_output_format(body.format)
    if output_format is not None:
        wire.output_format.CopyFrom(output_format)
    if body.logprobs:
        wire.logprobs = True
        wire.top_logprobs = body.top_logprobs or 0


def to_output_format(raw: msgspec.Raw) -> generation_pb2.OutputFormat | None:
    """Translates `format`: nothing, "json", or a JSON schema."""
    if bytes(raw) in (b"", b"null"):
        return None
    text = compact_json(raw)
    if text == '""':
        return None
    if text == '"json"':
        return generation_pb2.OutputFormat(json_object=True)
    if text.startswith("{"):
        return generation_pb2.OutputFormat(json_schema=text)
    raise invalid_format(text)


def invalid_format(what: str) -> InvalidRequest:
    """Makes the error for a format that cannot be served."""
    message = f'invalid format: {what}; expected "json" or a valid JSON Schema object'
    return InvalidRequest(message, field="format")


def to_think(value: object, model: RequestedModel) -> generation_pb2.ThinkLevel:
    """Translates `think`; a model that can reason does so unless told not to.

    Raises InvalidRequest for a wrong value, CapabilityMissing for a model that cannot.
    """
    can_think = model.has("thinking")
    level = _level(value)
    if level is None:
        return generation_pb2.THINK_LEVEL_ON if can_think else generation_pb2.THINK_LEVEL_UNSPECIFIED
    if level == generation_pb2.THINK_LEVEL_OFF:
        return level if can_think else generation_pb2.THINK_LEVEL_UNSPECIFIED
    model.require("thinking")
    return level


def _level(value: object) -> generation_pb2.ThinkLevel | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return generation_pb2.THINK_LEVEL_ON if value else generation_pb2.THINK_LEVEL_OFF
    if not isinstance(value, str):
        raise InvalidRequest("think must be a boolean or string", field="think")
    if value not in _LEVELS:
        message = f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)'
        raise InvalidRequest(message, field="think")
    return _LEVELS[value]


def to_images(texts: Sequence[str] | None, model: RequestedModel, field: str = "images") -> list[generation_pb2.Image]:
    """Decodes base64 pictures; none at all needs no vision. A `data:` prefix is accepted."""
    if not texts:
        return []
    model.require("vision")
    return [decode_base64_image(_without_prefix(text), f"{field}[{index}]") for index, text in enumerate(texts)]


def _without_prefix(text: str) -> str:
    return text.partition(",")[2] if text.startswith("data:") else text
