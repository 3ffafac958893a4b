"""The real client, in front of a gateway whose models differ in what they can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anthropic
import pytest

from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, model
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = (worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT)
MOST = (*TEXT, worker_pb2.CAPABILITY_TOOLS, worker_pb2.CAPABILITY_VISION)


@pytest.fixture
def gateway() -> FakeGateway:
    """A chat model with tools and vision, one with thinking as well, and one for chat alone."""
    return FakeGateway(
        model("smollm2:135m", capabilities=MOST),
        model("thinker:latest", capabilities=(*MOST, worker_pb2.CAPABILITY_THINKING)),
        model("plain:latest", capabilities=TEXT),
    )


@pytest.fixture
async def base_url(gateway: FakeGateway) -> AsyncIterator[str]:
    """The address of an edge in front of the gateway."""
    server = EdgeServer(build_app(gateway, fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's asyncio client."""
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key="any", max_retries=0) as opened:
        yield opened
