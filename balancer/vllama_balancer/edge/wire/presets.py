"""Applies a model's presets (system text, turns, template, options) beneath the values of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_balancer.edge.wire.bounds import INT32_MAX, INT64_MAX, clamp_int32
from vllama_balancer.preset_options import option_values
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_protos.v1 import presets_pb2

_SAMPLING: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", lambda value: clamp_int32(int(value))),
    "min_p": ("min_p", float),
    "seed": ("seed", lambda value: max(-1, min(int(value), INT64_MAX))),
    "num_predict": ("max_tokens", lambda value: clamp_int32(int(value))),
    "repeat_penalty": ("repetition_penalty", float),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
}
"""Ollama's name of an option, the field of Sampling, and the conversion of its value."""


def apply_presets(presets: presets_pb2.ModelPresets, generation: generation_pb2.GenerateRequest) -> None:
    """Fills what a request leaves open; what it sets stays."""
    values = option_values(presets.options)
    sampling = generation.sampling
    if generation.chat.messages:
        _apply_to_chat(presets, generation.chat)
    for name, (field, convert) in _SAMPLING.items():
        if values.get(name) is not None and not sampling.HasField(field):
            setattr(sampling, field, convert(values[name]))
    if values.get("stop") and not sampling.stop:
        stop = values["stop"]
        sampling.stop.extend([stop] if isinstance(stop, str) else stop)
    if values.get("num_ctx") and not generation.max_context_tokens:
        generation.max_context_tokens = max(0, min(int(values["num_ctx"]), INT32_MAX))


def _apply_to_chat(presets: presets_pb2.ModelPresets, chat: generation_pb2.Chat) -> None:
    """Puts system text and turns before a conversation, unless that begins with a system text of its own."""
    chat.template, chat.template_is_stored = presets.template, bool(presets.template)
    opening = list(presets.messages)
    if presets.system and chat.messages[0].role != "system":
        opening.insert(0, generation_pb2.Message(role="system", content=presets.system))
    if opening:
        turns = list(chat.messages)
        del chat.messages[:]
        chat.messages.extend([*opening, *turns])
