"""What really happened, told by others than this library: the container itself, and the kernel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio

from containerd_aio.errors import DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL = 0.02
_PATIENCE = 20.0

INSIDE = "/truth"
"""Where a container finds the directory in which it notes what it does."""


class Notes:
    """The directory, shared with all containers, in which each notes what it does.

    Args:
        folder: The directory on this side.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    def make(cls, parent: str) -> Self:
        """Make the directory in `parent`."""
        folder = Path(parent, "truth")
        folder.mkdir()
        return cls(str(folder))

    def read(self, name: str) -> str:
        """Return what was noted under `name` so far; empty for nothing."""
        try:
            return Path(self.folder, name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def write(self, name: str) -> None:
        """Make a note, for a container that waits for it."""
        Path(self.folder, name).touch()

    async def wait(self, name: str, enough: Callable[[str], bool] = bool) -> str:
        """Return what was noted under `name` once it is there, and `enough`.

        Raises:
            DeadlineExceeded: It did not come.
        """
        with anyio.move_on_after(_PATIENCE):
            while not enough(text := self.read(name)):  # noqa: ASYNC110 - nothing tells when a container writes
                await anyio.sleep(_POLL)
            return text
        raise DeadlineExceeded(f"the container did not note {name!r} within {_PATIENCE:g} s")


async def ended(pid: int) -> None:
    """Return when the process `pid` has ended, by the kernel's word."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await anyio.wait_readable(fd)
    finally:
        anyio.notify_closing(fd)
        os.close(fd)


def has_swap() -> bool:
    """Tell whether this machine has swap space: a container may use that beyond its memory limit, if it isn't told."""
    return len(Path("/proc/swaps").read_text(encoding="utf-8").splitlines()) > 1


def oom_counter(pid: int) -> Path | None:
    """Return the file in which the kernel counts the OOM kills in the cgroup of a process; None if it isn't to be seen.

    Args:
        pid: A living process.
    """
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            file = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
        elif not controllers:
            file = Path(f"/sys/fs/cgroup{path}/memory.events")
        else:
            continue
        if file.is_file():
            return file
    return None


def oom_kills(counter: Path) -> int:
    """Return how many processes the kernel has killed there for lack of memory."""
    for line in counter.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0
