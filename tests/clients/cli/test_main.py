"""The command line as a whole: help, misspellings, statuses, speed, completion."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from vllama_clients.cli.main import COMMANDS, PASSED_THROUGH, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.cli.ollama_server import OllamaServer


async def test_help_lists_every_command(vllama_process: Callable) -> None:
    """`vllama --help` names all commands."""
    done = await vllama_process("--help")
    assert all(f" {name} " in done.out for name in COMMANDS)
    assert done.status == 0


async def test_help_fits_a_screen(vllama_process: Callable) -> None:
    """`vllama --help` has at most 40 lines and an example."""
    done = await vllama_process("--help")
    assert len(done.out.splitlines()) <= 40
    assert 'vllama run smollm2:135m "Why is the sky blue?"' in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listed_help_is_the_commands_own(name: str) -> None:
    """The list of commands repeats the first line of each command's help, so it is checked here."""
    docstring = import_module(f"vllama_clients.cli.{name}").command.__doc__
    assert docstring.splitlines()[0].rstrip(".").startswith(COMMANDS[name].rstrip(".").split(",")[0])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in PASSED_THROUGH])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's --help works, says what it does, and has an example; the others' is another program's."""
    assert run([name, "--help"], {}) == 0
    text = capsys.readouterr().out
    assert f"vllama {name}" in text
    assert "xample: " in text or "e.g." in text


def test_a_misspelt_command_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The right name is suggested."""
    assert run(["lisst"], {}) == 2
    assert "list" in capsys.readouterr().err


def test_a_missing_argument_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error has a status of its own."""
    assert run(["show"], {}) == 2
    assert "model" in capsys.readouterr().err.lower()


async def test_no_server_is_one_sentence_and_status_1(vllama: Callable) -> None:
    """What to do is said, without a traceback."""
    done = await vllama("list", VLLAMA_HOST="127.0.0.1:1")
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert "vllama serve" in done.err
    assert "127.0.0.1:1" in done.err


async def test_another_kind_of_server_is_recognised(ollama: OllamaServer, vllama: Callable) -> None:
    """An answer that is no JSON object is one sentence, not a traceback."""
    from tests.clients.cli.ollama_server import Answer

    ollama.answers["GET /api/tags"] = Answer(["<html>"])
    done = await vllama("list")
    assert done.status == 1
    assert "is it a vllama or Ollama server" in done.err


async def test_the_api_key_is_sent(ollama: OllamaServer, vllama: Callable) -> None:
    """VLLAMA_API_KEY goes into the Authorization header."""
    await vllama("list", VLLAMA_API_KEY="s3cret")
    assert ollama.authorizations == ["Bearer s3cret"]


def test_list_loads_nothing_heavy() -> None:
    """The light commands import neither grpc nor aiohttp."""
    code = (
        "import sys; from vllama_clients.cli.main import app; app(['list'], {});"
        "sys.exit(bool({'grpc', 'aiohttp', 'google.protobuf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell gets a script that calls back."""
    assert run(["completion", shell], {}) == 0
    assert "_VLLAMA_COMPLETE" in capsys.readouterr().out


async def test_bash_completes_commands(vllama_process: Callable) -> None:
    """The callback of the bash script lists the commands that fit."""
    done = await vllama_process(_VLLAMA_COMPLETE="complete_bash", COMP_WORDS="vllama s", COMP_CWORD="1")
    assert {"serve", "show", "stop"} <= set(done.out.split())


async def test_bash_completes_flags(vllama_process: Callable) -> None:
    """The flags of a command are completed as well."""
    done = await vllama_process(_VLLAMA_COMPLETE="complete_bash", COMP_WORDS="vllama run --sys", COMP_CWORD="2")
    assert done.out.split() == ["--system"]
