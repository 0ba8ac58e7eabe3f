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

# Columns from which on a bar has numbers beside it.
_WIDE_ENOUGH = 70


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
        about = (
            f"{short_name(event.name)}: " if event.name else ""
        )  # a daemon speaks of the whole without a name
        self._stream.write(f"{about}{word}{size}\n")
        self._stream.flush()

    def _draw(self, event: ProgressEvent) -> None:
        word = event.text if event.action is Action.OTHER else str(event.action)
        name, word = (short_name(event.name), word) if event.name else (word, "")
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = self._bars.add_task(name, total=event.total or None, action="")
        done = event.action in FINISHED
        total = event.total or (1 if done else None)
        self._bars.update(task, completed=total if done else event.offset, total=total, action=word)


def _bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    console = Console(file=stream)

    def text(template: str, width: int, style: str = "none") -> ProgressColumn:
        column = Column(no_wrap=True, overflow="ellipsis", max_width=width)
        return TextColumn(template, style=style, markup=False, table_column=column)

    # Names may be long, and the bar is what people look at.
    columns = [
        text("{task.description}", max(console.width // 3, _DIGEST_CHARACTERS), "bold"),
        text("{task.fields[action]:<11}", 11),
        BarColumn(bar_width=None),
    ]
    if console.width >= _WIDE_ENOUGH:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    return Progress(*columns, console=console, expand=True)


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
