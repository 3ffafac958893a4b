"""A small model hub on loopback, with every fault that a real one can have."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class Repo:
    """One repository."""

    files: dict[str, bytes]
    token: str = ""
    """When set, only this token may read."""
    license: str = "mit"


@dataclass
class Hub:
    """Serves repositories; faults are played once each, in the order they were given for a path."""

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: dict[str, list[Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]]] = field(default_factory=dict)
    """By the end of the path: the file's name, or the repository's for its listing."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range header of each request."""
    seen: asyncio.Condition = field(default_factory=asyncio.Condition)
    url: str = ""

    async def __aenter__(self) -> Hub:
        app = web.Application()
        app.router.add_get("/api/models/{org}/{repo}", self._listing)
        app.router.add_get("/{org}/{repo}/resolve/{revision}/{name:.+}", self._file)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def requested(self, name: str) -> None:
        """Waits until a path with that end has been asked for."""
        async with asyncio.timeout(20), self.seen:
            await self.seen.wait_for(lambda: any(path.endswith(name) for path, _ in self.requests))

    def asked(self, name: str) -> list[str]:
        """Lists the Range headers of the requests for a file."""
        return [ranges for path, ranges in self.requests if path.endswith(name)]

    async def _note(self, request: web.Request) -> None:
        async with self.seen:
            self.requests.append((request.path, request.headers.get("Range", "")))
            self.seen.notify_all()

    async def _listing(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        name = f"{request.match_info['org']}/{request.match_info['repo']}"
        repo = self.repos.get(name)
        if planned := self._fault(name):
            return await planned(request, b"")
        if repo is None:
            return web.json_response({"error": "not found"}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        if repo.token and request.headers.get("Authorization") != f"Bearer {repo.token}":
            return web.json_response({"error": "gated"}, status=403, headers={"X-Error-Code": "GatedRepo"})
        siblings = [_sibling(file, content) for file, content in repo.files.items()]
        card = {"license": repo.license}
        return web.json_response({"id": name, "sha": COMMIT, "siblings": siblings, "cardData": card, "private": False})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        await self._note(request)
        org, repo, name = (request.match_info[part] for part in ("org", "repo", "name"))
        content = self.repos[f"{org}/{repo}"].files[name]
        if planned := self._fault(name):
            return await planned(request, content)
        return ranged(request, content)

    def _fault(self, name: str):
        waiting = self.faults.get(name, [])
        return waiting.pop(0) if waiting else None


def ranged(request: web.Request, content: bytes) -> web.Response:
    """Answers with what the Range header asks for."""
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
    if not start:
        return web.Response(body=content)
    headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return web.Response(body=content[start:], status=206, headers=headers)


def answers(status: int, **headers: str):
    """Makes a fault that answers with a status."""

    async def fault(request: web.Request, content: bytes) -> web.StreamResponse:
        return web.json_response({"error": f"status {status}"}, status=status, headers=headers)

    return fault


def cuts_after(count: int):
    """Makes a fault that promises the whole file and closes the connection after some bytes."""

    async def fault(request: web.Request, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[:count])
        request.transport.close()
        return response

    return fault


def stalls_after(count: int, released: asyncio.Event):
    """Makes a fault that sends some bytes and then nothing until it is released."""

    async def fault(request: web.Request, content: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[:count])
        await released.wait()
        return response

    return fault


async def trickles(request: web.Request, content: bytes) -> web.StreamResponse:
    """A fault that sends the whole file in small pieces with pauses between them."""
    response = web.StreamResponse(headers={"Content-Length": str(len(content))})
    await response.prepare(request)
    for start in range(0, len(content), len(content) // 16):
        await response.write(content[start : start + len(content) // 16])
        await asyncio.sleep(0.02)
    return response


async def corrupts(request: web.Request, content: bytes) -> web.StreamResponse:
    """A fault that changes one byte."""
    return web.Response(body=bytes([content[0] ^ 1]) + content[1:])


async def lies_about_length(request: web.Request, content: bytes) -> web.StreamResponse:
    """A fault that serves a shorter file as if it were whole."""
    return web.Response(body=content[:-10])


def _sibling(name: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith((".safetensors", ".gguf", ".bin")):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry
