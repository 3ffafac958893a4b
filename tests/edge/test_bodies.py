"""Compressed bodies are read, and damaged ones are refused."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.fake_gateway import FakeGateway

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve

BODY = json.dumps({"model": "smollm2:135m", "prompt": "hi", "stream": False}).encode()


@pytest.mark.parametrize(("coding", "data"), [("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY))])
async def test_compressed_bodies(http: aiohttp.ClientSession, coding: str, data: bytes) -> None:
    """Some clients compress what they send."""
    async with http.post("/api/generate", data=data, headers={"Content-Encoding": coding}) as reply:
        assert (await reply.json())["response"] == "Hello world"


async def test_a_damaged_body_is_400(http: aiohttp.ClientSession) -> None:
    """What cannot be decompressed is the client's fault."""
    async with http.post("/api/generate", data=b"no gzip", headers={"Content-Encoding": "gzip"}) as reply:
        assert reply.status == 400
        assert "error" in await reply.json()


async def test_a_small_body_that_grows_is_413(serve: Serve) -> None:
    """The limit holds for what comes out of the decompression."""
    bomb = gzip.compress(b" " * 10_000_000)
    async with (
        serve(FakeGateway(), EdgeConfig(max_body_bytes=1_000_000)) as http,
        http.post("/api/generate", data=bomb, headers={"Content-Encoding": "gzip"}) as reply,
    ):
        assert reply.status == 413
