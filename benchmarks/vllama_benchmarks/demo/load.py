"""The demo's load: many /api/chat streams at once, each measured from the request to its last line."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

import aiohttp

WORKER_HEADER = "x-vllama-worker"
TOPICS = (
    "the sea",
    "a lighthouse",
    "old maps",
    "winter",
    "bees",
    "a train journey",
    "clay",
    "the moon",
    "rice",
    "chess",
)
UNKNOWN_WORKER = "unknown"


@dataclass(frozen=True, slots=True)
class ChatResult:
    """The result of one stream."""

    worker: str
    """The worker that served it."""
    text: str = ""
    """The answer."""
    done: bool = False
    """Whether its last line marks it as complete."""
    ttft_seconds: float | None = None
    """From the request to the first text; None when none came."""
    seconds: float = 0.0
    """From the request to the last line."""
    tokens: int = 0
    """Tokens of the answer, as the server counted them."""
    error: str = ""
    """Why it broke, when it did."""

    @property
    def complete(self) -> bool:
        """Whether a whole, non-empty answer came."""
        return self.done and bool(self.text) and not self.error

    @property
    def tokens_per_second(self) -> float:
        """Speed of this stream, waiting included."""
        return self.tokens / self.seconds if self.seconds else 0.0


async def chats(url: str, model: str, streams: int, max_tokens: int) -> list[ChatResult]:
    """Sends that many chats at once and waits for all of them; a broken one is an outcome, not an error."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        return await asyncio.gather(*(_chat(session, url, body(model, i, max_tokens)) for i in range(streams)))


def body(model: str, number: int, max_tokens: int) -> dict[str, object]:
    """Builds one request; each has its own prompt, so that no prefix cache helps."""
    prompt = f"Write a few sentences about {TOPICS[number % len(TOPICS)]}. This is letter number {number}."
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "options": {"num_predict": max_tokens, "seed": number},
    }


async def _chat(session: aiohttp.ClientSession, url: str, request: dict[str, object]) -> ChatResult:
    begun = time.monotonic()
    worker, texts, ttft_seconds = UNKNOWN_WORKER, [], None
    last: dict[str, object] = {}
    error = ""
    try:
        async with session.post(f"{url}/api/chat", json=request) as response:
            worker = response.headers.get(WORKER_HEADER, UNKNOWN_WORKER)
            async for line in response.content:
                last = json.loads(line)
                text = str(last.get("message", {}).get("content", ""))  # type: ignore[attr-defined]
                if text and ttft_seconds is None:
                    ttft_seconds = time.monotonic() - begun
                texts.append(text)
            error = str(last.get("error", "" if response.ok else response.reason))
    except (aiohttp.ClientError, OSError, ValueError) as broken:
        error = str(broken) or type(broken).__name__
    return ChatResult(
        worker=worker,
        text="".join(texts),
        done=last.get("done") is True,
        ttft_seconds=ttft_seconds,
        seconds=time.monotonic() - begun,
        tokens=int(str(last.get("eval_count", 0))),
        error=error,
    )
