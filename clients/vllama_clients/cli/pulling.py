"""Shows a download: one bar per file on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vllama_clients.cli.columns import size
from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import TaskID

    from vllama_clients.cli.api import Api


def pull(api: Api, model: str) -> None:
    """Downloads a model and shows how far it is, on standard error. CommandFailed when it does not succeed."""
    lines = whole(api, model)
    if sys.stderr.isatty():
        _bars(lines)
    else:
        _plain(lines)


def whole(api: Api, model: str) -> Iterator[dict[str, Any]]:
    """Yields the progress of a download; CommandFailed at the end of one that does not say "success"."""
    status = ""
    for line in api.stream("/api/pull", {"model": model}):
        status = line.get("status", "")
        yield line
    if status != "success":
        raise CommandFailed(f"The download of {model!r} ended in the middle; call `vllama pull {model}` to go on.")


def _bars(lines: Iterable[dict[str, Any]]) -> None:
    status, tasks = "", dict[str, "TaskID"]()
    shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*shown, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        for line in lines:
            changed, status = line.get("status", "") != status, line.get("status", "")
            if "digest" in line:
                task = tasks.get(line["digest"])
                if task is None:
                    task = tasks[line["digest"]] = progress.add_task(status, total=line.get("total"))
                progress.update(task, completed=line.get("completed", 0), total=line.get("total"))
            elif changed:
                progress.console.print(status, highlight=False)


def _plain(lines: Iterable[dict[str, Any]]) -> None:
    status, told = "", dict[str, int]()
    for line in lines:
        changed, status = line.get("status", "") != status, line.get("status", "")
        total, completed = line.get("total", 0), line.get("completed", 0)
        if "digest" in line and total:
            tenths = int(10 * completed / total)
            if told.get(line["digest"]) != tenths:
                told[line["digest"]] = tenths
                _say(f"{status}: {size(completed)} of {size(total)} ({completed / total:.0%})")
        elif changed:
            _say(status)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
