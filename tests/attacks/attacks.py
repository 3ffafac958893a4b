"""What a hostile client with an ordinary key can send; each attack is bounded in count and time, and goes to loopback.

An attack is a coroutine over a Target. What it gets back does not matter here: only what becomes of others does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import grpc

from tests.attacks.fleet import ATTACKER, MIB, MODEL
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = {"Authorization": f"Bearer {ATTACKER}"}
METADATA = (("authorization", f"Bearer {ATTACKER}"),)
ORDINARY_SECONDS = 3.0
SECONDS = 20.0
"""An attacker waits no longer for an answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an attack goes."""

    http_port: int
    grpc_port: int

    async def post(self, path: str, body: bytes, **headers: str) -> int:
        """Sends one body; returns the status, 0 for none."""
        limit = aiohttp.ClientTimeout(total=SECONDS)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with (
                aiohttp.ClientSession(f"http://127.0.0.1:{self.http_port}", timeout=limit) as http,
                http.post(path, data=body, headers={**KEY, **headers}) as reply,
            ):
                await reply.read()
                return reply.status
        return 0

    async def packed(self, path: str, body: bytes) -> int:
        """The same, compressed: a few kilobytes on the wire."""
        return await self.post(path, await asyncio.to_thread(gzip.compress, body, 9), **{"Content-Encoding": "gzip"})

    def channel(self) -> grpc.aio.Channel:
        """Opens a gRPC channel that may send large messages."""
        options = [("grpc.max_send_message_length", 80 * MIB), ("grpc.max_receive_message_length", 80 * MIB)]
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}", options=options)


async def ordinary_requests(target: Target, clients: int) -> None:
    """What so many honest clients send beside: one short generation after the other, for three seconds."""
    body = json.dumps({"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 16}}).encode()

    async def ask() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORDINARY_SECONDS):
                while True:
                    await target.post("/api/generate", body)

    await asyncio.gather(*(ask() for _ in range(clients)))


async def many_choices(target: Target) -> None:
    """128 choices of a prompt of 8 MiB, 8 kB on the wire."""
    chat = {"model": MODEL, "n": 128, "max_tokens": 1, "messages": [{"role": "user", "content": "a " * (4 * MIB - 99)}]}
    await target.packed("/v1/chat/completions", json.dumps(chat).encode())
    await target.packed("/v1/completions", json.dumps({"model": MODEL, "n": 128, "prompt": "a " * MIB}).encode())


async def a_million_inputs(target: Target) -> None:
    """As many texts to embed as fit into 4 MiB."""
    body = b'{"model":"demo:1b","input":[' + b'"a",' * MIB + b'"a"]}'
    await asyncio.gather(target.packed("/api/embed", body), target.packed("/v1/embeddings", body))


async def half_surrogates(target: Target) -> None:
    """Halves of surrogate pairs, 20 MiB of them and then 7."""
    for mib in (20, 7):
        text = b"\\ud800" * (mib * MIB // 6)
        await target.packed("/api/generate", b'{"model":"demo:1b","prompt":"' + text + b'"}')


async def nested_json(target: Target) -> None:
    """Millions of lists, wide and deep, in fields that nothing reads."""
    head = b'{"model":"demo:1b","prompt":"x","stream":false,'
    await target.packed("/api/generate", head + b'"options":{"a":[' + b"[]," * (5 * MIB) + b"0]}}")
    await target.packed("/api/generate", head + b'"options":{"a":[' + b"[]," * MIB + b"0]}}")
    await target.packed("/api/chat", head + b'"unknown":' + b"[" * MIB + b"]" * MIB + b"}")
    await target.packed("/v1/messages", head + b'"metadata":' + b'{"a":' * MIB + b"1" + b"}" * MIB + b"}")


async def large_constraints(target: Target) -> None:
    """An enum of 60,000 values, and a grammar of a mebibyte of parentheses."""
    schema = {"enum": [f"{'x' * 50}{number}" for number in range(60_000)]}
    body = json.dumps({"model": MODEL, "prompt": "x", "stream": False, "format": schema}).encode()
    await target.packed("/api/generate", body)
    async with target.channel() as channel:
        for constraint in (
            generation_pb2.OutputFormat(grammar="root ::= " + "(" * (MIB // 2) + ")" * (MIB // 2)),
            generation_pb2.OutputFormat(regex="(" * (MIB // 2) + ")" * (MIB // 2)),
            generation_pb2.OutputFormat(choice=generation_pb2.Choice(options=[f"{i}" for i in range(80_000)])),
        ):
            await _generate(channel, prompt="x", output_format=constraint)


async def templates(target: Target) -> None:
    """A template that never ends, and one that takes a gigabyte."""
    loops = "{% for i in range(30000) %}{% for j in range(30000) %}{% endfor %}{% endfor %}x"
    for template in (loops, "{{ ('A' * 1000000000) | length }}"):
        body = {"model": MODEL, "prompt": "hi", "template": template, "stream": False}
        await target.post("/api/generate", json.dumps(body).encode())
        chat = generation_pb2.Chat(messages=[generation_pb2.Message(role="user", content="x")], template=template)
        async with target.channel() as channel:
            await _generate(channel, chat=chat)


async def long_names(target: Target) -> None:
    """Names of 20 kB, which errors would quote in the metadata."""
    await target.post("/api/generate", json.dumps({"model": "m" * 20_000, "prompt": "x"}).encode())
    async with target.channel() as channel:
        await asyncio.gather(*(_generate(channel, model="m" * 20_000, prompt="x") for _ in range(20)))


async def hostile_numbers(target: Target) -> None:
    """Numbers at and beyond the ends of what machines count with."""
    numbers = ("9223372036854775807", "1e300", "-1e300", "1e15", "-0.0", "18446744073709551616", '"100000000h"', "NaN")
    for number in numbers:
        for field in ("keep_alive", "think"):
            body = f'{{"model":"demo:1b","prompt":"x","stream":false,"options":{{"num_predict":1}},"{field}":{number}}}'
            await target.post("/api/generate", body.encode())
        for option in ("num_predict", "seed", "temperature", "top_k", "num_ctx", "repeat_penalty"):
            options = f'{{"{option}":{number}, "stop": ["1"]}}'
            body = f'{{"model":"demo:1b","prompt":"x","stream":false,"options":{options}}}'
            await asyncio.wait([asyncio.create_task(target.post("/api/generate", body.encode()))], timeout=1)
        await asyncio.wait(
            [asyncio.create_task(target.post("/api/generate", b'{"model":"demo:1b"}', Prefer=f"wait={number}"))],
            timeout=1,
        )


async def silent_connections(target: Target) -> None:
    """300 connections that say nothing, or half of a head, for three seconds."""
    async with contextlib.AsyncExitStack() as opened:
        for number in range(300):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", target.http_port)
                opened.callback(writer.close)
                if number % 2:
                    writer.write(b"POST /api/chat HTTP/1.1\r\nHost: loc")
        await asyncio.sleep(3)


async def broken_bodies(target: Target) -> None:
    """Wrong encodings, and connections that are reset in the middle of a body."""
    for encoding in ("gzip", "deflate", "zstd", "br", "nonsense"):
        await asyncio.gather(
            *(target.post("/api/chat", b"\x1f\x8bno gzip", **{"Content-Encoding": encoding}) for _ in range(20))
        )
    for _ in range(100):
        await asyncio.to_thread(_reset_in_the_middle, target.http_port)


async def unread_streams(target: Target) -> None:
    """150 streams that are asked for and never read, over gRPC."""
    async with target.channel() as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        request = generation_pb2.GenerateRequest(model=MODEL, prompt="x", sampling={"max_tokens": 2_000})
        calls = [stub.Generate(request, metadata=METADATA) for _ in range(150)]
        await asyncio.sleep(3)
        for call in calls:
            call.cancel()


async def one_key_in_many_spellings(target: Target) -> None:
    """120 requests of one client, each with the key written in another way, at the highest priority."""
    async with target.channel() as channel:
        await asyncio.gather(
            *(
                _generate(
                    channel,
                    metadata=(("authorization", f"Bearer {' ' * number}{ATTACKER}"), ("x-api-key", f"{number}")),
                    prompt=f"{number}",
                    sampling={"max_tokens": 60},
                    priority=-(2**31),
                )
                for number in range(120)
            )
        )


async def long_resumes(target: Target) -> None:
    """Streams that are said to have gone on far beyond their end."""
    async with target.channel() as channel:
        ids = list(range(20_000))
        await asyncio.gather(
            *(_generate(channel, prompt="x", resume_token_ids=ids, sampling={"max_tokens": 5}) for _ in range(20))
        )


async def management(target: Target) -> None:
    """Models and workers of all are overwritten, deleted, drained and pulled by a key that may only infer."""
    bodies = {
        "/api/create": {"model": MODEL, "from": MODEL, "system": "INJECTED"},
        "/api/copy": {"source": MODEL, "destination": "qwen2.5:7b"},
        "/api/pull": {"model": "hf.co/nobody/nothing", "stream": False},
    }
    for path, body in bodies.items():
        await asyncio.gather(*(target.post(path, json.dumps({**body, "stream": False}).encode()) for _ in range(10)))
    async with target.channel() as channel:
        fleet = fleet_pb2_grpc.FleetStub(channel)
        for number in range(2):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await fleet.DrainWorker(
                    fleet_pb2.DrainWorkerRequest(worker=f"worker-{number}"), metadata=METADATA, timeout=SECONDS
                )


async def _generate(
    channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = METADATA, **fields: object
) -> None:
    request = generation_pb2.GenerateRequest(**{"model": MODEL, **fields})
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in generation_pb2_grpc.GenerationStub(channel).Generate(
            request, metadata=metadata, timeout=SECONDS
        ):
            pass


def _reset_in_the_middle(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


ATTACKS: tuple[Callable[[Target], Awaitable[None]], ...] = (
    many_choices,
    a_million_inputs,
    half_surrogates,
    nested_json,
    large_constraints,
    templates,
    long_names,
    hostile_numbers,
    silent_connections,
    broken_bodies,
    unread_streams,
    one_key_in_many_spellings,
    long_resumes,
    management,
)

CLIENTS_OF = {unread_streams: 150, one_key_in_many_spellings: 120, long_resumes: 20, broken_bodies: 20, management: 10}
"""Requests of an attack at once, where it is more than one: what innocents would meet beside honest clients as well."""
