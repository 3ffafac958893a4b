"""Both clients and the command against a fleet of real processes with the simulated engine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import FleetProcess
from vllama_clients import (
    ChatRequest,
    Client,
    DeadlineExceeded,
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    InvalidRequest,
    Message,
    NotFound,
    Options,
    Sampling,
    SyncClient,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MODEL = "simulated"
START_SECONDS = 100
TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    """A balancer with two workers, ended after the tests of this module."""
    process = FleetProcess([MODEL, "--engine", "fake", "--workers", "2"], tmp_path_factory.mktemp("fleet") / "log")
    process.start()
    try:
        process.wait_ready(2, START_SECONDS)
        yield process
    finally:
        process.stop()


def generate(prompt: str, tokens: int) -> GenerateRequest:
    """Builds a request for so many tokens."""
    return GenerateRequest(MODEL, prompt, Options(sampling=Sampling(max_tokens=tokens)))


def expected(prompt: str, tokens: int) -> str:
    """The simulated engine's answer: the prompt's hash and the number of each token."""
    digest = sha256(prompt.encode()).hexdigest()[:4]
    return "".join(f" {digest}.{number}" for number in range(tokens))


async def test_asyncio_streams_are_whole_and_their_own(fleet: FleetProcess) -> None:
    """Forty streams at once over one channel: each gets exactly its own tokens, and both workers serve."""
    prompts = [f"Prompt number {number}" for number in range(40)]
    async with Client(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        answers = await asyncio.gather(*(client.generate(generate(prompt, 20)).collect() for prompt in prompts))
    assert [answer.text for answer in answers] == [expected(prompt, 20) for prompt in prompts]
    assert {answer.finished.reason for answer in answers} == {FinishReason.LENGTH}
    assert len({answer.started.worker for answer in answers}) == 2


def test_sync_answers_equal_asyncio_ones(fleet: FleetProcess) -> None:
    """The synchronous client gets the same text and counts."""
    with SyncClient(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        answer = client.generate(generate("Hello", 7)).collect()
    assert answer.text == expected("Hello", 7)
    assert answer.finished.usage.completion_tokens == 7


def test_threads_share_one_synchronous_client(fleet: FleetProcess) -> None:
    """Forty streams of sixteen threads over one channel: each gets exactly its own tokens, and both workers serve."""
    prompts = [f"Thread number {number}" for number in range(40)]
    with SyncClient(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client, ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda prompt: client.generate(generate(prompt, 20)).collect(), prompts))
    assert [answer.text for answer in answers] == [expected(prompt, 20) for prompt in prompts]
    assert len({answer.started.worker for answer in answers}) == 2


def test_sync_calls_with_one_answer(fleet: FleetProcess) -> None:
    """Chats, tokens, texts and vectors, synchronously."""
    chat = ChatRequest(MODEL, [Message("user", "Hi")], Options(sampling=Sampling(max_tokens=3)))
    with SyncClient(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        tokens = client.tokenize(chat)
        assert client.chat(chat).collect().text == expected(tokens.text, 3)
        assert (
            client.detokenize(MODEL, client.tokenize(GenerateRequest(MODEL, "Hello there")).token_ids) == "Hello there"
        )
        first, second = client.embed(EmbedRequest(MODEL, ["a", "b"]))
    assert first.values != second.values


def test_a_cancelled_sync_stream_frees_its_slot(fleet: FleetProcess) -> None:
    """Soon after the block was left, no worker counts its stream."""
    with SyncClient(fleet.target) as client:
        with client.generate(generate("Long", 3000)) as generation:
            next(generation)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while any(worker.leases for worker in fleet.workers()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_sync_deadlines_and_errors(fleet: FleetProcess) -> None:
    """They are of the same classes, with the same reasons."""
    with SyncClient(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        with pytest.raises(DeadlineExceeded):
            client.generate(generate("Long", 3000), timeout_seconds=1).collect()
        with pytest.raises(NotFound) as unknown:
            client.generate(GenerateRequest("unknown:model", "Hi")).collect()
    assert unknown.value.reason == "MODEL_NOT_FOUND"


def test_the_example_service_summarises(fleet: FleetProcess, tmp_path: Path) -> None:
    """Thirty files, eight at a time: a line for each, and progress up to the last."""
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"Text number {number}", encoding="utf-8")
    command = [sys.executable, "-m", "vllama_clients.examples.summaries", "--target", fleet.target, "--model", MODEL]
    files = sorted(map(str, tmp_path.glob("*.txt")))
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(summary["name"] for summary in summaries) == files
    assert {summary["tokens"] for summary in summaries} == {80}
    assert done.stderr.endswith("30 of 30, 0 failed\n")


async def test_chat(fleet: FleetProcess) -> None:
    """A chat is rendered by the worker, and its tokens are counted."""
    request = ChatRequest(MODEL, [Message("user", "Hi")], Options(sampling=Sampling(max_tokens=3)))
    async with Client(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        answer = await client.chat(request).collect()
        tokens = await client.tokenize(request)
    assert answer.text == expected(tokens.text, 3)
    assert answer.started.prompt_tokens == len(tokens.token_ids)


async def test_tokens_there_and_back(fleet: FleetProcess) -> None:
    """Detokenizing what was tokenized gives the text."""
    async with Client(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        tokens = await client.tokenize(GenerateRequest(MODEL, "Hello there"))
        assert await client.detokenize(MODEL, tokens.token_ids) == "Hello there"


async def test_embeddings(fleet: FleetProcess) -> None:
    """Vectors come in order and have length 1."""
    async with Client(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        first, second = await client.embed(EmbedRequest(MODEL, ["a", "b"]))
    assert first.values != second.values
    assert sum(value * value for value in first.values) == pytest.approx(1, abs=1e-3)


async def test_a_cancelled_stream_frees_its_slot(fleet: FleetProcess) -> None:
    """Soon after the client has left, no worker counts its stream."""
    async with Client(fleet.target) as client:
        async with client.generate(generate("Long", 3000)) as generation:
            await anext(generation)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while any(worker.leases for worker in await asyncio.to_thread(fleet.workers)):
                await asyncio.sleep(0.05)


async def test_a_deadline_ends_a_stream(fleet: FleetProcess) -> None:
    """DeadlineExceeded comes in time, though the stream would last for a long time."""
    async with Client(fleet.target) as client:
        with pytest.raises(DeadlineExceeded):
            await client.generate(generate("Long", 3000), timeout_seconds=1).collect()


async def test_typed_errors(fleet: FleetProcess) -> None:
    """Refusals carry their reasons all the way."""
    async with Client(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        with pytest.raises(NotFound) as unknown:
            await client.generate(GenerateRequest("unknown:model", "Hi")).collect()
        with pytest.raises(InvalidRequest) as empty:
            await client.chat(ChatRequest(MODEL, [])).collect()
    assert unknown.value.reason == "MODEL_NOT_FOUND"
    assert empty.value.reason == "INVALID_REQUEST"


async def test_timings_fit_the_call(fleet: FleetProcess) -> None:
    """The server's timings add up to no more than the call took."""
    begun = asyncio.get_running_loop().time()
    async with Client(fleet.target, timeout_seconds=TIMEOUT_SECONDS) as client:
        finished = [event async for event in client.generate(generate("Hi", 10))][-1]
    assert isinstance(finished, Finished)
    spent = finished.timings.queue_seconds + finished.timings.prompt_seconds + finished.timings.decode_seconds
    assert 0 < spent <= asyncio.get_running_loop().time() - begun


def vllama(fleet: FleetProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command against the fleet."""
    return subprocess.run(
        [sys.executable, "-m", "vllama_clients.cli", *arguments],
        env=os.environ | {"VLLAMA_HOST": fleet.url, "VLLAMA_GRPC": fleet.target, "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def test_the_command_answers(fleet: FleetProcess) -> None:
    """`vllama run` prints the whole answer."""
    done = vllama(fleet, "run", MODEL, "Hello", "-o", "num_predict=5")
    assert (done.stderr, done.returncode) == ("", 0)
    assert [word.partition(".")[2] for word in done.stdout.split()] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("arguments", [["list"], ["ps"], ["show", MODEL], ["top", "--once"]])
def test_the_command_lists(fleet: FleetProcess, arguments: list[str]) -> None:
    """The listings print this server's model."""
    done = vllama(fleet, *arguments)
    assert done.returncode == 0, done.stderr
    assert "simulated" in done.stdout


def test_the_demo_counts_both_workers(fleet: FleetProcess) -> None:
    """Twenty streams are complete, and the edge names each one's worker."""
    done = vllama(fleet, "demo", "--url", fleet.url, "--model", MODEL, "--json")
    assert done.returncode == 0, done.stderr
    assert {stream["worker"] for stream in json.loads(done.stdout)} == {"worker-0", "worker-1"}


def test_bench_measures_all_three_doors(fleet: FleetProcess) -> None:
    """The same fleet by Ollama, OpenAI and gRPC: no errors, and exactly the requested tokens."""
    targets = [f"a=ollama:{fleet.url}", f"b=openai:{fleet.url}", f"c=grpc:{fleet.target}"]
    flags = [flag for target in targets for flag in ("--target", target)]
    sizes = ["--concurrency", "2", "--requests", "4", "--repeats", "1", "--max-tokens", "8"]
    done = vllama(fleet, "bench", "--model", MODEL, *flags, *sizes)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:4]]
    assert [(row[0], row[3], row[-1]) for row in rows] == [("a", "0", "8"), ("b", "0", "8"), ("c", "0", "8")]


def test_bench_compares_the_doors_of_a_fleet_of_its_own(fleet: FleetProcess, tmp_path: Path) -> None:
    """It starts and ends what it measures, names the doors only, and nothing of gRPC's own is on the terminal."""
    flags = ["--engine", "fake", "--doors", "worker,chat", "--model", MODEL, "--json", str(tmp_path / "r.json")]
    sizes = ["--interleave", "--concurrency", "1", "--requests", "3", "--repeats", "1", "--max-tokens", "2"]
    done = vllama(fleet, "bench", "compare", *flags, *sizes)
    assert done.returncode == 0, done.stderr
    assert "fork" not in done.stderr
    kept = json.loads((tmp_path / "r.json").read_text())
    assert kept["settings"]["targets"] == ["worker", "chat"]
    assert [(cell["target"], len(cell["samples"]), cell["is_interleaved"]) for cell in kept["cells"]] == [
        *(("worker", 3, True), ("chat", 3, True)),
    ]
