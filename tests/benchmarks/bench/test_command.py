"""`vllama bench` as a command."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.cli.ollama_server import Answer, Hang, chunk, last, ollama_server
from vllama_benchmarks.bench.command import command
from vllama_benchmarks.command import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.clients.cli.ollama_server import OllamaServer

TIMEOUT_SECONDS = 60
QUICK = ("--concurrency", "1,2", "--requests", "2", "--repeats", "2", "--warm-up", "1")


async def test_measures_and_reports(ollama: OllamaServer, vllama: Callable, tmp_path: Path) -> None:
    """Two targets are measured in turn, and the report is on the terminal, in JSON and in HTML."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
    targets = ("--target", f"a=ollama:{ollama.url}", "--target", f"b=ollama:{ollama.url}")
    files = ("--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"))
    done = await vllama("bench", *targets, *QUICK, *files)
    assert done.status == 0
    assert "b / a" in done.out
    assert len(json.loads((tmp_path / "r.json").read_text())["cells"]) == 8
    assert "<svg" in (tmp_path / "r.html").read_text()
    assert len(ollama.requests) == 2 * (1 + 2 * 2 * 2)


async def test_a_log_tells_how_far_it_is(ollama: OllamaServer, vllama: Callable) -> None:
    """Where standard error is no terminal, each turn that was measured is a line there."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
    reported = [line.rpartition(": ")[0] for line in (await vllama("bench", *QUICK)).err.splitlines()]
    turns = [f"server: {streams}, turn {turn}" for streams in ("1 stream", "2 streams") for turn in (1, 2)]
    assert [line for line in reported if line.startswith("server: ")] == turns


async def test_requests_can_be_left_out_of_the_json(ollama: OllamaServer, vllama: Callable, tmp_path: Path) -> None:
    """Results that are kept for comparison need their sums alone."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
    assert (await vllama("bench", *QUICK, "--no-samples", "--json", str(tmp_path / "r.json"))).status == 0
    kept = json.loads((tmp_path / "r.json").read_text())
    assert [line["requests"] for line in kept["lines"]] == [4, 4]
    assert not any(cell["samples"] for cell in kept["cells"])


async def test_without_a_target_the_server_is_measured(ollama: OllamaServer, vllama: Callable) -> None:
    """VLLAMA_HOST is the default target."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
    done = await vllama("bench", *QUICK)
    assert done.out.splitlines()[1].split()[:5] == ["server", "1", "4", "0", done.out.splitlines()[1].split()[4]]


async def test_a_stopped_measurement_keeps_its_whole_turns(
    ollama: OllamaServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """SIGTERM in the middle of the second target's turn: the first target's is printed and written."""
    ollama.answers["POST /api/chat"] = Answer([chunk("Hi"), last()])
    async with ollama_server() as slow:
        slow.answers["POST /api/chat"] = Answer([chunk("Hi"), Hang()])
        targets = ("--target", f"a=ollama:{ollama.url}", "--target", f"b=ollama:{slow.url}")
        flags = (*targets, *QUICK, "--warm-up", "0", "--json", str(tmp_path / "r.json"))
        line = [sys.executable, "-m", "vllama_clients.cli", "bench", *flags]
        process = await asyncio.create_subprocess_exec(*line, env=environment, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not slow.requests:
                await asyncio.sleep(0.02)
            process.terminate()
            out, _ = await process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert out.decode().splitlines()[1].split()[:4] == ["a", "1", "2", "0"]
    assert [line["target"] for line in json.loads((tmp_path / "r.json").read_text())["lines"]] == ["a"]


async def test_failed_requests_are_status_1(ollama: OllamaServer, vllama: Callable) -> None:
    """Errors are counted in the table, and the first one is printed."""
    ollama.answers["POST /api/chat"] = Answer([{"error": "server busy"}], 503)
    done = await vllama("bench", *QUICK)
    assert done.status == 1
    assert "8 requests failed; the first, to server: server busy" in done.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--target", "nonsense"),
        ("--target", "a=ftp:box"),
        ("--target", "a=ollama:box"),
        ("--target", "a=grpc:x:1", "--target", "a=grpc:x:2"),
        ("--concurrency", "0"),
        ("--concurrency", "x"),
        ("--prompt-tokens", "many"),
        ("--trace", "/no/such/file"),
        ("--watch", "a=1"),
        ("--watch", "server=x"),
        ("--interleave", "--concurrency", "1,2"),
        ("compare", "--doors", "bare,back"),
        ("compare", "--target", "chat=ollama:http://127.0.0.1:1"),
    ],
)
def test_bad_flags_are_usage_errors(flags: tuple[str, ...]) -> None:
    """Flags that cannot be read end with status 2, before anything is sent."""
    assert run("bench", command, flags, {}) == 2
