"""Templates of requests on real vLLM: what they render, and that nobody else waits for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.server.statuses import details_of, error_of
from tests.server.vllm_adapter.driving import chat_of, greedy, run
from tests.server.vllm_adapter.test_template_renderer import ENDLESS
from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1 import worker_pb2
from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.server.worker_process import WorkerProcess
    from vllama_server.vllm_adapter.engine import VllmEngine

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

QUESTION = ("user", "What is the capital of France?")
CHAT_ML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


async def test_a_template_of_a_request_renders_as_vllm_would(engine: VllmEngine) -> None:
    """The same tokens as the model's own template, special ones included; Tokenize takes it as well."""
    turns = (("system", "Be brief."), QUESTION)
    own, given = await run(engine, chat_of(*turns)), await run(engine, chat_of(*turns, template=CHAT_ML))
    assert own.started is not None
    assert given.started is not None
    assert given.started.prompt_token_ids == own.started.prompt_token_ids
    assert given.text == own.text
    tokenized = await engine.tokenize(pb.TokenizeRequest(chat=chat_of(*turns, template=CHAT_ML)))
    assert tokenized.token_ids == own.started.prompt_token_ids


async def test_an_open_answer_is_continued_in_a_given_template(engine: VllmEngine) -> None:
    """Nothing is put behind it, as with the model's own."""
    turns = (("system", "Be brief."), QUESTION, ("assistant", "The capital "))
    own = await run(engine, chat_of(*turns, continue_last=True), greedy(4))
    given = await run(engine, chat_of(*turns, continue_last=True, template=CHAT_ML), greedy(4))
    assert own.started is not None
    assert given.started is not None
    assert given.started.prompt_token_ids == own.started.prompt_token_ids


async def test_nobody_waits_for_an_endless_template(engine: VllmEngine) -> None:
    """Chats, prompts and stored templates are served while clients' templates use up their time."""
    endless = [asyncio.create_task(run(engine, chat_of(QUESTION, template=ENDLESS))) for _ in range(4)]
    await asyncio.sleep(0)
    stored = chat_of(QUESTION, template=CHAT_ML, template_is_stored=True)
    for prompt in (chat_of(QUESTION), "Once upon a time", stored):
        await run(engine, prompt, greedy(1))
    assert not endless[-1].done()
    for outcome in await asyncio.gather(*endless, return_exceptions=True):
        assert isinstance(outcome, InvalidRequest)
        assert outcome.field == "chat.template"


async def test_a_render_of_the_models_own_template_that_sticks_ends_the_worker(
    spawn: Callable[..., Awaitable[WorkerProcess]], model_directory: Path, temporary: Path
) -> None:
    """Its request is refused; the thread cannot be ended, so the worker fails and ends although that runs on."""
    template = temporary / "template.jinja"
    condition = "{% if messages[0].content == 'stick' %}" + ENDLESS + "{% endif %}"
    await asyncio.to_thread(template.write_text, condition + CHAT_ML)
    flags = ("--device", "cpu", "--engine-arg", "kv_cache_memory_bytes=268435456")
    worker = await _worker(spawn, model_directory, temporary, *flags, "--engine-arg", f"chat_template={template}")
    assert await _few_tokens(worker, chat_of(QUESTION))
    refused = await error_of(_few_tokens(worker, chat_of(("user", "stick"))))
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(refused)[0].metadata["field"] == "chat"
    await worker.reached(worker_pb2.WORKER_STATE_FAILED)
    assert await worker.status() == 3
    assert "chat template does not end" in worker.log()


async def _worker(spawn: Any, model: Path, temporary: Path, *flags: str) -> WorkerProcess:
    from tests.server.vllm_adapter.test_worker import ENVIRONMENT

    environment = ENVIRONMENT | {"TMPDIR": str(temporary), "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT": "2"}
    worker: WorkerProcess = await spawn(*flags, model=str(model), engine="vllm", env=environment)
    return worker


async def _few_tokens(worker: WorkerProcess, chat: pb.Chat) -> list[pb.GenerateResponse]:
    request = pb.GenerateRequest(chat=chat, sampling=pb.Sampling(max_tokens=2))
    return [event async for event in worker.generation.Generate(request)]
