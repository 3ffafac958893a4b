"""The bare engine as a program: its protocol, with an engine that is scripted, and the flags for vLLM's own server."""

import asyncio
import json

import pytest

from vllama_server.vllm_adapter.bare import serve, server_flags


class Scripted:
    """Answers when it is told to, or fails."""

    def __init__(self):
        self.may_answer = asyncio.Event()
        self.waiting = 0

    async def answer(self, order, arrived_at):
        """Waits with all others for the word."""
        self.waiting += 1
        if self.waiting == 2:
            self.may_answer.set()
        await self.may_answer.wait()
        if order["prompt"] == "bad":
            raise ValueError("no such prompt")
        return {"id": order["id"], "seconds": 1.0, "tokens": order["max_tokens"]}


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
