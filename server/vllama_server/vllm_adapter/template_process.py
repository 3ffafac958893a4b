"""The program of a process that renders chat templates which came with requests.

A template of a client may loop for ever or fill the memory, and a thread cannot be ended. So it is rendered here, under
limits of the kernel, and by none of the threads that serve others. Jobs come on standard input and results leave on
standard output, each as its length and JSON. The process keeps nothing between jobs and ends with its input.

Templates see what vLLM and transformers give them. Imports Jinja and nothing heavy: a killed process is replaced by a
new one within a moment.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import signal
import struct
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2.parser import Parser

PROCESSOR_SECONDS = 2.0
"""Most processor time of one job; the kernel ends the process after it."""
GROWTH_BYTES = 256 * 1024 * 1024
"""Most memory of one job beside the job itself."""
TEXT_BYTES = 8 * 1024 * 1024
"""Longest result: no prompt is longer."""
LENGTH = struct.Struct(">I")
"""In front of each job and each result."""


def main() -> None:
    """Renders jobs until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in a terminal only asks the worker to drain
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    incoming, outgoing = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    while (job := _read(incoming)) is not None:
        result = json.dumps(_limited(job)).encode()
        outgoing.write(LENGTH.pack(len(result)) + result)
        outgoing.flush()


def _read(incoming: BinaryIO) -> dict[str, Any] | None:
    header = incoming.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    job: dict[str, Any] = json.loads(incoming.read(*LENGTH.unpack(header)))
    return job


def _limited(job: dict[str, Any]) -> dict[str, str]:
    """Renders under the limits; the one of time ends the process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GROWTH_BYTES, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    try:
        text = render(**job)
    except MemoryError:
        return {"limit": "memory"}
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}"[:500].split())}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"text": text} if len(text) <= TEXT_BYTES else {"limit": "text"}


def render(
    template: str,
    messages: list[dict[str, Any]],
    parts: list[dict[str, Any]] | None,
    variables: dict[str, Any],
    *,
    continue_last: bool,
) -> str:
    """Returns the rendered chat.

    `parts` are the messages with their content as a list; None where that is the text alone. A template that loops
    over a content gets those. With `continue_last` the result ends with the last message's text.
    """
    environment = _environment()
    if _loops_over_content(environment.parse(template)):
        messages = parts if parts is not None else [_in_parts(message) for message in messages]
    end = secrets.token_hex(16) if continue_last else ""
    if continue_last:
        _append(messages[-1], end)
    text = environment.from_string(template).render({**variables, "messages": messages})
    if not continue_last:
        return text
    if end not in text:
        raise TemplateError("the template leaves out the message that is to be continued")
    return text[: text.rindex(end)]


class _Generation(Extension):
    """The block that marks answers for training; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda pattern: datetime.now().astimezone().strftime(pattern)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes what is special in HTML, which models have not been trained on."""
    pair = (separators[0], separators[1]) if separators else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _loops_over_content(template: nodes.Template) -> bool:
    """Returns whether the template goes through the content of a message part by part."""
    names = {
        assignment.target.name
        for assignment in template.find_all(nodes.Assign)
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node)
    }
    return any(
        _is_content(loop.iter) or (isinstance(loop.iter, nodes.Name) and loop.iter.name in names)
        for loop in template.find_all(nodes.For)
    )


def _is_content(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}


def _append(message: dict[str, Any], end: str) -> None:
    """Puts a mark behind the message's text."""
    if isinstance(message["content"], str):
        message["content"] += end
    else:
        next(part for part in reversed(message["content"]) if "text" in part)["text"] += end


if __name__ == "__main__":
    main()
