"""An edge in a thread of its own, in front of a gateway that plays scripts: for clients that block."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet

if TYPE_CHECKING:
    from types import TracebackType

    from vllama_balancer.fake_gateway import FakeGateway


class ScriptedEdge:
    """Serves a gateway while its context is open."""

    def __init__(self, gateway: FakeGateway) -> None:
        self.gateway = gateway
        self.url = ""
        """Where it listens, once entered."""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> ScriptedEdge:
        self._thread.start()
        assert self._ready.wait(10), "the edge did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        server = EdgeServer(build_app(self.gateway, fleet=FakeFleet()))
        self.url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            await server.stop()
