"""The programs that serve and worker become, with stand-ins for the two packages on the path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from vllama_clients.cli.worker import model_position

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ECHO = "import json, sys; print(json.dumps([{name!r}, *sys.argv[1:]]))"
RESOLVE = """
import sys
print("converting", file=sys.stderr)
print("/weights/" + sys.argv[2])
sys.exit(sys.argv[2] == "x")
"""


@pytest.fixture
def stand_ins(tmp_path: Path) -> str:
    """Writes packages with the two names, which print how they were called."""
    for name in ("vllama_balancer", "vllama_server"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "__main__.py").write_text(ECHO.format(name=name))
    (tmp_path / "vllama_balancer" / "models").mkdir()
    (tmp_path / "vllama_balancer" / "models" / "__init__.py").touch()
    (tmp_path / "vllama_balancer" / "models" / "__main__.py").write_text(RESOLVE)
    return str(tmp_path)


async def test_serve_passes_everything_on(vllama_process: Callable, stand_ins: str) -> None:
    """Flags, --help among them, reach the balancer untouched and in order."""
    arguments = ["m", "--workers", "2", "--engine-arg", "0.speed=0.5", "--help", "-x"]
    done = await vllama_process("serve", *arguments, PYTHONPATH=stand_ins)
    assert json.loads(done.out) == ["vllama_balancer", *arguments]


async def test_worker_resolves_the_name(vllama_process: Callable, stand_ins: str) -> None:
    """The worker gets the directory of the weights, and the name to be served under."""
    done = await vllama_process(
        "worker", "--listen", "unix:/s", "smollm2:135m", "--deterministic", PYTHONPATH=stand_ins
    )
    assert json.loads(done.out) == [
        *("vllama_server", "--listen", "unix:/s", "/weights/smollm2:135m"),
        *("--served-name", "smollm2:135m", "--deterministic"),
    ]


async def test_worker_keeps_a_given_name(vllama_process: Callable, stand_ins: str) -> None:
    """--served-name is not given twice."""
    done = await vllama_process("worker", "m", "--served-name=n", PYTHONPATH=stand_ins)
    assert json.loads(done.out) == ["vllama_server", "/weights/m", "--served-name=n"]


async def test_the_simulated_engine_takes_any_name(vllama_process: Callable, stand_ins: str) -> None:
    """Nothing is resolved for --engine fake."""
    done = await vllama_process("worker", "anything", "--engine", "fake", PYTHONPATH=stand_ins)
    assert json.loads(done.out) == ["vllama_server", "anything", "--engine", "fake"]


async def test_the_engine_may_be_named_in_the_environment(vllama_process: Callable, stand_ins: str) -> None:
    """VLLAMA_ENGINE is the flag's twin here too."""
    done = await vllama_process("worker", "anything", PYTHONPATH=stand_ins, VLLAMA_ENGINE="fake")
    assert json.loads(done.out) == ["vllama_server", "anything"]


async def test_worker_help_is_the_workers(vllama_process: Callable, stand_ins: str) -> None:
    """Without a model nothing is resolved."""
    done = await vllama_process("worker", "--help", PYTHONPATH=stand_ins)
    assert json.loads(done.out) == ["vllama_server", "--help"]


async def test_a_name_that_cannot_be_resolved(vllama_process: Callable, stand_ins: str) -> None:
    """The resolver's own words are shown, and the worker is not started."""
    done = await vllama_process("worker", "x", PYTHONPATH=stand_ins)
    assert done.status == 1
    assert done.out == ""
    assert "converting" in done.err
    assert "'x'" in done.err


@pytest.mark.parametrize(
    ("arguments", "position"),
    [
        (["m"], 0),
        (["--listen", "a", "m"], 2),
        (["--listen=a", "m"], 1),
        (["--deterministic", "m"], 1),
        (["--listen", "a"], None),
        ([], None),
    ],
)
def test_model_position(arguments: list[str], position: int | None) -> None:
    """A flag's value is not taken for the model."""
    assert model_position(arguments) == position
