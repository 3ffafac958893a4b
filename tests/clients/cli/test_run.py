"""`vllama run` with a prompt, piped input, options, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.cli.ollama_server import SHOW, Answer, Hang, chunk, last

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.clients.cli.ollama_server import OllamaServer


@pytest.fixture
def ollama(ollama: OllamaServer) -> OllamaServer:
    """A server that has the model and answers hello."""
    ollama.answers["POST /api/show"] = Answer([SHOW])
    ollama.answers["POST /api/chat"] = Answer([chunk("Hel"), chunk("lo ☀"), last()])
    return ollama


def chats(ollama: OllamaServer) -> list[dict]:
    """The bodies of the /api/chat requests."""
    return [body for key, body in ollama.requests if key == "POST /api/chat"]


async def test_prints_the_answer(ollama: OllamaServer, vllama_process: Callable) -> None:
    """The pieces come out as one text with one line end."""
    done = await vllama_process("run", "m", "Say", "hello")
    assert (done.out, done.err, done.status) == ("Hello ☀\n", "", 0)
    assert chats(ollama)[0]["messages"] == [{"role": "user", "content": "Say hello"}]


async def test_piped_input_follows_the_prompt(ollama: OllamaServer, vllama_process: Callable) -> None:
    """`cat x | vllama run m "Summarise:"` sends the contents of x."""
    await vllama_process("run", "m", "Summarise:", stdin="A long text.\n")
    assert chats(ollama)[0]["messages"][0]["content"] == "Summarise:\n\nA long text."


async def test_piped_input_alone_is_the_prompt(ollama: OllamaServer, vllama_process: Callable) -> None:
    """Without arguments the piped text is the prompt."""
    await vllama_process("run", "m", stdin="Hello?")
    assert chats(ollama)[0]["messages"][0]["content"] == "Hello?"


async def test_no_prompt_and_no_terminal_is_a_usage_error(ollama: OllamaServer, vllama_process: Callable) -> None:
    """Status 2, and no request is sent."""
    done = await vllama_process("run", "m")
    assert done.status == 2
    assert "there is no prompt" in done.err
    assert ollama.requests == []


async def test_a_closed_standard_input_is_an_empty_one(ollama: OllamaServer, vllama_process: Callable) -> None:
    """`vllama run m hi <&-`, as cron and some supervisors start programs."""
    assert (await vllama_process("run", "m", "hi", stdin=None)).out == "Hello ☀\n"
    done = await vllama_process("run", "m", stdin=None)
    assert (done.status, "there is no prompt" in done.err, "Traceback" in done.err) == (2, True, False)


@pytest.mark.parametrize("command", [("list",), ("run", "m", "hi"), ("top",)])
@pytest.mark.parametrize("key", ["ab\nc", "€"])
async def test_a_key_that_cannot_be_sent_is_one_sentence(
    ollama: OllamaServer, vllama_process: Callable, command: tuple[str, ...], key: str
) -> None:
    """A newline within or a foreign character: no traceback, and the variable is named."""
    done = await vllama_process(*command, VLLAMA_API_KEY=key)
    assert done.status == 1
    assert done.err.startswith("Error: VLLAMA_API_KEY: ")
    assert len(done.err.splitlines()) == 1


async def test_a_newline_after_the_key_is_no_part_of_it(ollama: OllamaServer, vllama_process: Callable) -> None:
    """`VLLAMA_API_KEY=$(cat key; echo)` and files of secrets end with one."""
    done = await vllama_process("run", "m", "hi", VLLAMA_API_KEY="sk-1\n")
    assert (done.out, done.err, done.status) == ("Hello ☀\n", "", 0)


async def test_options_are_sent(ollama: OllamaServer, vllama_process: Callable) -> None:
    """Numbers, texts and stop lists reach the server in their own types."""
    flags = ["-o", "temperature=0", "-o", "num_predict=5", "-o", "stop=a", "-o", "stop=b", "--system", "Be brief."]
    await vllama_process("run", "m", "Hi", *flags, "--keep-alive", "10m", "--no-think", "--format", "json")
    body = chats(ollama)[0]
    assert body["options"] == {"temperature": 0, "num_predict": 5, "stop": ["a", "b"]}
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["keep_alive"], body["think"], body["format"]) == ("10m", False, "json")


async def test_a_schema_file_is_the_format(ollama: OllamaServer, vllama_process: Callable, tmp_path: Path) -> None:
    """--format takes a file with a JSON schema."""
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    await vllama_process("run", "m", "Hi", "--format", str(schema))
    assert chats(ollama)[0]["format"] == {"type": "object"}


@pytest.mark.parametrize("flags", [["-o", "temperature"], ["--format", "/no/such/file"]])
async def test_bad_flags_are_usage_errors(vllama_process: Callable, flags: list[str]) -> None:
    """What cannot be read names the flag and ends with status 2."""
    done = await vllama_process("run", "m", "Hi", *flags)
    assert done.status == 2
    assert flags[-1] in done.err


async def test_effort_is_a_level_of_thinking(ollama: OllamaServer, vllama_process: Callable) -> None:
    """--effort high is sent as the level of thinking."""
    await vllama_process("run", "m", "Hi", "--effort", "high")
    assert chats(ollama)[0]["think"] == "high"


async def test_thinking_is_marked(ollama: OllamaServer, vllama_process: Callable) -> None:
    """Reasoning stands between its marks, before the answer; without a terminal no escape codes."""
    ollama.answers["POST /api/chat"] = Answer([chunk(thinking="Hm"), chunk(thinking="..."), chunk("Yes"), last()])
    done = await vllama_process("run", "m", "Hi")
    assert done.out == "Thinking...\nHm...\n...done thinking.\n\nYes\n"


async def test_thinking_can_be_hidden(ollama: OllamaServer, vllama_process: Callable) -> None:
    """--hide-thinking prints the answer alone."""
    ollama.answers["POST /api/chat"] = Answer([chunk(thinking="Hm"), chunk("Yes"), last()])
    assert (await vllama_process("run", "m", "Hi", "--hide-thinking")).out == "Yes\n"


async def test_statistics_go_to_standard_error(ollama: OllamaServer, vllama_process: Callable) -> None:
    """--verbose prints counts and rates, and leaves the output clean."""
    done = await vllama_process("run", "m", "Hi", "--verbose")
    assert done.out == "Hello ☀\n"
    assert "10.00 tokens/s" in done.err


async def test_the_whole_answer_as_json(ollama: OllamaServer, vllama_process: Callable) -> None:
    """--json prints one object with text and counts."""
    answer = json.loads((await vllama_process("run", "m", "Hi", "--json")).out)
    assert answer["message"] == {"role": "assistant", "content": "Hello ☀"}
    assert answer["eval_count"] == 20


async def test_an_error_in_the_stream_is_status_1(ollama: OllamaServer, vllama_process: Callable) -> None:
    """What came is printed, then the server's sentence."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hel"), {"error": "the worker was lost"}])
    done = await vllama_process("run", "m", "Hi")
    assert (done.out, done.status) == ("Hel\n", 1)
    assert done.err == "Error: the worker was lost\n"


async def test_a_stream_that_just_ends_is_status_1(ollama: OllamaServer, vllama_process: Callable) -> None:
    """A part of an answer is not taken for the whole."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hel")])
    done = await vllama_process("run", "m", "Hi")
    assert done.status == 1
    assert "ended in the middle" in done.err


async def test_a_refusal_is_the_servers_sentence(ollama: OllamaServer, vllama_process: Callable) -> None:
    """A busy server is quoted."""
    ollama.answers["POST /api/chat"] = Answer([{"error": "server busy, please try again."}], 503)
    done = await vllama_process("run", "m", "Hi")
    assert (done.err, done.status) == ("Error: server busy, please try again.\n", 1)


async def test_a_missing_model_is_pulled(ollama: OllamaServer, vllama_process: Callable) -> None:
    """As with `ollama run`, a model that is not there is downloaded first."""
    ollama.answers["POST /api/show"] = Answer([{"error": "model 'm' not found"}], 404)
    ollama.answers["POST /api/pull"] = Answer([{"status": "pulling manifest"}, {"status": "success"}])
    done = await vllama_process("run", "m", "Hi")
    assert [key for key, _ in ollama.requests] == ["POST /api/show", "POST /api/pull", "POST /api/chat"]
    assert done.out == "Hello ☀\n"
    assert "pulling manifest" in done.err


INTERRUPTIBLE = """
import signal
from vllama_clients.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""The command as a terminal starts it; a test run in the background hands an ignored SIGINT down."""


async def test_ctrl_c_ends_the_generation(ollama: OllamaServer, environment: dict[str, str]) -> None:
    """An interrupt closes the connection and ends with status 130, without a traceback."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hel"), Hang()])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", INTERRUPTIBLE, "run", "m", "Hi"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readexactly(3) == b"Hel"
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            await ollama.left.wait()
        async with asyncio.timeout(30):
            _, err = await process.communicate()
        assert (err, process.returncode) == (b"", 130)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
