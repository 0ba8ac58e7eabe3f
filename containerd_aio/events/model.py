"""What containerd tells about: one frozen class per event, named like its protobuf message.

Fields are positional in the order of the protobuf message, so both forms of ``match`` work::

    match event:
        case TaskExit(container_id="web", exit_status=code): ...

Here are the events of tasks and sandboxes. Those of stored things are in ``resources.py``; what all events have,
`UnknownEvent` and the markers `Gap` and `Lagged` in ``event.py``. All can be imported from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from containerd_aio.events.event import Event, Gap, Lagged, Origin, UnknownEvent
from containerd_aio.events.resources import (
    ContainerCreate,
    ContainerDelete,
    ContainerRuntime,
    ContainerUpdate,
    ContentCreate,
    ContentDelete,
    ImageCreate,
    ImageDelete,
    ImageUpdate,
    NamespaceCreate,
    NamespaceDelete,
    NamespaceUpdate,
    SnapshotCommit,
    SnapshotPrepare,
    SnapshotRemove,
)
from containerd_aio.events.timestamps import to_datetime

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "EVENT_CLASSES",
    "ContainerCreate",
    "ContainerDelete",
    "ContainerRuntime",
    "ContainerUpdate",
    "ContentCreate",
    "ContentDelete",
    "Event",
    "Gap",
    "ImageCreate",
    "ImageDelete",
    "ImageUpdate",
    "Lagged",
    "NamespaceCreate",
    "NamespaceDelete",
    "NamespaceUpdate",
    "Origin",
    "RootfsMount",
    "SandboxCreate",
    "SandboxExit",
    "SandboxStart",
    "SnapshotCommit",
    "SnapshotPrepare",
    "SnapshotRemove",
    "TaskCheckpointed",
    "TaskCreate",
    "TaskDelete",
    "TaskExecAdded",
    "TaskExecStarted",
    "TaskExit",
    "TaskIO",
    "TaskOOM",
    "TaskPaused",
    "TaskResumed",
    "TaskStart",
    "UnknownEvent",
]

# --- tasks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RootfsMount:
    """One mount of a task's root filesystem.

    Attributes:
        type: Filesystem type.
        source: What is mounted.
        target: Where, inside the root filesystem; usually empty.
        options: Mount options.
    """

    type: str = ""
    source: str = ""
    target: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskIO:
    """The stdio of a new task: paths of FIFOs, or URIs.

    Attributes:
        stdin: Standard input; empty for none.
        stdout: Standard output; empty for none.
        stderr: Standard error; empty for none.
        terminal: Whether the process has a terminal.
    """

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class TaskCreate(Event):
    """A task was made: its init process exists and waits for the start.

    Attributes:
        container_id: Container id.
        bundle: Bundle directory.
        rootfs: Mounts of the root filesystem.
        io: Its stdio.
        checkpoint: Checkpoint it is restored from; empty for none.
        pid: Host pid of the init process.
    """

    message_name: ClassVar[str] = "containerd.events.TaskCreate"
    container_id: str = ""
    bundle: str = ""
    rootfs: tuple[RootfsMount, ...] = ()
    io: TaskIO | None = None
    checkpoint: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class TaskStart(Event):
    """The init process was started.

    Attributes:
        container_id: Container id.
        pid: Host pid of the init process.
    """

    message_name: ClassVar[str] = "containerd.events.TaskStart"
    container_id: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class TaskExecAdded(Event):
    """A further process was added to a task and waits for its start.

    Attributes:
        container_id: Container id.
        exec_id: Id of the process.
    """

    message_name: ClassVar[str] = "containerd.events.TaskExecAdded"
    container_id: str = ""
    exec_id: str = ""


@dataclass(frozen=True, slots=True)
class TaskExecStarted(Event):
    """A further process was started. When its start fails, nothing is sent.

    Attributes:
        container_id: Container id.
        exec_id: Id of the process.
        pid: Its host pid.
    """

    message_name: ClassVar[str] = "containerd.events.TaskExecStarted"
    container_id: str = ""
    exec_id: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class TaskExit(Event):
    """A process of a task ended: init or an exec.

    It may come twice with different codes (the first is right), before the reply to the call that caused it, and with
    an ``id`` that is both the container's and an exec's; then only the pid tells.

    Attributes:
        container_id: Container id.
        id: Id of the process: the container id for init, else the exec id.
        pid: Its host pid; 0 when containerd itself cleaned up after a shim.
        exit_status: Exit code, 128 + N for signal N.
        exited_at_ns: When it ended, in nanoseconds since 1970 (UTC); None when it never ran.
    """

    message_name: ClassVar[str] = "containerd.events.TaskExit"
    container_id: str = ""
    id: str = ""
    pid: int = 0
    exit_status: int = 0
    exited_at_ns: int | None = None

    @property
    def exited_at(self) -> datetime | None:
        """When it ended, in UTC, cut to microseconds; None when it never ran."""
        return to_datetime(self.exited_at_ns)


@dataclass(frozen=True, slots=True)
class TaskDelete(Event):
    """A task was deleted; runc's shim sends none for execs.

    Attributes:
        container_id: Container id.
        pid: Host pid of the process.
        exit_status: Its exit code; 0 when it never ran.
        exited_at_ns: When it ended, in nanoseconds since 1970 (UTC); None when it never ran.
        id: Id of the process; may be empty for init.
    """

    message_name: ClassVar[str] = "containerd.events.TaskDelete"
    container_id: str = ""
    pid: int = 0
    exit_status: int = 0
    exited_at_ns: int | None = None
    id: str = ""

    @property
    def exited_at(self) -> datetime | None:
        """When it ended, in UTC, cut to microseconds; None when it never ran."""
        return to_datetime(self.exited_at_ns)


@dataclass(frozen=True, slots=True)
class TaskOOM(Event):
    """The kernel killed a process of the container for lack of memory.

    It may come before the start, after the exit, more than once, or not at all.
    """

    message_name: ClassVar[str] = "containerd.events.TaskOOM"
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class TaskPaused(Event):
    """All processes of a task were frozen."""

    message_name: ClassVar[str] = "containerd.events.TaskPaused"
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class TaskResumed(Event):
    """A paused task goes on."""

    message_name: ClassVar[str] = "containerd.events.TaskResumed"
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class TaskCheckpointed(Event):
    """A task was checkpointed; runc's shim does not send it.

    Attributes:
        container_id: Container id.
        checkpoint: Where the checkpoint is.
    """

    message_name: ClassVar[str] = "containerd.events.TaskCheckpointed"
    container_id: str = ""
    checkpoint: str = ""


# --- sandboxes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SandboxCreate(Event):
    """A sandbox was made."""

    message_name: ClassVar[str] = "containerd.events.SandboxCreate"
    sandbox_id: str = ""


@dataclass(frozen=True, slots=True)
class SandboxStart(Event):
    """A sandbox was started."""

    message_name: ClassVar[str] = "containerd.events.SandboxStart"
    sandbox_id: str = ""


@dataclass(frozen=True, slots=True)
class SandboxExit(Event):
    """A sandbox ended.

    Attributes:
        sandbox_id: Sandbox id.
        exit_status: Its exit code.
        exited_at_ns: When it ended, in nanoseconds since 1970 (UTC); None when not known.
    """

    message_name: ClassVar[str] = "containerd.events.SandboxExit"
    sandbox_id: str = ""
    exit_status: int = 0
    exited_at_ns: int | None = None

    @property
    def exited_at(self) -> datetime | None:
        """When it ended, in UTC, cut to microseconds; None when not known."""
        return to_datetime(self.exited_at_ns)


EVENT_CLASSES: tuple[type[Event], ...] = (
    ContainerCreate,
    ContainerUpdate,
    ContainerDelete,
    ImageCreate,
    ImageUpdate,
    ImageDelete,
    NamespaceCreate,
    NamespaceUpdate,
    NamespaceDelete,
    ContentCreate,
    ContentDelete,
    SnapshotPrepare,
    SnapshotCommit,
    SnapshotRemove,
    TaskCreate,
    TaskStart,
    TaskExecAdded,
    TaskExecStarted,
    TaskExit,
    TaskDelete,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskCheckpointed,
    SandboxCreate,
    SandboxStart,
    SandboxExit,
)
"""Every event this release knows, without `UnknownEvent`."""
