"""list, ps, show, version: what they print from the server's answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.clients.cli.ollama_server import SHOW, TAGS, Answer
from vllama_clients.cli.ps import processor
from vllama_clients.cli.show import page

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.cli.ollama_server import OllamaServer


async def test_list_prints_columns(ollama: OllamaServer, vllama: Callable) -> None:
    """Names, short ids and sizes stand in columns."""
    ollama.answers["GET /api/tags"] = Answer([TAGS])
    done = await vllama("list")
    header, first, second = done.out.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert first.split()[:4] == ["smollm2:135m", "abababababab", "269", "MB"]
    assert second.split()[:4] == ["qwen2.5:7b", "cdcdcdcdcdcd", "15", "GB"]
    assert done.status == 0


async def test_list_of_nothing_is_a_header(ollama: OllamaServer, vllama: Callable) -> None:
    """No models is no error."""
    ollama.answers["GET /api/tags"] = Answer([{"models": []}])
    done = await vllama("list")
    assert (done.out.split(), done.status) == (["NAME", "ID", "SIZE", "MODIFIED"], 0)


async def test_list_filters_by_prefix(ollama: OllamaServer, vllama: Callable) -> None:
    """An argument keeps the names that begin with it, whatever the case."""
    ollama.answers["GET /api/tags"] = Answer([TAGS])
    assert [line.split()[0] for line in (await vllama("list", "Qwen")).out.splitlines()] == ["NAME", "qwen2.5:7b"]


async def test_list_as_json(ollama: OllamaServer, vllama: Callable) -> None:
    """--json prints the server's answer."""
    ollama.answers["GET /api/tags"] = Answer([TAGS])
    assert json.loads((await vllama("list", "--json")).out) == TAGS["models"]


async def test_ps_prints_where_and_until_when(ollama: OllamaServer, vllama: Callable) -> None:
    """The processor, the context and the end of the keep-alive are printed."""
    model = {**TAGS["models"][0], "size_vram": 0, "context_length": 4096, "expires_at": "2318-01-01T00:00:00Z"}
    ollama.answers["GET /api/ps"] = Answer([{"models": [model]}])
    line = (await vllama("ps")).out.splitlines()[1]
    assert "100% CPU" in line
    assert line.endswith("forever")


async def test_ps_tells_what_is_loading_or_asleep(ollama: OllamaServer, vllama: Callable) -> None:
    """A loading model has its progress, a sleeping one its state."""
    ollama.answers["GET /api/ps"] = Answer([{"models": []}])
    fleet = {"loading": {"a:7b": "starting: loading weights 40% on worker-0; 3 requests wait"}, "asleep": ["b:1b"]}
    ollama.answers["GET /fleet"] = Answer([fleet])
    lines = (await vllama("ps")).out.splitlines()
    assert lines[1].startswith("a:7b") and lines[1].endswith("loading weights 40% on worker-0; 3 requests wait")
    assert lines[2].startswith("b:1b") and lines[2].endswith("asleep")
    assert [model["state"] for model in json.loads((await vllama("ps", "--json")).out)] == ["loading", "asleep"]


@pytest.mark.parametrize(
    ("on_gpu", "text"), [(0, "100% CPU"), (100, "100% GPU"), (200, "100% GPU"), (25, "75%/25% CPU/GPU")]
)
def test_processor(on_gpu: int, text: str) -> None:
    """The share on the GPU is derived as Ollama's command does it."""
    assert processor({"size": 100, "size_vram": on_gpu}) == text


def test_page_of_a_model() -> None:
    """Sections that have something to say are shown, the licence by its first lines."""
    text = page(SHOW)
    assert "architecture        llama" in text
    assert "context length      4096" in text
    assert "tools" in text
    assert 'stop                           "<|im_end|>"' in text
    assert "Version 2.0" in text
    assert "and so on" not in text
    assert "System" not in text


async def test_show_asks_for_the_model(ollama: OllamaServer, vllama: Callable) -> None:
    """The name goes to the server as it was typed."""
    ollama.answers["POST /api/show"] = Answer([SHOW])
    done = await vllama("show", "SmolLM2:135m")
    assert "134.52M" in done.out
    assert ollama.requests == [("POST /api/show", {"model": "SmolLM2:135m"})]


async def test_show_one_part(ollama: OllamaServer, vllama: Callable) -> None:
    """--template prints the template and nothing else."""
    ollama.answers["POST /api/show"] = Answer([SHOW])
    assert (await vllama("show", "m", "--template")).out == "{% for message in messages %}\n"


async def test_show_two_parts_is_a_usage_error(vllama: Callable) -> None:
    """Only one part can be chosen; status 2."""
    done = await vllama("show", "m", "--template", "--license")
    assert done.status == 2
    assert "give one of" in done.err


async def test_version_tells_both(ollama: OllamaServer, vllama: Callable) -> None:
    """The command's own version and the API's stand below each other."""
    ollama.answers["GET /api/version"] = Answer([{"version": "0.12.6"}])
    done = await vllama("version")
    assert done.out.startswith("vllama ")
    assert "0.12.6" in done.out


async def test_version_without_a_server(vllama: Callable) -> None:
    """The own version is printed even when no server answers."""
    done = await vllama("--version", VLLAMA_HOST="127.0.0.1:1")
    assert done.out.startswith("vllama ")
    assert done.status == 0
