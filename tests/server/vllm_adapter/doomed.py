"""A worker in a process of its own, made to lose its engine: says in one JSON line each what happens to it.

python doomed.py MODEL [KEY=VALUE…]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import psutil

from vllama_server.engine.events import Chunk
from vllama_server.engine.requests import GenerationRequest, Sampling, TextPrompt
from vllama_server.vllm_adapter.engine import VllmEngine
from vllama_server.vllm_adapter.profile import EngineProfile


def say(event: str, **details: object) -> None:
    """Prints one line."""
    print(json.dumps({"event": event, "time": time.time(), **details}), flush=True)


async def stream(engine: VllmEngine) -> None:
    """Generates without end, and says how it ended all the same."""
    request = GenerationRequest("endless", TextPrompt("Once"), Sampling(temperature=0.0, ignore_eos=True))
    said = False
    try:
        async for event in engine.generate(request):
            if isinstance(event, Chunk) and not said:
                said = True
                tree = psutil.Process().children(recursive=True)
                say("streaming", processes={process.name(): process.pid for process in tree})
    except Exception as error:
        say("raised", type=type(error).__name__, message=str(error))


async def main(model: str, *pairs: str) -> None:
    """Starts, streams, and waits for the end."""
    arguments = {"kv_cache_memory_bytes": str(256 * 1024 * 1024), **dict(pair.split("=", 1) for pair in pairs)}
    profile = EngineProfile(model, device="cpu", engine_args=arguments)
    engine = VllmEngine(profile)
    await engine.start(lambda phase, fraction: say("phase", phase=phase.value, fraction=fraction))
    try:
        streaming = asyncio.create_task(stream(engine))
        failure = await engine.failed()
        say("failed", type=type(failure).__name__, message=str(failure))
        await streaming
    finally:
        await engine.stop()
    say("stopped", children=len(psutil.Process().children(recursive=True)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
