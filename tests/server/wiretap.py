"""A relay between a client and a worker that keeps what the worker sent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def wiretap(path: Path, worker_path: str) -> AsyncIterator[bytearray]:
    """Listens on a unix socket, relays to the worker's, and gives the bytes that came back."""
    heard = bytearray()
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker_reader, worker_writer = await asyncio.open_unix_connection(worker_path)
        for source, target, kept in ((reader, worker_writer, None), (worker_reader, writer, heard)):
            tasks.add(asyncio.create_task(_pump(source, target, kept)))

    server = await asyncio.start_unix_server(relay, path)
    try:
        yield heard
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, kept: bytearray | None) -> None:
    try:
        while data := await source.read(65_536):
            if kept is not None:
                kept += data
            target.write(data)
            await target.drain()
    except ConnectionError:
        pass
    finally:
        target.close()
