"""What a listing of the daemon's tasks says about the tasks we believe in. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio.events.model import TaskCreate, TaskExit, TaskPaused, TaskResumed, TaskStart
from containerd_aio.events.records import Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.events.model import Event
    from containerd_aio.events.records import Incarnation


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as the daemon describes it (Tasks.Get, Tasks.List).

    Attributes:
        namespace: Namespace of the container.
        container_id: Id of the container.
        pid: Host pid of init.
        phase: Created, running or paused; a stopped task has `exit`.
        exit: Its exit when it has stopped.
        seen_at_ns: When it was asked for, nanoseconds since the epoch.
    """

    namespace: str
    container_id: str
    pid: int
    phase: Phase
    exit: ExitStatus | None
    seen_at_ns: int

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and container id."""
        return self.namespace, self.container_id

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
            id=self.container_id,
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


def unlisted(
    believed: Iterable[Incarnation], listed: Collection[tuple[str, str]], namespaces: Collection[str]
) -> list[Incarnation]:
    """Return the incarnations that a listing of `namespaces` should have shown and did not.

    They need not be gone: a listing silently leaves out tasks whose shim does not answer, so each is asked for.
    """
    return [i for i in believed if i.namespace in namespaces and i.key not in listed]
