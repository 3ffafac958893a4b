"""An example service: summarises many texts through one SyncClient, some at a time.

    python -m vllama_clients.examples.summaries --model smollm2:135m notes/*.txt > summaries.jsonl

What is worth copying:

- one client for all threads, and a bound on the calls under way
- a deadline for every call
- after a full queue, the wait that the server gives
- a text that fails does not end the others
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_clients import Busy, ChatRequest, Message, Options, Sampling, SyncClient, Truncation, VllamaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

INSTRUCTION = "Summarise the following text in one sentence."
ATTEMPTS = 5
DEFAULT_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of one text."""

    name: str
    """The text's name."""
    summary: str = ""
    """Its summary; empty when there is an error."""
    tokens: int = 0
    """Tokens of the summary."""
    error: str = ""
    """Why there is none."""


class Summariser:
    """Summarises texts with one model; safe to share among threads."""

    def __init__(
        self,
        client: SyncClient,
        model: str,
        *,
        timeout_seconds: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._model = model
        self._timeout_seconds = timeout_seconds
        self._sleep = sleep

    def all(self, texts: Mapping[str, str], at_once: int) -> Iterator[Summary]:
        """Yields a summary of each text as it is done, `at_once` being under way at any time."""
        with ThreadPoolExecutor(at_once) as threads:
            futures = [threads.submit(self.one, name, text) for name, text in texts.items()]
            for future in as_completed(futures):
                yield future.result()

    def one(self, name: str, text: str) -> Summary:
        """Summarises one text; retries later while the server is busy."""
        options = Options(sampling=Sampling(temperature=0, max_tokens=80), truncation=Truncation.DROP_OLDEST)
        request = ChatRequest(self._model, [Message("system", INSTRUCTION), Message("user", text)], options)
        for attempt in range(ATTEMPTS):
            try:
                answer = self._client.chat(request, timeout_seconds=self._timeout_seconds).collect()
                return Summary(name, answer.text.strip(), answer.finished.usage.completion_tokens)
            except Busy as busy:
                if attempt == ATTEMPTS - 1:
                    return Summary(name, error=str(busy))
                self._sleep(busy.retry_after_seconds or DEFAULT_WAIT_SECONDS)
            except VllamaError as error:
                return Summary(name, error=str(error))
        raise AssertionError("every attempt returns")


def main() -> int:
    """Reads files, writes a line of JSON per summary, shows progress on standard error."""
    parser = argparse.ArgumentParser(description="Summarises text files through vllama.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--target", default="127.0.0.1:50051", help="gRPC address of the balancer")
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--at-once", type=int, default=8, help="texts under way at any time")
    arguments = parser.parse_args()
    texts = {str(path): path.read_text(encoding="utf-8") for path in arguments.files}
    failed = 0
    with SyncClient(arguments.target) as client:
        summaries = Summariser(client, arguments.model).all(texts, arguments.at_once)
        for number, summary in enumerate(summaries, 1):
            failed += bool(summary.error)
            print(json.dumps(asdict(summary), ensure_ascii=False), flush=True)
            print(f"\r{number} of {len(texts)}, {failed} failed", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
