"""An edge on a free port, in front of a gateway that plays scripts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
import uvloop

from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from vllama_balancer.edge.config import EdgeConfig
    from vllama_balancer.gateway import Gateway

    Serve = Callable[..., AbstractAsyncContextManager[aiohttp.ClientSession]]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The edge runs on uvloop, whose transports are not asyncio's own: so do its tests."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def serve() -> Serve:
    """A context manager that serves a gateway and gives a session bound to its address."""

    @asynccontextmanager
    async def serving(
        gateway: Gateway, config: EdgeConfig | None = None, **options: object
    ) -> AsyncIterator[aiohttp.ClientSession]:
        server = EdgeServer(build_app(gateway, config=config, **{"fleet": FakeFleet(), **options}))  # type: ignore[arg-type]
        port = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield session
        finally:
            await server.stop()

    return serving


@pytest.fixture
def gateway() -> FakeGateway:
    """A gateway with one small chat model."""
    return FakeGateway()


@pytest.fixture
async def http(gateway: FakeGateway, serve: Serve) -> AsyncIterator[aiohttp.ClientSession]:
    """A session of an edge in front of `gateway`."""
    async with serve(gateway) as session:
        yield session
