"""What the daemon says of a process when it is asked, and the events that must have been missed for it to be so. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio.events.model import TaskCreate, TaskExit, TaskPaused, TaskResumed, TaskStart
from containerd_aio.events.records import Phase

if TYPE_CHECKING:
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.events.model import Event


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task, or an exec in it, as the daemon describes it (Tasks.Get, Tasks.List).

    Attributes:
        namespace: Namespace of the container.
        container_id: Id of the container.
        pid: Host pid of the process.
        phase: Created, running or paused; of no meaning when there is an `exit`. None when the daemon has the process
            but could not learn its state, as when the shim does not answer.
        exit: Its exit when it has stopped.
        seen_at_ns: When it was asked for, nanoseconds since the epoch.
        exec_id: Id of the exec; empty for the task.
    """

    namespace: str
    container_id: str
    pid: int
    phase: Phase | None
    exit: ExitStatus | None
    seen_at_ns: int
    exec_id: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and container id."""
        return self.namespace, self.container_id

    @property
    def unclear(self) -> bool:
        """Whether the daemon could not say how it is."""
        return self.phase is None and self.exit is None

    def appeared(self) -> list[Event]:
        """Return the events that must have been missed for the task to be there."""
        create = TaskCreate(
            topic="/tasks/create",
            namespace=self.namespace,
            timestamp_ns=self.seen_at_ns,
            origin="resync",
            container_id=self.container_id,
            pid=self.pid,
        )
        start = TaskStart(
            topic="/tasks/start",
            namespace=self.namespace,
            timestamp_ns=self.seen_at_ns,
            origin="resync",
            container_id=self.container_id,
            pid=self.pid,
        )
        return [create] if self.phase is Phase.CREATED and self.exit is None else [create, start]

    def exit_event(self) -> Event:
        """Return the exit event that must have been missed."""
        assert self.exit is not None
        return TaskExit(
            topic="/tasks/exit",
            namespace=self.namespace,
            timestamp_ns=self.exit.exited_at_ns or self.seen_at_ns,
            origin="resync",
            container_id=self.container_id,
            id=self.exec_id or self.container_id,
            pid=self.pid,
            exit_status=self.exit.code,
            exited_at_ns=self.exit.exited_at_ns,
        )

    def pause_event(self) -> Event:
        """Return the pause or resume that must have been missed."""
        cls, topic = (
            (TaskPaused, "/tasks/paused") if self.phase is Phase.PAUSED else (TaskResumed, "/tasks/resumed")
        )
        return cls(
            topic=topic,
            namespace=self.namespace,
            timestamp_ns=self.seen_at_ns,
            origin="resync",
            container_id=self.container_id,
        )
