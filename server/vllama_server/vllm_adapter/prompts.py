"""Prompts as token ids that fit the context, and the tokens of a generation that began on another worker.

Which generations are resumed and which are computed again is decided by `vllama_protos.continuation`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from vllm import envs
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.renderers import TokenizeParams
from vllm.renderers.chat_utils import parse_chat_messages_async
from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.utils.async_utils import make_async

from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1 import worker_pb2
from vllama_server.errors import CannotContinue, CapabilityMissing, ContextTooLong, EngineBusy, InvalidRequest
from vllama_server.vllm_adapter.chat import RenderRequest, render_request, shorter_versions
from vllama_server.vllm_adapter.model_description import fill_in_the_middle
from vllama_server.vllm_adapter.render_watch import RenderWatch

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllama_server.vllm_adapter.detokenizer import Vocabulary
    from vllama_server.vllm_adapter.model_description import Traits
    from vllama_server.vllm_adapter.template_renderer import TemplateRenderer

RENDER_SECONDS: float = envs.VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT
"""vLLM gives a render up after this time; its thread goes on."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered prompt."""

    token_ids: list[int]
    """The whole prompt."""
    engine_input: Any
    """vLLM's own form of it, with pictures where there are any."""
    request: RenderRequest | None = None
    """For a chat: vLLM's request, as the model's parser has adjusted it."""
    template_switches: dict[str, Any] | None = None
    """For a chat: the variables of the template."""
    dropped_messages: int = 0
    """Turns that were dropped to make it fit."""


class PromptRenderer:
    """Renders and tokenizes, in vLLM's own thread, never on the event loop.

    That thread serves every request, so a template that came with one is rendered elsewhere: by `client_templates`, or
    by `stored_templates` for those that /api/create stored.
    """

    def __init__(
        self,
        *,
        online: Any,
        renderer: Any,
        model_config: Any,
        vocabulary: Vocabulary,
        traits: Traits,
        capabilities: Collection[worker_pb2.Capability],
        client_templates: TemplateRenderer,
        stored_templates: TemplateRenderer,
    ) -> None:
        self._renders = RenderWatch()
        if isinstance(renderer, HfRenderer):
            timed = self._renders.timed(safe_apply_chat_template)
            renderer._apply_chat_template_async = make_async(timed, executor=renderer._executor)
        self._online = online
        self._renderer = renderer
        self._model_config = model_config
        self._vocabulary = vocabulary
        self._traits = traits
        self._capabilities = frozenset(capabilities)
        self._client_templates = client_templates
        self._stored_templates = stored_templates

    def stuck_seconds(self) -> float:
        """Returns how long a render of the model's own template has gone on after its request was refused for that."""
        return max(self._renders.longest_seconds() - RENDER_SECONDS, 0.0)

    async def render(self, request: pb.GenerateRequest, *, longest: int, structured_outputs: Any = None) -> Rendered:
        """Renders a prompt of at most `longest` tokens.

        Raises InvalidRequest, ContextTooLong with both lengths, CapabilityMissing.
        """
        match request.WhichOneof("input"):
            case "chat":
                return await self._render_chat(request, longest, structured_outputs)
            case "token_ids":
                token_ids = list(request.token_ids.ids)
            case _:
                token_ids = await self._tokenize(self._completion_text(request))
        self._check(token_ids, longest)
        return Rendered(token_ids, tokens_input(token_ids))

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        """Returns the tokens of a prompt and the text that was tokenized."""
        if request.WhichOneof("input") == "prompt":
            return pb.TokenizeResponse(token_ids=await self._tokenize(request.prompt), text=request.prompt)
        rendered = await self._render_messages(request.chat, request.chat.messages, None)
        text = self._renderer.get_tokenizer().decode(rendered.token_ids)
        return pb.TokenizeResponse(token_ids=rendered.token_ids, text=text)

    async def _tokenize(self, text: str) -> list[int]:
        parameters = TokenizeParams(max_total_tokens=None, add_special_tokens=True)
        try:
            (rendered,) = await self._renderer.render_cmpl_async(
                [parse_model_prompt(self._model_config, text)], parameters
            )
        except (VLLMClientError, ValueError, TypeError, MemoryError) as error:
            raise InvalidRequest(f"prompt: {error or 'it needs too much memory'}", "prompt") from error
        return list(rendered["prompt_token_ids"])

    def _completion_text(self, request: pb.GenerateRequest) -> str:
        if not request.suffix:
            return request.prompt
        self._require(worker_pb2.CAPABILITY_INSERT, "This model cannot fill a gap, so `suffix` must be empty.")
        return fill_in_the_middle(self._traits.fim, request.prompt, request.suffix)

    async def _render_chat(self, request: pb.GenerateRequest, longest: int, structured_outputs: Any) -> Rendered:
        chat, context = request.chat, request.context_token_ids
        whole = await self._render_messages(chat, chat.messages, structured_outputs, context)
        if len(whole.token_ids) <= longest or request.truncation != pb.TRUNCATION_DROP_OLDEST:
            self._check(whole.token_ids, longest)
            return whole
        return await self._shorten(chat, context, longest, structured_outputs, len(whole.token_ids))

    async def _shorten(
        self, chat: pb.Chat, context: Sequence[int], longest: int, structured_outputs: Any, length: int
    ) -> Rendered:
        """Finds by bisection the fewest turns to drop, so a long chat is rendered a few times only."""
        versions = shorter_versions(chat.messages)
        best, low, high = None, 0, len(versions)
        while low < high:
            middle = (low + high) // 2
            rendered = await self._render_messages(chat, versions[middle], structured_outputs, context)
            if len(rendered.token_ids) <= longest:
                best, high = rendered, middle
            else:
                low, length = middle + 1, len(rendered.token_ids)
        if best is None:
            raise _too_long(length, longest, " even after all older turns were dropped")
        self._check(best.token_ids, longest)
        return best

    async def _render_messages(
        self, chat: pb.Chat, messages: Sequence[pb.Message], structured_outputs: Any, context: Sequence[int] = ()
    ) -> Rendered:
        self._check_capabilities(chat)
        has_parser = bool(self._traits.tool_parser)
        request = render_request(chat, messages, has_tool_parser=has_parser, structured_outputs=structured_outputs)
        try:
            engine_input = await (self._by_given_template(chat, request) if chat.template else self._by_model(request))
        except TemplateError as error:
            raise InvalidRequest(f"chat: the model's template refuses these messages: {error}.", "chat") from error
        except (VLLMClientError, ValueError, TypeError, NotImplementedError, MemoryError) as error:
            raise InvalidRequest(f"chat: {error or 'it needs too much memory'}", "chat") from error
        token_ids = [*context, *engine_input["prompt_token_ids"]]
        return Rendered(
            token_ids=token_ids,
            engine_input={**engine_input, "prompt_token_ids": token_ids},
            request=request,
            template_switches=self._online.effective_chat_template_kwargs(request),
            dropped_messages=len(chat.messages) - len(messages),
        )

    async def _by_model(self, request: RenderRequest) -> Any:
        began_at = time.monotonic()
        try:
            rendered = await self._online.render_chat(request)
        except TimeoutError as error:
            if self._renders.longest_seconds() > time.monotonic() - began_at:
                raise EngineBusy("Another chat blocks the rendering of prompts; use another worker.") from error
            message = f"chat: the model's template takes more than {RENDER_SECONDS:g} s for these messages."
            raise InvalidRequest(message, "chat") from error
        if isinstance(rendered, ErrorResponse):
            raise InvalidRequest(f"chat: {rendered.error.message}", "chat")
        return rendered[1][0]

    async def _by_given_template(self, chat: pb.Chat, request: RenderRequest) -> Any:
        """Does what vLLM's `render_chat` does, with the template in a process of its own; vLLM never sees it."""
        if not isinstance(self._renderer, HfRenderer) or self._online.use_harmony:
            message = "chat.template: this model's prompts are not made by a template; leave it out."
            raise InvalidRequest(message, "chat.template")
        tokenizer, has_images = self._renderer.get_tokenizer(), any(message.images for message in chat.messages)
        messages, images, image_ids = await parse_chat_messages_async(request.messages, self._model_config, "string")
        parts = (await parse_chat_messages_async(request.messages, self._model_config, "openai"))[0]
        switches = self._online.effective_chat_template_kwargs(request)
        tools = [tool.model_dump() for tool in request.tools] if request.tools else None
        templates = self._stored_templates if chat.template_is_stored else self._client_templates
        text = await templates.render(
            {
                "template": chat.template,
                "messages": messages,
                "parts": parts if has_images else None,
                "variables": {**tokenizer.special_tokens_map, **switches, "tools": tools},
                "continue_last": chat.continue_last,
            }
        )
        prompt: dict[str, Any] = {"prompt": text}
        if images is not None:
            prompt |= {"multi_modal_data": images, "multi_modal_uuids": image_ids}
        (engine_input,) = await self._renderer.render_cmpl_async([prompt], request.build_tok_params(self._model_config))
        self._adjust_to_parser(request, switches)
        return engine_input

    def _adjust_to_parser(self, request: RenderRequest, switches: dict[str, Any]) -> None:
        """Lets the model's parser add what it needs of the output, as vLLM does after it has rendered a chat."""
        parser = self._online.parser
        if parser is None:
            return
        if parser.always_adjust_request or parser.reasoning_parser_cls is not None or request.tool_choice != "none":
            parser(
                self._renderer.get_tokenizer(),
                request.tools,
                model_config=self._model_config,
                chat_template_kwargs=switches,
            ).adjust_request(request=request)

    def _check_capabilities(self, chat: pb.Chat) -> None:
        if not chat.messages:
            raise InvalidRequest("chat.messages is empty; give at least one message.", "chat.messages")
        self._require(worker_pb2.CAPABILITY_CHAT, "This model has no chat template; send `prompt` instead of `chat`.")
        if chat.tools:
            self._require(worker_pb2.CAPABILITY_TOOLS, "This model's chat template knows no tools.")
        if any(message.images for message in chat.messages):
            self._require(worker_pb2.CAPABILITY_VISION, "This model sees no pictures.")
        if chat.think not in (pb.THINK_LEVEL_UNSPECIFIED, pb.THINK_LEVEL_OFF):
            self._require(worker_pb2.CAPABILITY_THINKING, "This model does not reason; leave `think` unset.")

    def _require(self, capability: worker_pb2.Capability, message: str) -> None:
        if capability not in self._capabilities:
            raise CapabilityMissing(message, capability)

    def _check(self, token_ids: Sequence[int], longest: int) -> None:
        if not token_ids:
            raise InvalidRequest("prompt is empty; give at least one token.", "prompt")
        unknown = next((token_id for token_id in token_ids if token_id not in self._vocabulary), None)
        if unknown is not None:
            raise InvalidRequest(f"token_ids holds {unknown}, which is not in the model's vocabulary.", "token_ids")
        if len(token_ids) > longest:
            raise _too_long(len(token_ids), longest, "")


def _too_long(length: int, longest: int, circumstance: str) -> ContextTooLong:
    return ContextTooLong(
        f"The prompt has {length} tokens{circumstance}; this context takes {longest} and one token of output. "
        "Shorten it, or serve the model with a larger --max-model-len."
    )


@dataclass(slots=True)
class DeliveredTokens:
    """Tokens that a generation, which is computed again, has to repeat."""

    token_ids: Sequence[int]
    checked: int = 0
    """How many have been repeated."""

    def take(self, token_ids: Sequence[int]) -> int:
        """Returns how many leading tokens of this output were delivered before.

        Raises CannotContinue when they differ from what was delivered.
        """
        expected = self.token_ids[self.checked : self.checked + len(token_ids)]
        if list(token_ids[: len(expected)]) != list(expected):
            raise CannotContinue(
                "This generation cannot be continued after its worker was lost: its outcome depends on a seed, a "
                "constraint or a penalty, and computing it again gave other tokens than those delivered."
            )
        self.checked += len(expected)
        return len(expected)
