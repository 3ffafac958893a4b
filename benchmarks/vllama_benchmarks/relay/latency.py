"""What edge and balancer add to a request of one token, over the worker called directly: in turn, pair by pair."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import grpc

from vllama_benchmarks.relay.lean_client import Connection
from vllama_benchmarks.relay.processes import MODEL, NO_PACE, fleet
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from vllama_benchmarks.relay.processes import Fleet

PAIRS = 1000
WARM_UP_PAIRS = 50


def run(options: argparse.Namespace) -> None:
    """Target 4."""
    with fleet(1, NO_PACE) as running:
        for _ in range(options.repeats):
            direct, through = _pairs(running)
            added = sorted(b - a for a, b in zip(direct, through, strict=True))
            print(
                f"one token, {PAIRS} pairs: direct median {_ms(direct, 0.5)} p99 {_ms(direct, 0.99)};"
                f" through the chain median {_ms(through, 0.5)} p99 {_ms(through, 0.99)};"
                f" added median {1e3 * statistics.median(added):.3f} ms, p99 {_ms(added, 0.99)}"
                f" (difference of p99s {1e3 * (_at(through, 0.99) - _at(direct, 0.99)):.3f} ms)",
                flush=True,
            )


def _pairs(running: Fleet) -> tuple[list[float], list[float]]:
    direct, through = [], []
    connection = Connection(running.http_port)
    with grpc.insecure_channel(running.workers[0]) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        for index in range(WARM_UP_PAIRS + PAIRS):
            direct.append(_call(stub, f"direct {index}"))
            connection.ask(f"chain {index}", 1)
            answer = connection.wait()
            through.append(answer.ended_at - answer.sent_at)
            answer.check()
    connection.close()
    return direct[WARM_UP_PAIRS:], through[WARM_UP_PAIRS:]


def _call(stub: generation_pb2_grpc.GenerationStub, prompt: str) -> float:
    chat = generation_pb2.Chat(messages=[generation_pb2.Message(role="user", content=prompt)])
    request = generation_pb2.GenerateRequest(model=MODEL, chat=chat, sampling=generation_pb2.Sampling(max_tokens=1))
    began = time.monotonic()
    for _ in stub.Generate(request):
        pass
    return time.monotonic() - began


def _at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _ms(values: list[float], share: float) -> str:
    return f"{1e3 * _at(values, share):.3f} ms"
