"""pull, rm, cp, stop: their calls to the server."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING

from rich.console import Console

from tests.clients.cli.ollama_server import Answer
from vllama_clients.cli.pull_progress import Bars

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.cli.ollama_server import OllamaServer

DIGEST = "sha256:" + "ab" * 32


def progress(completed: int, total: int = 1000) -> dict[str, object]:
    """Builds a line of a download."""
    return {"status": "pulling abababababab", "digest": DIGEST, "total": total, "completed": completed}


async def test_pull_prints_plain_lines(ollama: OllamaServer, vllama: Callable) -> None:
    """Off a terminal each tenth of a file is a line, however often the server reports."""
    lines = [progress(done) for done in range(0, 1001, 5)]
    ollama.answers["POST /api/pull"] = Answer([{"status": "pulling manifest"}, *lines, {"status": "success"}])
    done = await vllama("pull", "m")
    assert done.err.splitlines()[0] == "pulling manifest"
    assert done.err.splitlines()[-2:] == ["pulling abababababab: 1.0 KB of 1.0 KB (100%)", "success"]
    assert len(done.err.splitlines()) == 13
    assert (done.out, done.status) == ("", 0)


def test_the_bars_of_a_pull_stand_where_they_belong() -> None:
    """On a terminal a line after a file stands below its bar, and a file has one bar."""
    screen = io.StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=100)) as bars:
        for line in ({"status": "pulling manifest"}, progress(10), {"status": "pulling config.json"}, progress(1000)):
            bars.show(line)
        for line in ({"status": "writing manifest"}, progress(1000), {"status": "success"}):
            bars.show(line)
    lines = [line for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue()).split("\n") if line.strip()]
    assert lines[0] == "pulling manifest" and "1.0/1.0 kB" in lines[-3]
    assert lines[-2:] == ["writing manifest", "success"]


async def test_pull_as_json(ollama: OllamaServer, vllama: Callable) -> None:
    """--json passes the server's lines on."""
    lines = [{"status": "pulling manifest"}, progress(500), {"status": "success"}]
    ollama.answers["POST /api/pull"] = Answer(lines)
    done = await vllama("pull", "m", "--json")
    assert [json.loads(line) for line in done.out.splitlines()] == lines


async def test_pull_that_fails(ollama: OllamaServer, vllama: Callable) -> None:
    """An error line ends with status 1 and the server's sentence."""
    ollama.answers["POST /api/pull"] = Answer(
        [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
    )
    done = await vllama("pull", "m")
    assert done.status == 1
    assert "Error: pull model manifest: file does not exist" in done.err


async def test_pull_that_breaks_off(ollama: OllamaServer, vllama: Callable) -> None:
    """A download without "success" failed, and the error says how to continue."""
    ollama.answers["POST /api/pull"] = Answer([progress(500)])
    done = await vllama("pull", "m")
    assert done.status == 1
    assert "vllama pull m" in done.err


async def test_json_pull_that_breaks_off(ollama: OllamaServer, vllama: Callable) -> None:
    """With --json the status is the same."""
    ollama.answers["POST /api/pull"] = Answer([progress(500)])
    assert (await vllama("pull", "m", "--json")).status == 1


async def test_rm_deletes_each(ollama: OllamaServer, vllama: Callable) -> None:
    """Every name is deleted and printed."""
    ollama.answers["DELETE /api/delete"] = Answer([])
    done = await vllama("rm", "a", "b")
    assert [body["model"] for _, body in ollama.requests] == ["a", "b"]
    assert done.out == "deleted 'a'\ndeleted 'b'\n"


async def test_rm_of_an_unknown_model(ollama: OllamaServer, vllama: Callable) -> None:
    """The server's sentence, status 1."""
    ollama.answers["DELETE /api/delete"] = Answer([{"error": "model 'a' not found"}], 404)
    done = await vllama("rm", "a")
    assert (done.err, done.status) == ("Error: model 'a' not found\n", 1)


async def test_cp_copies(ollama: OllamaServer, vllama: Callable) -> None:
    """Source and destination reach the server; its empty answer is a success."""
    ollama.answers["POST /api/copy"] = Answer([])
    done = await vllama("cp", "a", "b")
    assert ollama.requests == [("POST /api/copy", {"source": "a", "destination": "b"})]
    assert done.status == 0


async def test_stop_unloads(ollama: OllamaServer, vllama: Callable) -> None:
    """Where no balancer takes orders, unloading is a generate with keep_alive 0, as in Ollama."""
    ollama.answers["POST /api/generate"] = Answer([{"done": True, "done_reason": "unload"}])
    done = await vllama("stop", "m", VLLAMA_GRPC="127.0.0.1:1")
    assert ollama.requests == [("POST /api/generate", {"model": "m", "keep_alive": 0, "stream": False})]
    assert done.out == "m is unloaded as soon as it is idle, unless the server was started with it\n"
    assert done.status == 0
