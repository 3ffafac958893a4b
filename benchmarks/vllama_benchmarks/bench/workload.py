"""The requests: lengths from distributions or a trace, prompts that no prefix cache holds.

A prompt consists of common words of three letters: such a word with its blank is one token for nearly every tokenizer
and four bytes for the simulated engine. Every prompt begins with a number of its own, so that a second target or
repeat finds none of it in a cache.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vllama_benchmarks.bench.sample import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from random import Random

_WORDS = """
act add age air all arm art ask bad bag bed big bit box boy bus buy can car cat cup cut day dog dry ear eat egg
end eye far few fit fly fun get gun guy hat hit hot how ice job key kid law leg let lie lot low man map may men
mix new now oil old one out own pay put red run sad say sea see set she sit six sky son sun tax tea ten the top
try two use war way why win yes you
"""
WORDS = tuple(_WORDS.split())
"""Each is one token with the blank before it."""


class Length(Protocol):
    """A distribution of lengths, in tokens."""

    def draw(self, random: Random) -> int:
        """Draws one length, at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same length."""

    tokens: int

    def draw(self, random: Random) -> int:
        return self.tokens


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every length of a range alike."""

    low: int
    high: int

    def draw(self, random: Random) -> int:
        return random.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Many short and a few long ones, as in real traffic."""

    median: int
    sigma: float

    def draw(self, random: Random) -> int:
        return max(1, round(random.lognormvariate(math.log(self.median), self.sigma)))


def length(text: str) -> Length:
    """Reads a length: "128", "64-256", or "lognormal:128:0.8". ValueError for anything else."""
    try:
        match text.split(":"):
            case ["lognormal", median, sigma] if int(median) > 0 and float(sigma) >= 0:
                return LogNormal(int(median), float(sigma))
            case [span] if "-" in span and 0 < int(span.partition("-")[0]) <= int(span.partition("-")[2]):
                return Uniform(int(span.partition("-")[0]), int(span.partition("-")[2]))
            case [number] if int(number) > 0:
                return Fixed(int(number))
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no length: write 128, 64-256 or lognormal:128:0.8")


@dataclass(frozen=True, slots=True)
class Workload:
    """Draws requests; the same seed draws the same lengths for every target."""

    prompt: Length
    """Length of the prompts."""
    output: Length
    """Length of the outputs."""
    trace: Sequence[Request] = ()
    """Requests to send in turn instead; empty to draw lengths."""

    def requests(self, random: Random, nonce: str) -> Iterator[Request]:
        """Yields requests without end; no two runs with different nonces share a prefix."""
        number = 0
        while True:
            name = f"{nonce}.{number}"
            if self.trace:
                traced = self.trace[number % len(self.trace)]
                yield Request(f"[{name}] {traced.prompt}", traced.max_tokens)
            else:
                yield Request(_prompt(random, self.prompt.draw(random), name), self.output.draw(random))
            number += 1


def read_trace(path: Path) -> list[Request]:
    """Reads a trace: a line of JSON per request, {"prompt": …, "max_tokens": …}. ValueError names the bad line."""
    requests = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            requests.append(Request(str(entry["prompt"]), int(entry["max_tokens"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'line {number} of {path} is not {{"prompt": …, "max_tokens": …}}') from error
    if not requests:
        raise ValueError(f"{path} holds no requests")
    return requests


def _prompt(random: Random, tokens: int, name: str) -> str:
    return " ".join([f"[{name}]", *random.choices(WORDS, k=tokens)])
