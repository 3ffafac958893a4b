"""The whole chain on real vLLM: the answer is vLLM's own, whichever door it comes out of."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import grpc
import ollama
import pytest

from tests.end_to_end.conftest import CHATS, MAX_TOKENS, MODEL
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from tests.end_to_end.fleet_process import FleetProcess

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]


def request(messages: list[dict[str, str]], **sampling: object) -> generation_pb2.GenerateRequest:
    """A greedy chat."""
    turns = [generation_pb2.Message(**message) for message in messages]
    options = {"temperature": 0.0, "max_tokens": MAX_TOKENS} | sampling
    return generation_pb2.GenerateRequest(
        model=MODEL, chat=generation_pb2.Chat(messages=turns), sampling=generation_pb2.Sampling(**options)
    )


def collect(target: str, messages: list[dict[str, str]]) -> tuple[str, list[int], int]:
    """Returns text, token ids and prompt tokens of one generation, after checking its frame."""
    with grpc.insecure_channel(target) as channel:
        events = list(generation_pb2_grpc.GenerationStub(channel).Generate(request(messages), timeout=120))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert set(kinds[1:-1]) == {"delta"}
    text = "".join(event.delta.text for event in events)
    return text, [id for event in events for id in event.delta.token_ids], events[0].started.prompt_tokens


def test_worker_equals_the_bare_engine(real_fleet: FleetProcess, bare_answers: list[dict[str, object]]) -> None:
    """Each worker, called directly, gives vLLM's own tokens."""
    for worker in real_fleet.workers():
        for messages, bare in zip(CHATS, bare_answers, strict=True):
            assert collect(worker.address, messages) == (bare["text"], bare["token_ids"], bare["prompt"])


def test_balancer_equals_the_bare_engine(real_fleet: FleetProcess, bare_answers: list[dict[str, object]]) -> None:
    """The balancer relays them unchanged."""
    for messages, bare in zip(CHATS, bare_answers, strict=True):
        assert collect(real_fleet.target, messages) == (bare["text"], bare["token_ids"], bare["prompt"])


async def test_edge_equals_the_bare_engine(real_fleet: FleetProcess, bare_answers: list[dict[str, object]]) -> None:
    """And /api/chat says the same, streaming and not, all chats at once."""

    async def chat(session: aiohttp.ClientSession, messages: list[dict[str, str]]) -> dict[str, object]:
        body = {"model": MODEL, "messages": messages, "stream": False}
        body["options"] = {"temperature": 0, "num_predict": MAX_TOKENS}
        async with session.post(f"{real_fleet.url}/api/chat", json=body) as response:
            assert response.status == 200, await response.text()
            return dict(await response.json())

    async with aiohttp.ClientSession() as session:
        replies = await asyncio.gather(*(chat(session, messages) for messages in CHATS * 2))
    for reply, bare in zip(replies, bare_answers * 2, strict=True):
        assert reply["message"]["content"] == bare["text"]  # type: ignore[index]
        assert reply["eval_count"] == len(bare["token_ids"])  # type: ignore[arg-type]
        assert reply["prompt_eval_count"] == bare["prompt"]


async def test_both_workers_serve(real_fleet: FleetProcess) -> None:
    """Eight requests at once are spread over both workers."""

    async def started(stub: generation_pb2_grpc.GenerationStub, number: int) -> str:
        call = stub.Generate(request([{"role": "user", "content": f"Count to {number}."}]), timeout=120)
        events = [event async for event in call]
        return events[0].started.worker

    async with grpc.aio.insecure_channel(real_fleet.target) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        workers = await asyncio.gather(*(started(stub, number) for number in range(8)))
    assert len(set(workers)) == 2
    assert min(workers.count(name) for name in set(workers)) >= 3


async def running(address: str, wanted: int, seconds: float) -> float:
    """Returns how long it took until the worker reported `wanted` running and no waiting streams."""
    begun = time.monotonic()
    async with grpc.aio.insecure_channel(address) as channel:
        reports = worker_pb2_grpc.WorkerStub(channel).Watch(worker_pb2.WatchRequest(), timeout=seconds)
        async for report in reports:
            if report.running + report.waiting == wanted:
                return time.monotonic() - begun
    raise AssertionError("the worker's reports ended")


async def test_cancelled_stream_frees_its_slot(real_fleet: FleetProcess) -> None:
    """A client that goes away leaves nothing running a second later."""
    (address, *_) = [worker.address for worker in real_fleet.workers()]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        endless = request([{"role": "user", "content": "Tell a long story."}], max_tokens=1500)
        call = stub.Generate(endless, timeout=120)
        async for event in call:
            if event.WhichOneof("event") == "delta":
                break
        await running(address, 1, 5)
        call.cancel()
        assert await running(address, 0, 5) < 1.0


def test_ollama_client_works(real_fleet: FleetProcess, bare_answers: list[dict[str, object]]) -> None:
    """The official Python client lists, shows, generates, chats and streams."""
    with ollama.Client(host=real_fleet.url) as client:
        options = {"temperature": 0, "num_predict": MAX_TOKENS}
        assert [model.model for model in client.list().models] == [MODEL]
        shown = client.show(MODEL)
        assert "completion" in (shown.capabilities or [])
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "llama"
        assert [model.model for model in client.ps().models] == [MODEL]
        generated = client.generate(MODEL, "Once upon a time", raw=True, options=options)
        assert generated.done
        assert generated.response
        messages, bare = CHATS[0], bare_answers[0]
        assert client.chat(MODEL, messages, options=options).message.content == bare["text"]
        chunks = list(client.chat(MODEL, messages, options=options, stream=True))
        assert "".join(chunk.message.content or "" for chunk in chunks) == bare["text"]
        assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        with pytest.raises(ollama.ResponseError, match="model 'absent' not found") as refused:
            client.chat("absent", messages)
        assert refused.value.status_code == 404
