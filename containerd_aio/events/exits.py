"""How a process ended, and how we know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from containerd_aio.events.timestamps import to_datetime

if TYPE_CHECKING:
    from datetime import datetime

UNKNOWN_EXIT_STATUS: Final = 255
"""Code of an exit nobody can tell the code of (Go: containerd's UnknownExitStatus)."""

ExitSource = Literal[
    "event", "wait", "get", "list", "delete", "task-delete", "missing", "unstarted", "exec-orphaned"
]
"""Where the knowledge of an exit comes from.

* ``event``: a TaskExit event.
* ``wait``, ``get``, ``list``, ``delete``: the answer to Tasks.Wait, Tasks.Get, Tasks.List, Tasks.Delete or DeleteProcess.
* ``task-delete``: a TaskDelete event, without a TaskExit before it.
* ``missing``: the task was gone when it was looked for; its code can't be had any more.
* ``unstarted``: the process was deleted, or its container died, before it was started.
* ``exec-orphaned``: the container ended and the exit of this exec was never reported.
"""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process of a container ended.

    Attributes:
        code: Exit code, 0-255; a process killed by signal N has 128 + N. 255 when ``unknown``.
        exited_at_ns: When it ended, in nanoseconds since 1970 (UTC); None when nobody knows.
        pid: Process id in the host's pid namespace; 0 when not known.
        oom_killed: The kernel killed a process of this container for lack of memory; not necessarily this one.
        oom_known: False when the OOM question could not be answered; ``oom_killed`` is then no proof.
        unknown: The real code is lost and ``code`` is a stand-in. A process that really exited with 255 has False here.
        source: What told us; see `ExitSource`.
    """

    code: int
    exited_at_ns: int | None = None
    pid: int = 0
    oom_killed: bool = False
    oom_known: bool = True
    unknown: bool = False
    source: ExitSource = "event"

    @property
    def exited_at(self) -> datetime | None:
        """When it ended, in UTC, cut to microseconds; None when not known."""
        return to_datetime(self.exited_at_ns)

    @property
    def success(self) -> bool:
        """The process is known to have exited with 0."""
        return self.code == 0 and not self.unknown

    def __str__(self) -> str:
        text = "exit unknown" if self.unknown else f"exit {self.code}"
        notes = []
        if self.oom_killed:
            notes.append("OOM killed")
        elif not self.oom_known:
            notes.append("OOM not known")
        if self.unknown:
            notes.append(self.source)
        return f"{text} ({', '.join(notes)})" if notes else text
