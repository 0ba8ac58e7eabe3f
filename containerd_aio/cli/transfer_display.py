"""How far pulls, pushes, imports and exports have come: bars on a terminal, a line for each step anywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self, TextIO

from containerd_aio.distribution.progress import FINISHED, Action

if TYPE_CHECKING:
    from types import TracebackType

    from containerd_aio.distribution.progress import ProgressEvent

# Steps of which a log needs to know; the bytes between them are of use to a bar only.
_TOLD = FINISHED | {Action.RESOLVING, Action.UNPACKING}

_DIGEST_CHARACTERS = len("sha256:") + 12


class TransferDisplay:
    """Takes the steps of a transfer and shows them on stderr, for use as ``with``.

    Args:
        quiet: Show nothing.
        stream: Where to; by default stderr.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._said: set[tuple[str, Action, str]] = set()

    def __enter__(self) -> Self:
        if not self._quiet and self._stream.isatty():
            self._bars = _bars(self._stream)
            self._bars.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: ProgressEvent) -> None:
        """Take a step."""
        if self._quiet:
            return
        if self._bars is None:
            self._say(event)
        else:
            self._draw(event)

    def _say(self, event: ProgressEvent) -> None:
        key = (event.name, event.action, event.text if event.action is Action.OTHER else "")
        if key in self._said or event.action not in {*_TOLD, Action.OTHER}:
            return
        self._said.add(key)
        size = f" {human_size(event.total)}" if event.total else ""
        word = event.text if event.action is Action.OTHER and event.text else str(event.action)
        self._stream.write(f"{short_name(event.name)}: {word}{size}\n")
        self._stream.flush()

    def _draw(self, event: ProgressEvent) -> None:
        task = self._tasks.get(event.name)
        if task is None:
            task = self._tasks[event.name] = self._bars.add_task(
                short_name(event.name), total=event.total or None, action=""
            )
        word = event.text if event.action is Action.OTHER else str(event.action)
        done = event.action in FINISHED
        total = event.total or (1 if done else None)
        self._bars.update(task, completed=total if done else event.offset, total=total, action=word)


def _bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", style="bold"),
        TextColumn("{task.fields[action]:<11}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(file=stream),
        expand=True,
    )


def short_name(name: str) -> str:
    """Return a name as it is shown: of a digest, enough of it to be told from others."""
    return name[:_DIGEST_CHARACTERS] if name.startswith("sha256:") else name


def human_size(count: int) -> str:
    """Return a number of bytes in decimal units, such as ``1.5 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
