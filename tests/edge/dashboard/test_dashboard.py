"""In a real browser the dashboard shows the fleet and chats with a model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.callers import Access
from vllama_balancer.errors import WorkerLost
from vllama_balancer.fake_gateway import FakeGateway, delta, finished, started
from vllama_balancer.keys import ApiKey, ApiKeys
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve
    from tests.edge.dashboard.conftest import Tab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]


class Fleet:
    """Three workers: one serves, one starts, one has failed."""

    def fleet(self) -> fleet_pb2.ListWorkersResponse:
        """Lists them."""
        device = worker_pb2.Device(kind="cuda", name="NVIDIA L4")
        serving = fleet_pb2.WorkerStatus(
            name="worker-0",
            available=True,
            leases=12,
            description=worker_pb2.DescribeResponse(models=["smollm2:135m"], max_streams=64, device=device),
            report=worker_pb2.WorkerReport(
                state=worker_pb2.WORKER_STATE_READY,
                kv_cache_use=0.42,
                decode_tokens_per_second=913.4,
                prefix_hit_rate=0.63,
            ),
        )
        starting = fleet_pb2.WorkerStatus(
            name="worker-1",
            reason="starting",
            description=worker_pb2.DescribeResponse(models=["smollm2:135m"]),
            report=worker_pb2.WorkerReport(
                state=worker_pb2.WORKER_STATE_STARTING, phase=worker_pb2.START_PHASE_LOAD, progress=0.7
            ),
        )
        failed = fleet_pb2.WorkerStatus(
            name="worker-2",
            restarts=5,
            reason="ended 5 times within 60 s: <b>no memory</b> for the KV cache",
            report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_FAILED),
        )
        return fleet_pb2.ListWorkersResponse(workers=[serving, starting, failed], queued_requests=3)


async def open_page(tab: Tab, http: aiohttp.ClientSession) -> None:
    """Opens the dashboard and waits for the first state of the fleet."""
    await tab.command("Page.navigate", url=str(http._base_url))
    await tab.until("document.readyState === 'complete' && !by('summary').textContent.startsWith('Connecting')")


async def say(tab: Tab, text: str) -> None:
    """Types a message and presses Enter."""
    await tab.evaluate("by('prompt').focus()")
    await tab.command("Input.insertText", text=text)
    for kind in ("keyDown", "keyUp"):
        await tab.command("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)


async def picture(tab: Tab, scheme: str) -> bytes:
    """Takes a picture in light or dark; keeps it in the directory that VLLAMA_SCREENSHOTS names."""
    await tab.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    taken = await tab.screenshot()
    if directory := os.environ.get("VLLAMA_SCREENSHOTS"):
        await asyncio.to_thread(Path(directory, f"page-{scheme}.png").write_bytes, taken)
    return taken


async def test_the_fleet_is_shown(tab: Tab, serve: Serve) -> None:
    """Workers with state, load and reasons, in light and in dark, without a complaint of the browser."""
    gateway = FakeGateway()
    async with serve(gateway, fleet=Fleet()) as http:
        for _ in range(8):
            async with http.post("/api/generate", json={"model": "smollm2:135m", "prompt": "hi"}) as reply:
                await reply.read()
        await open_page(tab, http)
        text = await tab.evaluate("document.body.innerText")
        for words in ("1 of 3 workers ready", "12 of 64", "42 %", "913.4 tokens/s", "70 %", "63 % prefix hits"):
            assert words in text
        assert "<b>no memory</b> for the KV cache" in text
        assert await tab.evaluate("by('spark').querySelector('path').getAttribute('d').split('L').length") == 8
        await say(tab, "Hi")
        await tab.until("by('log').innerText.includes('Hello world') && by('stop').hidden")
        light, dark = await picture(tab, "light"), await picture(tab, "dark")
        assert light != dark
    assert tab.complaints == []


async def test_a_chat_streams_and_remembers(tab: Tab, http: aiohttp.ClientSession, gateway: FakeGateway) -> None:
    """Words appear while they are made; the next message brings the conversation along."""
    go_on = asyncio.Event()
    gateway.play(started(), delta(thinking="Hmm. "), delta("<i>One</i>"), go_on, delta(" two"), finished())
    await open_page(tab, http)
    await say(tab, "Count")
    await tab.until("by('log').innerText.includes('Hmm. <i>One</i>')")
    assert not await tab.evaluate("by('stop').hidden")
    go_on.set()
    await tab.until("by('log').innerText.includes('<i>One</i> two') && by('stop').hidden")
    await say(tab, "More")
    await tab.until("by('log').innerText.includes('Hello world')")
    turns = [(turn.role, turn.content) for turn in gateway.requests[1].chat.messages]
    assert turns == [("user", "Count"), ("assistant", "<i>One</i> two"), ("user", "More")]


async def test_stop_ends_the_generation(tab: Tab, http: aiohttp.ClientSession, gateway: FakeGateway) -> None:
    """Nothing is computed that is not read."""
    gateway.play(started(), delta("One"), asyncio.Event())
    await open_page(tab, http)
    await say(tab, "Count")
    await tab.until("by('log').innerText.includes('One')")
    await tab.evaluate("by('stop').click()")
    async with asyncio.timeout(5):
        await gateway.all_closed.wait()


async def test_errors_are_shown(tab: Tab, http: aiohttp.ClientSession, gateway: FakeGateway) -> None:
    """Within a stream and before it."""
    gateway.play(started(), delta("One"), WorkerLost("the worker died"))
    gateway.play(WorkerLost("no worker took over"))
    await open_page(tab, http)
    await say(tab, "Count")
    await tab.until("by('log').innerText.includes('the worker died')")
    await say(tab, "Again")
    await tab.until("by('log').innerText.includes('no worker took over')")


async def test_a_key_is_asked_for(tab: Tab, gateway: FakeGateway, serve: Serve) -> None:
    """The page needs no key; its data does."""
    keys = ApiKeys([ApiKey("alice", hashlib.sha256(b"secret").digest())])
    async with serve(gateway, access=Access(keys)) as http:
        await open_page(tab, http)
        await tab.until("!by('keyform').hidden")
        key = json.dumps("secret")
        await tab.evaluate(f"by('key').value = {key}; by('keyform').requestSubmit()")
        await tab.until("by('model').value === 'smollm2:135m' && by('keyform').hidden")
        await say(tab, "Hi")
        await tab.until("by('log').innerText.includes('Hello world')")
        await tab.until("by('summary').innerText.includes('needs the scope fleet')")
