"""From the body of /api/generate to the wire; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.ollama.shared_fields import fill_shared, to_images, to_think
from vllama_balancer.edge.wire.chat import check_template
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from vllama_balancer.edge.model_lookup import RequestedModel
    from vllama_balancer.edge.ollama.requests import GenerateBody

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
        wire.chat.CopyFrom(_chat(body, model, think))
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


def _chat(body: GenerateBody, model: RequestedModel, think: generation_pb2.ThinkLevel) -> generation_pb2.Chat:
    template = check_template(body.template) if body.template else model.entry.template
    chat = generation_pb2.Chat(think=think, template=template)
    system = model.entry.system if body.system is None else body.system
    if system:
        chat.messages.add(role="system", content=system)
    if not body.context:
        chat.messages.extend(model.entry.messages)
    chat.messages.add(role="user", content=body.prompt or "", images=to_images(body.images, model))
    return chat


def _plain_prompt(body: GenerateBody, model: RequestedModel) -> str:
    """A model without a chat template continues the system text and the prompt."""
    to_images(body.images, model)
    system = model.entry.system if body.system is None else body.system
    return f"{system}\n\n{body.prompt or ''}" if system else body.prompt or ""
