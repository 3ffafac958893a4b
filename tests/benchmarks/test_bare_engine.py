"""The bare engine as a program: its protocol, the flags for vLLM's own server, and all of it on real vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.server.vllm_adapter.conftest import CACHE_BYTES, model_directory, temporary  # noqa: F401
from vllama_benchmarks.bare_engine import serve, server_flags

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings(one) for one in ("ignore", "error:::vllama_server", "error:::vllama_benchmarks")
]
"""Only warnings of our own code are errors: vLLM, torch and transformers warn on nearly every path."""
TIMEOUT_SECONDS = 220
REQUESTS = [
    {"id": 0, "prompt": "Say hello.", "max_tokens": 6},
    {"id": 1, "prompt": "Count from one to twenty, please.", "max_tokens": 9},
]


class Scripted:
    """An engine that answers once two requests wait, or fails."""

    def __init__(self):
        self.may_answer = asyncio.Event()
        self.waiting = 0

    async def answer(self, request, arrived_at):
        """Returns once two requests wait."""
        self.waiting += 1
        if self.waiting == 2:
            self.may_answer.set()
        await self.may_answer.wait()
        if request["prompt"] == "bad":
            raise ValueError("no such prompt")
        return {"id": request["id"], "seconds": 1.0, "tokens": request["max_tokens"]}


async def test_requests_run_at_once_and_each_gets_a_line(capsys):
    """Ready first; all requests are under way together; a failure is a line with its error; the end is the input's."""
    reader = asyncio.StreamReader()
    for number, prompt in enumerate(["good", "bad"]):
        reader.feed_data(json.dumps({"id": number, "prompt": prompt, "max_tokens": 5}).encode() + b"\n")
    reader.feed_eof()
    async with asyncio.timeout(20):
        await serve(Scripted(), reader)
    ready, *answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ready == {"ready": True}
    good, bad = sorted(answers, key=lambda answer: answer["id"])
    assert good == {"id": 0, "seconds": 1.0, "tokens": 5}
    assert (bad["id"], bad["error"]) == (1, "no such prompt")


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({"model": "/weights", "served_model_name": ["m"]}, []),
        ({"enforce_eager": True, "enable_prefix_caching": False}, ["--enforce-eager", "--no-enable-prefix-caching"]),
        ({"max_num_seqs": 64, "max_model_len": None}, ["--max-num-seqs", "64"]),
    ],
)
def test_engine_arguments_become_flags(arguments, flags):
    """Switches are on or off, unset ones are left out, and model and name are the caller's."""
    assert server_flags(arguments) == flags


async def bare(*arguments: str, stdin: bytes = b"", **environment: str) -> list[Any]:
    """Runs the program in a process of its own and reads the lines that it wrote; it has to end by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllama_benchmarks.bare_engine", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"VLLM_PLUGINS": ""} | environment,
    )  # fmt: skip
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            out, log = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, log.decode()[-2000:]
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.real
@pytest.mark.timeout(240)
async def test_real_answers_have_their_full_length_and_their_times(model_directory: Path, temporary: Path) -> None:  # noqa: F811
    """Two requests at once are answered, each to its requested length; the program ends and leaves no file."""
    stdin = b"".join(json.dumps(request).encode() + b"\n" for request in REQUESTS)
    cache = f"kv_cache_memory_bytes={CACHE_BYTES}"
    lines = await bare(str(model_directory), "--engine-arg", cache, stdin=stdin, TMPDIR=str(temporary))
    assert await asyncio.to_thread(lambda: list(temporary.iterdir())) == []
    assert lines[0] == {"ready": True}
    answers = sorted(lines[1:], key=lambda answer: answer["id"])
    assert [(answer["id"], answer["tokens"]) for answer in answers] == [(0, 6), (1, 9)]
    for answer in answers:
        assert "error" not in answer
        assert 0 < answer["ttft_seconds"] <= answer["seconds"]
    # The chat template adds the same to both; the second prompt is the longer one.
    assert 10 < answers[0]["prompt_tokens"] < answers[1]["prompt_tokens"]


@pytest.mark.real
@pytest.mark.timeout(240)
async def test_vllms_own_server_understands_the_flags(model_directory: Path) -> None:  # noqa: F811
    """Its parser takes every flag, and the resulting engine has the worker's context, batch and cache."""
    from vllm import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    (flags,) = await bare(str(model_directory), "--engine-arg", "max_num_seqs=8", "--server-flags")
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", str(model_directory), *flags])
    found = AsyncEngineArgs.from_cli_args(parsed)
    assert (found.max_num_seqs, found.max_model_len, found.enforce_eager) == (8, 4096, True)
    assert found.kv_cache_memory_bytes > 0
