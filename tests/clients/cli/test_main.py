"""The command line as a whole: help, misspellings, statuses, speed, completion."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from vllama_benchmarks.bench.command import command as bench
from vllama_benchmarks.demo.command import command as demo
from vllama_clients.cli.main import COMMANDS, OWN_MODULES, run
from vllama_clients.cli.passed_through import PROGRAMS

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
    done = await vllama_process("--help", COLUMNS="80")
    assert len(done.out.splitlines()) <= 40
    assert 'vllama run smollm2:135m "Why is the sky blue?"' in done.out


TYPER_PROGRAMS = {"bench": bench, "demo": demo}


def test_the_listed_help_is_the_commands_own() -> None:
    """The list of commands repeats the first line of each command's help, so it is checked here."""
    for name in [*(name for name in COMMANDS if name not in PROGRAMS), *OWN_MODULES, *TYPER_PROGRAMS]:
        command = TYPER_PROGRAMS.get(name) or import_module(f"vllama_clients.cli.{name}").command
        head = command.__doc__.splitlines()[0].rstrip(".")
        assert head.startswith(COMMANDS[name].rstrip(".").split(",")[0]), name


@pytest.mark.parametrize("name", COMMANDS)
async def test_the_help_of_every_command_fits_a_screen(name: str, vllama_process: Callable) -> None:
    """On 80 columns each --help has at most 40 lines, names the command, and has an example."""
    done = await vllama_process(name, "--help", COLUMNS="80")
    lines = done.out.splitlines()
    assert done.status == 0 and f"vllama {name}" in done.out
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert re.search(r"[Ee]xamples?:|e\.g\.", done.out)


@pytest.mark.parametrize(
    ("name", "seldom"),
    [("serve", "--trusted-proxy"), ("worker", "--parent-fd"), ("bench", "--watch")],
)
async def test_the_long_help_has_every_flag(name: str, seldom: str, vllama_process: Callable) -> None:
    """--help-all, which the short help names, has the flags that the short one leaves out."""
    short, long = [await vllama_process(name, option, COLUMNS="80") for option in ("--help", "--help-all")]
    assert seldom not in short.out and "--help-all" in short.out
    assert seldom in long.out and long.status == 0
    assert set(re.findall(r"--[a-z][a-z-]+", short.out)) < set(re.findall(r"--[a-z][a-z-]+", long.out))


def test_a_misspelt_command_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The right name is suggested."""
    assert run(["lisst"], {}) == 2
    assert "list" in capsys.readouterr().err


def test_a_missing_argument_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error has a status of its own."""
    assert run(["show"], {}) == 2
    assert "model" in capsys.readouterr().err.lower()


async def test_no_server_is_one_sentence_and_status_1(vllama: Callable) -> None:
    """The error says what to do, without a traceback."""
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


async def test_a_typer_program_completes_its_values(vllama_process: Callable) -> None:
    """The shell's call reaches the program behind the command, which completes more than flags."""
    done = await vllama_process(_VLLAMA_COMPLETE="complete_bash", COMP_WORDS="vllama bench c", COMP_CWORD="2")
    assert done.out.split() == ["compare"]


COMPLETIONS = {
    "bash": lambda line: {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))},
    "zsh": lambda line: {"_TYPER_COMPLETE_ARGS": line},
    "fish": lambda line: {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}
"""How the script of each shell calls back."""


@pytest.mark.parametrize("shell", COMPLETIONS)
@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("vllama run --sys", "--system"),
        ("vllama bench --watc", "--watch"),
        ("vllama simulate --poli", "--policies"),
        ("vllama serve qwen2.5:7b --truste", "--trusted-proxy"),
        ("vllama worker --paren", "--parent-fd"),
    ],
)
async def test_shells_complete_flags(shell: str, line: str, flag: str, vllama_process: Callable) -> None:
    """All flags of a command are completed, those of the programs behind it as well."""
    done = await vllama_process(_VLLAMA_COMPLETE=f"complete_{shell}", **COMPLETIONS[shell](line))
    assert done.status == 0 and set(re.findall(r"--[a-z][a-z-]+", done.out)) == {flag}
