"""Tokens per second through the balancer's gRPC front, and the CPU time per token."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING

import grpc

from vllama_benchmarks.relay import throughput
from vllama_benchmarks.relay.lean_client import WrongReply
from vllama_benchmarks.relay.processes import MODEL, NO_PACE, fleet
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    import argparse

    from vllama_benchmarks.relay.processes import Fleet

STREAMS = 50
TOKENS = 400


def run(options: argparse.Namespace) -> None:
    """The gRPC front, with steps that take no time."""
    with fleet(1, NO_PACE) as running:
        _measure(running, 1, "warm-up")
        for repeat in range(options.repeats):
            found = _measure(running, options.rounds, f"run {repeat}")
            print(throughput.show(f"gRPC door, {STREAMS} x {TOKENS}", found), flush=True)


def _measure(running: Fleet, rounds: int, label: str) -> throughput.Throughput:
    balancer, worker = running.cpu_seconds()
    client, began = time.process_time(), time.monotonic()
    deltas = asyncio.run(_drive(running.grpc_address, rounds, label))
    elapsed, client_cpu = time.monotonic() - began, time.process_time() - client
    balancer_now, worker_now = running.cpu_seconds()
    return throughput.Throughput.of(
        STREAMS * TOKENS * rounds, deltas, elapsed, balancer_now - balancer, worker_now - worker, client_cpu
    )


async def _drive(address: str, rounds: int, label: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: generation_pb2_grpc.GenerationAsyncStub = generation_pb2_grpc.GenerationStub(channel)
        streams = [_stream(stub, rounds, f"{label} stream {index}") for index in range(STREAMS)]
        return sum(await asyncio.gather(*streams))


async def _stream(stub: generation_pb2_grpc.GenerationAsyncStub, rounds: int, label: str) -> int:
    """Generates again and again; returns the number of deltas."""
    deltas = 0
    for number in range(rounds):
        prompt = f"{label} round {number}"
        sampling = generation_pb2.Sampling(max_tokens=TOKENS)
        call = stub.Generate(generation_pb2.GenerateRequest(model=MODEL, prompt=prompt, sampling=sampling))
        texts = [event.delta.text async for event in call if event.HasField("delta")]
        mark = hashlib.sha256(prompt.encode()).hexdigest()[:4]
        if "".join(texts) != "".join(f" {mark}.{index}" for index in range(TOKENS)):
            raise WrongReply(f"the text differs: {''.join(texts)[:200]!r}")
        deltas += len(texts)
    return deltas
