"""What the demo prints: lines that are never rewritten, so that a log has the same as a terminal; and the table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from containerd_aio.cli.event_lines import describe
from containerd_aio.events.event import Gap, Lagged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.cli.demo.fates import Row
    from containerd_aio.events.event import Event

_COLOURS: Final = (
    "green",
    "magenta",
    "cyan",
    "yellow",
    "blue",
    "bright_green",
    "bright_magenta",
    "bright_cyan",
)
_LOG_WIDTH = 120


class Display:
    """Prints to stdout; in colour, and as wide as it is, if that is a terminal.

    Args:
        console: Where to print; stdout by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console.width = _LOG_WIDTH
        self._start = time.monotonic()
        self._colours: dict[str, str] = {}

    def title(self, version: str, pid: int, address: str) -> None:
        """Begin."""
        self.say(f"a private containerd {version} runs (pid {pid}) at {address}")

    def say(self, text: str) -> None:
        """Print what is neither an event nor done to a container."""
        self._line(Text(text, "bold"))

    def act(self, text: str) -> None:
        """Print what we do."""
        self._line(Text(f"» {text}", "bold"))

    def event(self, item: Event | Gap | Lagged) -> None:
        """Print an event, or a marker."""
        match item:
            case Gap(since, until):
                seconds = (until - since).total_seconds()
                text = (
                    f"-- gap of {seconds:.2f} s: no events meanwhile; what follows as (resync) was worked out"
                )
                self._line(Text(text, "bold yellow"))
            case Lagged(missed):
                self._line(Text(f"-- lagged: {missed} events dropped", "bold red"))
            case _:
                self._line(self._event(item))

    def table(self, rows: Sequence[Row], version: str) -> None:
        """Print how it ended."""
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            title_justify="left",
            title_style="bold",
        )
        table.title = f"What wait() returned, and what really happened (containerd {version})"
        for heading in ("process", "fate", "wait() returned", "what really happened", ""):
            table.add_column(heading)
        for row in rows:
            verdict = Text("ok", "green") if row.good else Text("WRONG", "bold red")
            status = Text("unknown (255)", "yellow") if row.status.unknown else Text(str(row.status))
            name = Text(row.process, self._colour(row.process.partition("/")[0]))
            table.add_row(name, row.fate, status, row.truth, verdict)
        with self._console.capture() as rendered:
            self._console.print(table)
        self._console.file.write("\n" + "".join(f"{line.rstrip()}\n" for line in rendered.get().splitlines()))
        if any(row.status.unknown for row in rows):
            self._print(Text(f"containerd {version} forgets the exit code of what ends while it is down:"))
            self._print(Text("wait() says that it is unknown, with 255 in its place, and does not guess."))
        wrong = sum(not row.good for row in rows)
        if wrong:
            self._print(Text(f"{wrong} of {len(rows)} waits did not tell the truth", "bold red"))
        else:
            self._print(Text(f"{len(rows)} waits, no lie, in {self._elapsed():.1f} s", "bold green"))

    def _event(self, event: Event) -> Text:
        subject, details = describe(event)
        verb = event.topic.removeprefix("/tasks/")
        style = "red" if verb in {"exit", "oom"} else ""
        line = Text.assemble(
            (f"{verb:<13}", style), (f"{subject:<13}", self._colour(subject.partition("/")[0]))
        )
        line.append(" ".join(details), "dim" if event.origin == "live" else "yellow")
        return line

    def _colour(self, container: str) -> str:
        return self._colours.setdefault(container, _COLOURS[len(self._colours) % len(_COLOURS)])

    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def _line(self, text: Text) -> None:
        self._print(Text.assemble((f"{self._elapsed():7.3f}  ", "dim"), text))

    def _print(self, text: Text) -> None:
        text.rstrip()
        self._console.print(text, soft_wrap=True)
