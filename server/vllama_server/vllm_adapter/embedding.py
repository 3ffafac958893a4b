"""Embeddings of a pooling model."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from vllm import PoolingParams
from vllm.inputs import tokens_input
from vllm.renderers import TokenizeParams
from vllm.renderers.inputs.preprocess import parse_model_prompt

from vllama_protos.v1 import embedding_pb2 as pb
from vllama_server.errors import ContextTooLong, InvalidRequest
from vllama_server.vllm_adapter.errors import translate


class Embedder:
    """Embeds texts, `slots` of all calls together at once: the engine refuses more than it may queue.

    The others wait here, and those of one call take turns with those of the next.
    """

    def __init__(self, llm: Any, slots: int) -> None:
        self._llm = llm
        self._slots = asyncio.Semaphore(slots)
        self._most_at_once = slots

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """Embeds every text, in order; when one fails, all do. Cancelling aborts them all."""
        self._check_dimensions(request.dimensions)
        inputs = iter(enumerate(request.inputs))
        vectors = [pb.Vector()] * len(request.inputs)

        async def take_turns() -> None:
            for index, text in inputs:
                async with self._slots:
                    vectors[index] = await self._embedded(request, index, text)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._most_at_once, len(request.inputs))):
                    group.create_task(take_turns())
        except* Exception as group_error:
            error = group_error.exceptions[0]
            raise translate(error) from error
        return pb.EmbedResponse(vectors=vectors)

    async def _embedded(self, request: pb.EmbedRequest, index: int, text: str) -> pb.Vector:
        token_ids = await self._tokenize(text, index, request.truncate)
        vector = await self._vector(token_ids, f"{request.request_id}-{index}")
        normalize = request.normalize if request.HasField("normalize") else True
        return pb.Vector(values=_finished(vector, request.dimensions, normalize), prompt_tokens=len(token_ids))

    async def _tokenize(self, text: str, index: int, truncate: bool) -> list[int]:
        longest = self._llm.model_config.max_model_len
        renderer, config = self._llm.renderer, self._llm.model_config
        options = {"truncate_prompt_tokens": longest, "truncation_side": "right"} if truncate else {}
        parameters = TokenizeParams(max_total_tokens=longest if truncate else None, add_special_tokens=True, **options)
        try:
            (rendered,) = await renderer.render_cmpl_async([parse_model_prompt(config, text)], parameters)
        except (ValueError, TypeError, MemoryError) as error:
            raise InvalidRequest(f"inputs[{index}]: {error or 'it needs too much memory'}", "inputs") from error
        token_ids = list(rendered["prompt_token_ids"])
        if not token_ids:
            raise InvalidRequest(f"inputs[{index}] is empty; give at least one token.", "inputs")
        if len(token_ids) > longest:
            raise ContextTooLong(
                f"inputs[{index}] has {len(token_ids)} tokens; the model takes {longest}. Set `truncate` to cut it.",
                "inputs",
            )
        return token_ids

    async def _vector(self, token_ids: list[int], request_id: str) -> torch.Tensor:
        # The task is always named: without it vLLM returns one vector for each token.
        parameters = PoolingParams(task="embed", use_activation=False)
        last = None
        async for out in self._llm.encode(tokens_input(token_ids), parameters, request_id):
            last = out
        assert last is not None, "vLLM ends every encode() with an output"
        return last.outputs.data

    def _check_dimensions(self, dimensions: int) -> None:
        length = self._llm.model_config.get_hidden_size()
        if dimensions > length:
            raise InvalidRequest(
                f"dimensions is {dimensions}; the model's vectors have {length} numbers.", "dimensions"
            )


def _finished(vector: torch.Tensor, dimensions: int, normalize: bool) -> list[float]:
    vector = vector.to(torch.float32).flatten()
    if dimensions:
        vector = vector[:dimensions]
    if normalize:
        vector = torch.nn.functional.normalize(vector, dim=0)
    return [float(value) for value in vector.tolist()]
