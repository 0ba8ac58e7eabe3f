"""The plain types of containerd's ``runtime`` package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING

from containerd_aio.api.containerd.v1.types import Status as RawStatus
from containerd_aio.errors import InvalidArgument, Unavailable
from containerd_aio.services.snapshots import Mount

if TYPE_CHECKING:
    from containerd_aio.oci import Process as OCIProcess
    from containerd_aio.oci import RuncOptions, Spec


class Status(IntEnum):
    """State of a task or an exec, by the numbers of this package; those of containerd's API are others."""

    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    DELETED = 4
    """Never returned: what is deleted is not found."""
    PAUSED = 5

    @classmethod
    def from_raw(cls, status: int) -> Status:
        """Translate a status of containerd's API. ``PAUSING`` is `RUNNING`: processes may still run.

        Raises:
            Unavailable: containerd can't tell it at the moment.
        """
        try:
            return _STATUS[status]
        except KeyError:
            raise Unavailable("containerd can't tell the state of the process; try again") from None


_STATUS: dict[int, Status] = {
    RawStatus.CREATED: Status.CREATED,
    RawStatus.RUNNING: Status.RUNNING,
    RawStatus.STOPPED: Status.STOPPED,
    RawStatus.PAUSED: Status.PAUSED,
    RawStatus.PAUSING: Status.RUNNING,
}


@dataclass(frozen=True, slots=True)
class ConsoleSize:
    """Size of a terminal, in cells. The width comes first."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class IO:
    """Standard streams of a process: paths of FIFOs that the caller has made, opens and removes; empty for none.

    Attributes:
        stdin: Path of a FIFO.
        stdout: Path of a FIFO, or a log URI such as ``file:///var/log/x``.
        stderr: As `stdout`; empty with a terminal.
        terminal: Whether the process has a terminal.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False

    def __post_init__(self) -> None:
        if self.terminal and self.stderr:
            raise InvalidArgument("a terminal has a single output: leave stderr out")
        for name in ("stdin", "stdout", "stderr"):
            path = getattr(self, name)
            if path and "://" not in path and not path.startswith("/"):
                raise InvalidArgument(f"{name} is {path!r}; it must be an absolute path")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOpts:
    """How to create a task.

    Attributes:
        spec: OCI spec; None takes that of the container's record. containerd knows no other place for one, so it is
            put there.
        rootfs: Mounts of the root filesystem; none takes those of the container's snapshot.
        io: Standard streams of the init process.
        checkpoint: What it continues from: the digest of CRIU's archive in the content store, or a directory that
            `Task.checkpoint` wrote. Empty for a new process.
        options: Options of the runtime for this task.
    """

    spec: Spec | None = None
    rootfs: Sequence[Mount] = ()
    io: IO = field(default_factory=IO)
    checkpoint: str = ""
    options: RuncOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOpts:
    """How to add a process to a task.

    Attributes:
        spec: The process: ``args``, ``cwd``, ``env``, ``user`` and the rest of the OCI type.
        io: Its standard streams.
    """

    spec: OCIProcess
    io: IO = field(default_factory=IO)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended.

    Attributes:
        pid: Its pid on the host.
        status: Exit code; 128 + N after signal N, 255 when the real one is lost.
        timestamp: When it ended; None if it never ran, or nobody knows.
    """

    pid: int
    status: int
    timestamp: datetime | None


@dataclass(frozen=True, slots=True)
class State:
    """What containerd says of a process.

    Attributes:
        status: Its own status, also for an exec.
        pid: Its pid on the host.
        stdin: As in `IO`.
        stdout: As in `IO`.
        stderr: As in `IO`.
        terminal: As in `IO`.
    """

    status: Status
    pid: int
    stdin: str
    stdout: str
    stderr: str
    terminal: bool


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """What a task was made from.

    Attributes:
        id: Id of the container.
        runtime: Name of the runtime.
        spec: The OCI spec as it is kept, JSON.
        namespace: Namespace of the container.
    """

    id: str
    runtime: str
    spec: bytes
    namespace: str
