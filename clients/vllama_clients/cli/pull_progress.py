"""The progress of a download: one bar per file on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vllama_clients.cli.columns import size
from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.progress import TaskID

    from vllama_clients.cli.api import Api


def pull(api: Api, model: str) -> None:
    """Downloads a model and shows how far it is, on standard error. CommandFailed when it does not succeed."""
    lines = whole(api, model)
    if sys.stderr.isatty():
        with Bars(Console(stderr=True)) as bars:
            for line in lines:
                bars.show(line)
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


class Bars:
    """Shows a download on a terminal: what is done stands above, what runs has a bar each. Enter it as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = ""
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._complete: set[str] = set()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_bars()

    def show(self, line: Mapping[str, Any]) -> None:
        """Shows one progress line of the server."""
        status, digest = line.get("status", ""), line.get("digest")
        if digest is None and status != self._status:
            self._say(status)
        elif digest is not None and digest not in self._complete:
            self._advance(digest, status, line)
        self._status = status

    def _say(self, status: str) -> None:
        if self._progress is not None and self._progress.finished:
            # What follows the files belongs below them.
            self._leave_bars()
        self._console.print(status, highlight=False)

    def _advance(self, digest: str, status: str, line: Mapping[str, Any]) -> None:
        if self._progress is None:
            shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
            self._progress = Progress(*shown, TransferSpeedColumn(), TimeRemainingColumn(), console=self._console)
            self._progress.start()
        if digest not in self._tasks:
            self._tasks[digest] = self._progress.add_task(status, total=line.get("total"))
        self._progress.update(self._tasks[digest], completed=line.get("completed", 0), total=line.get("total"))

    def _leave_bars(self) -> None:
        """Leaves the bars on the screen as they are."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._complete.update(self._tasks)
        self._tasks.clear()


def _plain(lines: Iterable[dict[str, Any]]) -> None:
    status, shown = "", dict[str, int]()
    for line in lines:
        changed, status = line.get("status", "") != status, line.get("status", "")
        total, completed = line.get("total", 0), line.get("completed", 0)
        if "digest" in line and total:
            tenths = int(10 * completed / total)
            if shown.get(line["digest"]) != tenths:
                shown[line["digest"]] = tenths
                _say(f"{status}: {size(completed)} of {size(total)} ({completed / total:.0%})")
        elif changed:
            _say(status)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
