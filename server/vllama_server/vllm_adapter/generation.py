"""One generation on a loaded engine: render, compute, assemble, finish."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllama_protos.continuation import must_replay
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine import events
from vllama_server.errors import EngineFault
from vllama_server.vllm_adapter.detokenizer import DecodeOptions, Detokenizer, token_logprobs
from vllama_server.vllm_adapter.engine_config import CONSTRAINT_BACKEND
from vllama_server.vllm_adapter.errors import translate
from vllama_server.vllm_adapter.json_schema import enforceable
from vllama_server.vllm_adapter.output_parser import Assembler, OutputParser
from vllama_server.vllm_adapter.prompts import DeliveredTokens
from vllama_server.vllm_adapter.read_ahead import read_ahead
from vllama_server.vllm_adapter.sampling import Limits, clamped_priority, sampling_params, structured_outputs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from vllama_server.vllm_adapter.detokenizer import Vocabulary
    from vllama_server.vllm_adapter.output_parser import Output
    from vllama_server.vllm_adapter.prompts import PromptRenderer, Rendered

_REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "repetition": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "abort": pb.FINISH_REASON_ABORTED,
}


@dataclass(frozen=True, slots=True)
class GenerationModel:
    """What every generation of one engine shares."""

    llm: Any
    """vLLM's AsyncLLM."""
    prompts: PromptRenderer
    """Renders prompts."""
    tokenizer: Any
    """The model's tokenizer."""
    vocabulary: Vocabulary
    """The bytes of its tokens."""
    parser: Any
    """vLLM's parser class for this model; None when it has none."""
    defaults: Mapping[str, Any]
    """Sampling values of the model's generation_config."""
    stop_token_ids: frozenset[int]
    """Tokens that end a turn."""
    context_length: int
    """Most tokens of prompt and output together."""
    constraint_backend: str
    """vLLM's name of what compiles constraints on the output."""


async def generate(model: GenerationModel, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse, None]:
    """Yields the events of a generation; see Engine.generate."""
    try:
        generation = await _Generation.prepare(model, request)
        made = read_ahead(generation.run()) if request.sampling.stop else generation.run()
        async with aclosing(made) as stream:
            async for event in stream:
                yield event
    except Exception as error:
        # Everything else in a request has been checked by the time vLLM compiles its constraint.
        kind = request.output_format.WhichOneof("kind")
        suspect = f"output_format.{kind}" if kind else ""
        translated = translate(error, suspect)
        if translated is error:
            raise
        raise translated from error


class _Generation:
    """The state of one generation."""

    def __init__(
        self,
        model: GenerationModel,
        request: pb.GenerateRequest,
        rendered: Rendered,
        total: int,
        parameters: SamplingParams,
    ) -> None:
        self._model = model
        self._request = request
        self._rendered = rendered
        self._total = total
        self._parameters = parameters
        self._vllm_parser = _parser(model, rendered)
        self._assembler = Assembler(
            Detokenizer(model.tokenizer, request.request_id, rendered.token_ids, _decode_options(request, rendered)),
            OutputParser(self._vllm_parser, rendered.request, rendered.token_ids) if self._vllm_parser else None,
        )
        self._cached = 0
        self._matched_stop = ""

    @classmethod
    async def prepare(cls, model: GenerationModel, request: pb.GenerateRequest) -> _Generation:
        """Renders the prompt and derives the limits. Raises before anything is computed."""
        context = min(model.context_length, request.max_context_tokens or model.context_length)
        constraint = structured_outputs(request.output_format) if request.HasField("output_format") else None
        rendered = await model.prompts.render(request, longest=context - 1, structured_outputs=constraint)
        room = context - len(rendered.token_ids)
        total = min(_wanted_tokens(request, model.defaults), room)
        limits = Limits(max_tokens=max(total, 1), min_tokens=request.sampling.min_tokens)
        extra = _extra_parameters(rendered, constraint)
        if model.constraint_backend == CONSTRAINT_BACKEND:
            _simplify(extra["structured_outputs"])
        logprobs = request.top_logprobs if request.logprobs else None
        parameters = sampling_params(request.sampling, model.defaults, limits, logprobs=logprobs, **extra)
        return cls(model, request, rendered, total, parameters)

    async def run(self) -> AsyncGenerator[pb.GenerateResponse, None]:
        resumed = self._request.resume_token_ids
        delivered = DeliveredTokens(resumed if must_replay(self._request) else ())
        if resumed and not delivered.token_ids:
            reason = self._take_over(resumed)
            if reason is not None:
                yield self._started()
                yield self._finished(reason, None)
                return
        started = False
        stream = self._stream(after=() if delivered.token_ids else resumed)
        try:
            async for out in stream:
                if not started:
                    started = True
                    self._cached = min(out.num_cached_tokens or 0, len(self._rendered.token_ids))
                    yield self._started()
                completion = out.outputs[0]
                if completion.finish_reason == "error":
                    raise EngineFault("The engine failed on this request; it can be tried again.")
                delta = self._delta(completion, delivered)
                if delta is not None:
                    yield delta
                if self._assembler.ended or out.finished:
                    yield self._finished(_REASONS.get(completion.finish_reason, pb.FINISH_REASON_STOP), out.metrics)
                    return
        finally:
            await stream.aclose()

    def _take_over(self, delivered: Sequence[int]) -> pb.FinishReason | None:
        """Brings the assembler to the state of the first worker's; returns the reason if the generation had ended."""
        by_stop_token = (
            delivered[-1] in self._stop_token_ids()
            and not self._parameters.ignore_eos
            and len(delivered) > self._request.sampling.min_tokens
        )
        exhausted = len(delivered) >= self._total
        output = self._assembler.add(delivered, ends=by_stop_token or exhausted, by_stop_token=by_stop_token)
        if not self._assembler.ended:
            return None
        self._matched_stop = output.matched_stop
        return pb.FINISH_REASON_STOP if by_stop_token or output.matched_stop else pb.FINISH_REASON_LENGTH

    def _stop_token_ids(self) -> frozenset[int]:
        return self._model.stop_token_ids | frozenset(self._parameters.stop_token_ids or ())

    def _stream(self, after: Sequence[int]) -> AsyncGenerator[Any, None]:
        """Starts the engine on the prompt and the tokens that were delivered before."""
        token_ids = [*self._rendered.token_ids, *after]
        self._parameters.max_tokens = max(self._total - len(after), 1)
        self._parameters.min_tokens = max(min(self._parameters.min_tokens, self._total) - len(after), 0)
        options: dict[str, Any] = {}
        if self._vllm_parser is not None and self._parameters.structured_outputs is not None:
            options["reasoning_ended"] = self._rendered.request.resolve_reasoning_ended(  # type: ignore[union-attr]
                self._vllm_parser, self._rendered.token_ids
            )
            if self._vllm_parser.reasoning_parser is not None:
                options["reasoning_parser_kwargs"] = {"chat_template_kwargs": self._rendered.template_switches}
        stream: AsyncGenerator[Any, None] = self._model.llm.generate(
            {**self._rendered.engine_input, "prompt_token_ids": token_ids},
            self._parameters,
            self._request.request_id,
            priority=clamped_priority(self._request.priority),
            **options,
        )
        return stream

    def _delta(self, completion: Any, delivered: DeliveredTokens) -> pb.GenerateResponse | None:
        """Assembles one output of the engine; None when all of it was delivered before."""
        token_ids = list(completion.token_ids) if self._total else []
        ends = completion.finish_reason is not None
        by_stop_token = completion.finish_reason == "stop"
        known = delivered.take(token_ids)
        if known:
            all_known = known == len(token_ids)
            output = self._assembler.add(
                token_ids[:known], ends=ends and all_known, by_stop_token=by_stop_token and all_known
            )
            self._matched_stop = output.matched_stop
            if all_known or self._assembler.ended:
                return None
        output = self._assembler.add(token_ids[known:], ends=ends, by_stop_token=by_stop_token)
        self._matched_stop = output.matched_stop
        return self._as_delta(output, token_ids[known:], completion.logprobs, known)

    def _as_delta(
        self, output: Output, token_ids: list[int], logprobs: Any, skipped: int
    ) -> pb.GenerateResponse | None:
        used = token_ids[: output.tokens_used]
        text, thinking = "".join(output.text), "".join(output.thinking)
        if not (used or text or thinking or output.tool_calls):
            return None
        top, vocabulary = self._request.top_logprobs, self._model.vocabulary
        entries = token_logprobs(used, logprobs[skipped:], top, vocabulary) if logprobs else ()
        return events.delta(text, used, thinking=thinking, tool_calls=output.tool_calls, logprobs=entries)

    def _started(self) -> pb.GenerateResponse:
        return events.started(
            self._request,
            self._rendered.token_ids,
            cached_prompt_tokens=self._cached,
            dropped_messages=self._rendered.dropped_messages,
        )

    def _finished(self, reason: pb.FinishReason, metrics: Any) -> pb.GenerateResponse:
        if self._matched_stop:
            reason = pb.FINISH_REASON_STOP
        if reason == pb.FINISH_REASON_STOP and self._assembler.called_tools:
            reason = pb.FINISH_REASON_TOOL_CALLS
        queue, prefill, decode = _timings(metrics)
        return events.finished(
            reason,
            prompt_tokens=len(self._rendered.token_ids),
            completion_tokens=self._assembler.token_count,
            cached_prompt_tokens=self._cached,
            reasoning_tokens=self._assembler.reasoning_tokens(),
            matched_stop=self._matched_stop,
            queue_seconds=queue,
            prefill_seconds=prefill,
            decode_seconds=decode,
        )


def _wanted_tokens(request: pb.GenerateRequest, defaults: Mapping[str, Any]) -> int:
    sampling = request.sampling
    wanted: int = sampling.max_tokens if sampling.HasField("max_tokens") else defaults.get("max_tokens", -1)
    return wanted if wanted >= 0 else 2**31


def _extra_parameters(rendered: Rendered, constraint: Any) -> dict[str, Any]:
    """Returns the parameters that the model's parser adds to the request's options."""
    adjusted = rendered.request
    if adjusted is None:
        return {"structured_outputs": constraint}
    return {
        "structured_outputs": adjusted.extract_structured_outputs(),
        "stop_token_ids": list(adjusted.stop_token_ids or ()),
        "skip_special_tokens": adjusted.skip_special_tokens,
    }


def _simplify(constraint: StructuredOutputsParams | None) -> None:
    """Takes out of a schema what cannot be enforced."""
    if constraint is not None and constraint.json is not None:
        text = constraint.json if isinstance(constraint.json, str) else json.dumps(constraint.json)
        constraint.json = enforceable(text)


def _decode_options(request: pb.GenerateRequest, rendered: Rendered) -> DecodeOptions:
    return DecodeOptions(
        stop=list(request.sampling.stop),
        min_tokens=request.sampling.min_tokens,
        skip_special_tokens=rendered.request.skip_special_tokens if rendered.request else True,
    )


def _parser(model: GenerationModel, rendered: Rendered) -> Any:
    """Returns the parser of one chat; None where there is nothing to parse."""
    request = rendered.request
    if model.parser is None or request is None:
        return None
    if model.parser.reasoning_parser_cls is None and not request.tools:
        return None
    return model.parser(
        model.tokenizer,
        request.tools,
        chat_template_kwargs=rendered.template_switches,
        model_config=model.llm.model_config,
    )


def _timings(metrics: Any) -> tuple[float, float, float]:
    """Returns seconds of queueing, prefill and decode; zeros where a stage was not reached."""
    if metrics is None or not metrics.scheduled_ts:
        return 0.0, 0.0, 0.0
    queue = max(metrics.scheduled_ts - metrics.queued_ts, 0.0)
    if not metrics.first_token_ts:
        return queue, 0.0, 0.0
    prefill = max(metrics.first_token_ts - metrics.scheduled_ts, 0.0)
    return queue, prefill, max(metrics.last_token_ts - metrics.first_token_ts, 0.0)
