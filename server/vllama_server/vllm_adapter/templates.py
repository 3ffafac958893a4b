"""Which chat template a model speaks, and whether vLLM is to be told or to look for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllama_server.vllm_adapter.profile import EngineProfile


def chat_template(tokenizer: Any, profile: EngineProfile) -> str:
    """Finds the template: the operator's, else the model's; empty when there is none."""
    path = profile.own_argument("chat_template")
    if path:
        from vllm.renderers.chat_utils import load_chat_template

        return str(load_chat_template(path))
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template or ""


def only_template(tokenizer: Any, profile: EngineProfile, *, is_multimodal: bool) -> str | None:
    """The template where there is no other; None where vLLM has to choose, by chat or by processor.

    Looking for one, vLLM tries the model's processor first, and for a model of text alone loads the tokenizer a second
    time: nearly half a second of the first chat.
    """
    has_one = isinstance(getattr(tokenizer, "chat_template", None), str) and not is_multimodal
    return chat_template(tokenizer, profile) if has_one or profile.own_argument("chat_template") else None
