"""The ready-made comparison, with stand-ins for the servers that it starts."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from vllama_benchmarks.bench.access import Access
from vllama_benchmarks.bench.comparison import DOORS, Comparison, opened
from vllama_benchmarks.bench.sample import Request
from vllama_benchmarks.bench.specification import targets, watches
from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

RESOLVER = (sys.executable, "-c", "import sys; print('/weights/' + sys.argv[1])")
BARE = (sys.executable, "-c", "import json, sys; print(json.dumps(['--same', *sys.argv[1:]]))")
BALANCER = (sys.executable, "-m", "tests.benchmarks.stand_in_balancer")
VLLM_SERVER = (sys.executable, "-m", "tests.benchmarks.stand_in_vllm")


def comparison(*vllm_flags: str, engine: str = "vllm", bare: str = "", doors: Sequence[str] = DOORS) -> Comparison:
    """Compares the stand-ins."""
    programs = (BALANCER, VLLM_SERVER, RESOLVER, BARE)
    return Comparison("ready", engine, bare, ("a=1",), doors, (), vllm_flags, 60, *programs)


def children() -> list[psutil.Process]:
    """The stand-ins that run."""
    return [child for child in psutil.Process().children() if "stand_in" in " ".join(child.cmdline())]


async def test_every_door_is_a_target() -> None:
    """From the inside out, the bare engine first, and the balancer is watched where it takes part."""
    printed: list[str] = []
    async with opened(comparison(), printed.append) as doors:
        made = targets(doors.targets, "ready", Access())
        assert tuple(made) == DOORS
        assert list(watches(doors.watches, list(made))) == ["balancer", "chat", "v1"]
        async with made["vllm"].session() as session:
            assert (await session.run(Request("hi", 5))).tokens == 5
        assert len(children()) == 2
    assert not children()
    assert "worker-0: ready" in printed


async def test_vllms_server_gets_weights_name_and_flags() -> None:
    """The directory of the weights, the name, the flags for the worker's engine and what the caller adds."""
    async with opened(comparison("--enforce-eager"), lambda _: None):
        (line,) = [child.cmdline() for child in children() if "--model" in child.cmdline()]
    assert line[line.index("--model") + 1] == "/weights/ready"
    assert line[line.index("--served-model-name") + 1] == "ready"
    assert line[-6:] == ["--same", "/weights/ready", "--engine-arg", "a=1", "--server-flags", "--enforce-eager"]


async def test_what_vllms_server_leaves_behind_is_removed() -> None:
    """Its sockets and temporary files lie in a directory of their own, which goes when it has ended."""
    async with opened(comparison(), lambda _: None):
        (server,) = [child for child in children() if "--model" in child.cmdline()]
        environment = server.environ()
        directory = Path(environment["VLLM_RPC_BASE_PATH"])
        assert environment["TMPDIR"] == str(directory)
        (directory / "left-behind").touch()
    assert not await asyncio.to_thread(directory.exists)


async def test_the_bare_engine_is_given_or_our_own() -> None:
    """Our own gets the weights and the arguments of the worker's engine; another program is called as it is."""
    async with opened(comparison(), lambda _: None) as doors:
        assert doors.targets[0].endswith("/weights/ready --engine-arg a=1")
    async with opened(comparison(bare="python bare.py"), lambda _: None) as doors:
        assert doors.targets[0] == "bare=command:python bare.py"


async def test_a_simulation_has_no_server_of_its_own() -> None:
    """With the simulated engine vLLM's server is left out."""
    async with opened(comparison(engine="fake"), lambda _: None) as doors:
        assert [target.partition("=")[0] for target in doors.targets] == ["worker", "balancer", "chat", "v1"]


async def test_only_the_chosen_doors() -> None:
    """Others are neither measured nor started."""
    async with opened(comparison("--die", doors=["chat", "bare"]), lambda _: None) as doors:
        assert [target.partition("=")[0] for target in doors.targets] == ["bare", "chat"]
        assert [watch.partition("=")[0] for watch in doors.watches] == ["chat"]


async def test_an_engine_that_cannot_be_configured() -> None:
    """The error has the end of the failed program's log."""
    broken = (sys.executable, "-c", "import sys; sys.exit('no such dtype')")
    with pytest.raises(CommandFailed, match="no such dtype"):
        async with opened(replace(comparison(), bare_program=broken), lambda _: None):
            pass
    assert not children()


async def test_a_server_that_does_not_start() -> None:
    """Its log is shown, and what was up before is ended."""
    with pytest.raises(CommandFailed, match="no such flag"):
        async with opened(comparison("--die"), lambda _: None):
            pass
    assert not children()
