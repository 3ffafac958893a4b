"""Translates the bodies of /api/chat and /api/generate into generations; pure.

Error messages are Ollama's own where tools match on them.
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

_LAST_TOKEN_ID = 2**32 - 1

_MOST_TOP_LOGPROBS = 20

_LEVELS = {
    "low": generation_pb2.THINK_LEVEL_LOW,
    "medium": generation_pb2.THINK_LEVEL_MEDIUM,
    "high": generation_pb2.THINK_LEVEL_HIGH,
    "max": generation_pb2.THINK_LEVEL_MAX,
}


def to_chat_request(body: ChatBody, model: RequestedModel) -> generation_pb2.GenerateRequest:
    """Translates a body of /api/chat.

    Raises InvalidRequest naming the field, CapabilityMissing for what the model cannot do.
    """
    model.require("completion", "chat")
    if body.tools:
        model.require("tools")
    generation = generation_pb2.GenerateRequest()
    _fill_shared(generation, body, model)
    if model.has("chat") is False:
        # A model without a chat template continues the conversation's text.
        chat = generation_pb2.Chat()
        _fill_chat(chat, body, model)
        generation.prompt = "\n\n".join(turn.content for turn in chat.messages)
    else:
        _fill_chat(generation.chat, body, model)
    return generation


def _fill_chat(chat: generation_pb2.Chat, body: ChatBody, model: RequestedModel) -> None:
    chat.think = to_think(body.think, model)
    turns = [_message(turn, f"messages[{index}]", model) for index, turn in enumerate(body.messages or ())]
    presets = model.entry.presets
    if presets.system and (not turns or turns[0].role != "system"):
        chat.messages.add(role="system", content=presets.system)
    chat.messages.extend(presets.messages)
    chat.messages.extend(turns)
    chat.template, chat.template_is_stored = presets.template, bool(presets.template)
    continue_unfinished(chat)
    chat.tools.extend(_tool(tool, f"tools[{index}].function") for index, tool in enumerate(body.tools or ()))


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
    """Returns the text of a JSON object; empty for null and for an absent one."""
    if raw in (b"", b"null"):
        return ""
    if not raw.startswith(b"{"):
        raise InvalidRequest(f"{field} must be an object", field=field)
    return compact_json(raw)


def to_generate_request(body: GenerateBody, model: RequestedModel) -> generation_pb2.GenerateRequest:
    """Translates a body of /api/generate.

    A plain prompt cannot carry `context`: its tokens are in `context_token_ids` all the same, and the caller puts
    them before the prompt's own. Raises InvalidRequest naming the field, CapabilityMissing for what the model
    cannot do.
    """
    _check(body, model)
    generation = generation_pb2.GenerateRequest()
    _fill_shared(generation, body, model)
    think = to_think(body.think, model)
    if body.suffix or body.raw:
        generation.prompt, generation.suffix = body.prompt or "", body.suffix or ""
    elif model.has("chat") is False:
        generation.prompt = _plain_prompt(body, model)
    else:
        _fill_prompt_chat(generation.chat, body, model, think)
    generation.context_token_ids.extend(body.context or ())
    # Without a template there is nothing that a later call could continue from.
    generation.return_prompt_token_ids = not body.raw
    return generation


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


def _fill_prompt_chat(
    chat: generation_pb2.Chat, body: GenerateBody, model: RequestedModel, think: generation_pb2.ThinkLevel
) -> None:
    """Makes the prompt one turn of a chat."""
    presets = model.entry.presets
    chat.think = think
    chat.template = check_template(body.template) if body.template else presets.template
    chat.template_is_stored = bool(presets.template) and not body.template
    system = presets.system if body.system is None else body.system
    if system:
        chat.messages.add(role="system", content=system)
    if not body.context:
        chat.messages.extend(presets.messages)
    chat.messages.add(role="user", content=body.prompt or "", images=to_images(body.images, model))


def _plain_prompt(body: GenerateBody, model: RequestedModel) -> str:
    """Returns the text that a model without a chat template continues: system text and prompt."""
    to_images(body.images, model)
    system = model.entry.presets.system if body.system is None else body.system
    return f"{system}\n\n{body.prompt or ''}" if system else body.prompt or ""


def check_top_logprobs(body: GenerationBody) -> None:
    """Raises InvalidRequest for a number outside 0..20; comes before everything about the model."""
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= _MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {_MOST_TOP_LOGPROBS}", field="top_logprobs")


def _fill_shared(generation: generation_pb2.GenerateRequest, body: GenerationBody, model: RequestedModel) -> None:
    """Fills in what both kinds of request have. Raises InvalidRequest naming the field."""
    options = resolve_options(body.options or {}, model.entry)
    generation.sampling.CopyFrom(to_sampling(options))
    generation.max_context_tokens = context_tokens(options, model.entry)
    # Only an explicit false refuses an over-long chat; a single prompt that does not fit is refused anyway.
    drop_oldest = body.truncate is not False
    generation.truncation = generation_pb2.TRUNCATION_DROP_OLDEST if drop_oldest else generation_pb2.TRUNCATION_REJECT
    output_format = to_output_format(body.format)
    if output_format is not None:
        generation.output_format.CopyFrom(output_format)
    if body.logprobs:
        generation.logprobs = True
        generation.top_logprobs = body.top_logprobs or 0


def to_output_format(raw: msgspec.Raw) -> generation_pb2.OutputFormat | None:
    """Translates `format`: absent, "json", or a JSON schema."""
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
    """Returns the error for a format that cannot be served."""
    message = f'invalid format: {what}; expected "json" or a valid JSON Schema object'
    return InvalidRequest(message, field="format")


def to_think(value: object, model: RequestedModel) -> generation_pb2.ThinkLevel:
    """Translates `think`; a model with thinking does so by default.

    Raises InvalidRequest for a wrong value, CapabilityMissing for a model without thinking.
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
    """Decodes base64 images, with or without a `data:` prefix. Vision is required only if there are any."""
    if not texts:
        return []
    model.require("vision")
    return [decode_base64_image(_without_prefix(text), f"{field}[{index}]") for index, text in enumerate(texts)]


def _without_prefix(text: str) -> str:
    return text.partition(",")[2] if text.startswith("data:") else text
