"""Prompts of the contract as token ids that fit the context.

How a generation that began on another worker goes on here.

Usually the delivered tokens are put behind the prompt and the model continues after them: what
follows is conditioned on exactly what the client was given. Three things live outside the tokens,
though, and would be lost: the state of a grammar, the position in a seeded random stream, and the
counts behind presence and frequency penalties. Such a generation is computed again from its start
and must come to the delivered tokens by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.inputs import tokens_input
from vllm.renderers import TokenizeParams
from vllm.renderers.inputs.preprocess import parse_model_prompt

from vllama_server.engine.description import Capability
from vllama_server.engine.requests import ChatPrompt, TextPrompt, ThinkLevel, TokenPrompt
from vllama_server.errors import CapabilityMissing, ContextTooLong, EngineFault, InvalidRequest
from vllama_server.vllm_adapter.chat import RenderRequest, render_request, shorter_versions
from vllama_server.vllm_adapter.model_description import fill_in_the_middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm import SamplingParams

    from vllama_server.engine.requests import Message, Prompt
    from vllama_server.vllm_adapter.detokenizer import Vocabulary
    from vllama_server.vllm_adapter.model_description import Traits


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the engine takes it."""

    token_ids: list[int]
    """The whole prompt."""
    engine_input: Any
    """vLLM's own form of it, with pictures where there are any."""
    request: RenderRequest | None = None
    """For a chat: vLLM's request, as the model's parser has adjusted it."""
    template_switches: dict[str, Any] | None = None
    """For a chat: what the template was told."""
    dropped_messages: int = 0
    """Turns that were dropped to make it fit."""


class PromptRenderer:
    """Renders and tokenizes, in vLLM's own thread, never on the event loop."""

    def __init__(
        self,
        *,
        online: Any,
        renderer: Any,
        model_config: Any,
        vocabulary: Vocabulary,
        traits: Traits,
        capabilities: frozenset[Capability],
    ) -> None:
        self._online = online
        self._renderer = renderer
        self._model_config = model_config
        self._vocabulary = vocabulary
        self._traits = traits
        self._capabilities = capabilities

    async def render(
        self, prompt: Prompt, *, longest: int, drop_oldest: bool = False, structured_outputs: Any = None
    ) -> Rendered:
        """Renders a prompt of at most `longest` tokens.

        Raises InvalidRequest, ContextTooLong with both lengths, CapabilityMissing.
        """
        if isinstance(prompt, ChatPrompt):
            return await self._render_chat(prompt, longest, drop_oldest, structured_outputs)
        token_ids = list(prompt.token_ids) if isinstance(prompt, TokenPrompt) else await self._tokenize(prompt)
        self._check(token_ids, longest)
        return Rendered(token_ids, tokens_input(token_ids))

    async def text(self, prompt: TextPrompt | ChatPrompt) -> tuple[list[int], str]:
        """Returns the tokens of a prompt and the text that was tokenized."""
        if isinstance(prompt, TextPrompt):
            return await self._tokenize(prompt), self._completion_text(prompt)
        rendered = await self._render_messages(prompt, prompt.messages, None)
        return rendered.token_ids, self._renderer.get_tokenizer().decode(rendered.token_ids)

    async def _tokenize(self, prompt: TextPrompt) -> list[int]:
        text = self._completion_text(prompt)
        parameters = TokenizeParams(max_total_tokens=None, add_special_tokens=True)
        try:
            (rendered,) = await self._renderer.render_cmpl_async(
                [parse_model_prompt(self._model_config, text)], parameters
            )
        except (VLLMClientError, ValueError, TypeError) as error:
            raise InvalidRequest(f"prompt: {error}", "prompt") from error
        return list(rendered["prompt_token_ids"])

    def _completion_text(self, prompt: TextPrompt) -> str:
        if not prompt.suffix:
            return prompt.text
        self._require(Capability.INSERT, "This model cannot fill a gap, so `suffix` must be empty.")
        return fill_in_the_middle(self._traits.fim, prompt.text, prompt.suffix)

    async def _render_chat(
        self, chat: ChatPrompt, longest: int, drop_oldest: bool, structured_outputs: Any
    ) -> Rendered:
        whole = await self._render_messages(chat, chat.messages, structured_outputs)
        if len(whole.token_ids) <= longest or not drop_oldest:
            self._check(whole.token_ids, longest)
            return whole
        return await self._shorten(chat, longest, structured_outputs, len(whole.token_ids))

    async def _shorten(self, chat: ChatPrompt, longest: int, structured_outputs: Any, length: int) -> Rendered:
        """Finds by bisection the fewest turns to drop, so a long chat is rendered a few times only."""
        versions = shorter_versions(chat.messages)
        best, low, high = None, 0, len(versions)
        while low < high:
            middle = (low + high) // 2
            rendered = await self._render_messages(chat, versions[middle], structured_outputs)
            if len(rendered.token_ids) <= longest:
                best, high = rendered, middle
            else:
                low, length = middle + 1, len(rendered.token_ids)
        if best is None:
            raise _too_long(length, longest, " even after all older turns were dropped")
        return best

    async def _render_messages(
        self, chat: ChatPrompt, messages: Sequence[Message], structured_outputs: Any
    ) -> Rendered:
        self._check_capabilities(chat)
        has_parser = bool(self._traits.tool_parser)
        request = render_request(chat, messages, has_tool_parser=has_parser, structured_outputs=structured_outputs)
        try:
            rendered = await self._online.render_chat(request)
        except TemplateError as error:
            raise InvalidRequest(f"chat: the model's template refuses these messages: {error}.", "chat") from error
        except (VLLMClientError, ValueError, TypeError, NotImplementedError) as error:
            raise InvalidRequest(f"chat: {error}", "chat") from error
        if isinstance(rendered, ErrorResponse):
            raise InvalidRequest(f"chat: {rendered.error.message}", "chat")
        engine_input = rendered[1][0]
        token_ids = [*chat.context_token_ids, *engine_input["prompt_token_ids"]]
        return Rendered(
            token_ids=token_ids,
            engine_input={**engine_input, "prompt_token_ids": token_ids},
            request=request,
            template_switches=self._online.effective_chat_template_kwargs(request),
            dropped_messages=len(chat.messages) - len(messages),
        )

    def _check_capabilities(self, chat: ChatPrompt) -> None:
        if not chat.messages:
            raise InvalidRequest("chat.messages is empty; give at least one message.", "chat.messages")
        self._require(Capability.CHAT, "This model has no chat template; send `prompt` instead of `chat`.")
        if chat.tools:
            self._require(Capability.TOOLS, "This model's chat template knows no tools.")
        if any(message.images for message in chat.messages):
            self._require(Capability.VISION, "This model sees no pictures.")
        if chat.think not in (ThinkLevel.DEFAULT, ThinkLevel.OFF):
            self._require(Capability.THINKING, "This model does not reason; leave `think` unset.")

    def _require(self, capability: Capability, message: str) -> None:
        if capability not in self._capabilities:
            raise CapabilityMissing(message, capability.value)

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


def must_replay(parameters: SamplingParams) -> bool:
    """Whether something beside the tokens decides how the generation goes on."""
    draws_from_seed = parameters.seed is not None and parameters.temperature > 0
    counts_tokens = parameters.presence_penalty != 0 or parameters.frequency_penalty != 0
    return bool(parameters.structured_outputs is not None or draws_from_seed or counts_tokens)


@dataclass(slots=True)
class DeliveredTokens:
    """Checks a generation that is computed again against what was delivered of it."""

    token_ids: Sequence[int]
    """The tokens that must come again."""
    checked: int = 0
    """How many have come."""

    def take(self, token_ids: Sequence[int]) -> int:
        """Counts the leading tokens of this output that were delivered before.

        Raises EngineFault when they differ from what was delivered: the stream cannot go on.
        """
        expected = self.token_ids[self.checked : self.checked + len(token_ids)]
        if list(token_ids[: len(expected)]) != list(expected):
            raise EngineFault(
                "This generation cannot be continued after its worker was lost: its outcome depends on a seed, a "
                "constraint or a penalty, and computing it again gave other tokens than those delivered."
            )
        self.checked += len(expected)
        return len(expected)
