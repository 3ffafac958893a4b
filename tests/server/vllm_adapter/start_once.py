"""Starts one engine in a process of its own and prints why that failed.

python start_once.py MODEL [KEY=VALUE…]
"""

from __future__ import annotations

import asyncio
import sys

from vllama_server.errors import StartFailed
from vllama_server.vllm_adapter.engine import VllmEngine
from vllama_server.vllm_adapter.engine_config import EngineConfig


async def main(model: str) -> None:
    """Prints the message of StartFailed, and "started" when there was none."""
    engine = VllmEngine(EngineConfig(model, device="cpu"))
    try:
        await engine.start(lambda _phase, _fraction: None)
        print("started")
    except StartFailed as error:
        print(error)
    finally:
        await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
