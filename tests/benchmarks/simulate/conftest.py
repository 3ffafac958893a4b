"""Requests and fleets small enough to follow by hand."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from vllama_benchmarks.simulate.engine_model import EngineModel
from vllama_benchmarks.simulate.placement import PlacementContext
from vllama_benchmarks.simulate.workload import Request, Segment, Turn

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def ask() -> Callable[..., Request]:
    """Makes a request from segments given as (text, tokens)."""

    def build(*segments: tuple[int, int], output_tokens: int = 10, asked_seconds: float = 0.0) -> Request:
        turn = Turn(tuple(Segment(*segment) for segment in segments), output_tokens)
        return Request(turn, "", asked_seconds)

    return build


@pytest.fixture
def fleet() -> Callable[..., PlacementContext]:
    """Makes what a placement is built from: as many engines as speeds."""

    def build(*speeds: float) -> PlacementContext:
        return PlacementContext(len(speeds), random.Random(1), [EngineModel(speed) for speed in speeds])

    return build
