"""A client of /api/chat that costs next to nothing: raw sockets, one loop, bytes kept and checked afterwards.

It shares the machine with the measured server, so it only receives while the clock runs.
"""

from __future__ import annotations

import hashlib
import json
import selectors
import socket
import time
from dataclasses import dataclass, field

from vllama_benchmarks.relay.processes import MODEL

BODY_END = b"\n\r\n0\r\n\r\n"
RECEIVE_BYTES = 1 << 18
SILENCE_SECONDS = 300.0


class WrongReply(Exception):
    """An answer differs from that of the simulated engine."""


@dataclass(slots=True)
class Answer:
    """One reply as received."""

    prompt: str
    """The prompt."""
    tokens: int
    """Tokens to generate."""
    sent_at: float
    """Time of sending, monotonic clock."""
    first_at: float = 0.0
    """When its first bytes came."""
    ended_at: float = 0.0
    """When its last bytes came."""
    received: list[bytes] = field(default_factory=list)
    """Its bytes."""

    @property
    def ttft_seconds(self) -> float:
        """Time to the first line, which comes together with the head."""
        return self.first_at - self.sent_at

    def check(self) -> int:
        """Counts its lines. Raises WrongReply unless the text is exact."""
        head, _, body = b"".join(self.received).partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise WrongReply(body.decode(errors="replace"))
        lines = [json.loads(line) for line in _dechunked(body).splitlines()]
        text = "".join(line["message"]["content"] for line in lines)
        mark = hashlib.sha256(f"user: {self.prompt}\n".encode()).hexdigest()[:4]
        if text != "".join(f" {mark}.{index}" for index in range(self.tokens)):
            raise WrongReply(f"the text differs: {text[:200]!r}")
        if not lines[-1]["done"] or lines[-1]["eval_count"] != self.tokens:
            raise WrongReply(f"the last line is {lines[-1]}")
        return len(lines)


class Connection:
    """One kept connection with one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = port
        self.answer: Answer | None = None
        """The running reply, or the last one."""

    def ask(self, prompt: str, tokens: int) -> None:
        """Sends a request."""
        messages = [{"role": "user", "content": prompt}]
        body = json.dumps({"model": MODEL, "messages": messages, "options": {"num_predict": tokens}}).encode()
        head = f"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answer = Answer(prompt, tokens, time.monotonic())
        self.socket.sendall(head.encode() + body)

    def receive(self) -> bool:
        """Receives available bytes; returns whether the reply is complete."""
        data = self.socket.recv(RECEIVE_BYTES)
        answer = self.answer
        if not data or answer is None:
            raise WrongReply("the connection ended in the middle")
        now = time.monotonic()
        answer.first_at = answer.first_at or now
        answer.received.append(data)
        if len(data) < len(BODY_END):
            data = b"".join(answer.received[-2:])
        if not data.endswith(BODY_END):
            return False
        answer.ended_at = now
        return True

    def wait(self) -> Answer:
        """Receives until the reply is complete."""
        while not self.receive():
            pass
        assert self.answer is not None
        return self.answer

    def close(self) -> None:
        """Drops the connection."""
        self.socket.close()


def drive(port: int, streams: int, tokens: int, rounds: int, label: str = "") -> list[Answer]:
    """Keeps the streams running, `rounds` replies each, and returns the replies in the order of their ends."""
    answers: list[Answer] = []
    with selectors.DefaultSelector() as selector:
        left = {}
        for index in range(streams):
            connection = Connection(port)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            left[connection] = rounds - 1
            connection.ask(f"{label} stream {index} round 0", tokens)
        while left:
            ready = selector.select(SILENCE_SECONDS)
            if not ready:
                raise WrongReply(f"nothing has come for {SILENCE_SECONDS:g} s")
            for key, _ in ready:
                connection = key.data
                if not connection.receive():
                    continue
                answers.append(connection.answer)
                if left[connection]:
                    connection.ask(f"{connection.answer.prompt} again", tokens)
                    left[connection] -= 1
                else:
                    del left[connection]
                    selector.unregister(connection.socket)
                    connection.close()
    return answers


def _dechunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + size + 4
