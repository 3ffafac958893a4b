"""From the body of /api/chat to the wire; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.body import compact_json
from vllama_balancer.edge.ollama.shared_fields import fill_shared, to_images, to_think
from vllama_balancer.edge.wire.chat import continue_unfinished
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.ollama.requests import ChatBody, FunctionCall, Message, Tool


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
    if model.entry.system and (not turns or turns[0].role != "system"):
        chat.messages.add(role="system", content=model.entry.system)
    chat.messages.extend(model.entry.messages)
    chat.messages.extend(turns)
    chat.template = model.entry.template
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
