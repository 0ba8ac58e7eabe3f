"""The questions the hub asks the daemon, and what the answers mean."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import anyio

from containerd_aio import typeurl
from containerd_aio._backoff import Backoff
from containerd_aio._log import get_logger
from containerd_aio._transport.connections import NamespacedChannel
from containerd_aio.api.containerd.services.namespaces.v1 import ListNamespacesRequest, NamespacesStub
from containerd_aio.api.containerd.services.tasks.v1 import (
    GetRequest,
    ListTasksRequest,
    MetricsRequest,
    TasksStub,
)
from containerd_aio.api.containerd.v1.types import Status as TaskStatus
from containerd_aio.errors import ConnectError, ContainerdError, NotFound, Unavailable
from containerd_aio.events.exits import ExitSource, ExitStatus
from containerd_aio.events.records import Phase
from containerd_aio.events.resync import TaskState
from containerd_aio.events.timestamps import to_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from containerd_aio._transport.connections import Connections
    from containerd_aio.api.containerd.v1.types import Process as ProcessMessage

# Seconds: an answer that takes longer is of no use to somebody who waits for an exit.
_ASK_LIMIT = 5.0
# A listing asks every shim of the namespace.
_LIST_LIMIT = 15.0
# So often a listing is tried again when its connection broke.
_LIST_AGAIN = 3
_OOM_LIMIT = 1.0

_PHASES = {
    TaskStatus.CREATED: Phase.CREATED,
    TaskStatus.RUNNING: Phase.RUNNING,
    TaskStatus.PAUSED: Phase.PAUSED,
    TaskStatus.PAUSING: Phase.PAUSED,
}

_log = get_logger(__name__)


class Inquiry:
    """Asks across all namespaces, over the connection for calls.

    Args:
        connections: The connections of the client.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def all_tasks(self) -> list[TaskState]:
        """List the tasks of every namespace, as `tasks` does.

        Raises:
            ContainerdError: The namespaces could not be listed, or the connection broke.
        """
        reply = await NamespacesStub(self._channel("default")).list(ListNamespacesRequest())
        return await self.tasks(namespace.name for namespace in reply.namespaces)

    async def tasks(self, namespaces: Iterable[str]) -> list[TaskState]:
        """List the tasks of some namespaces.

        A namespace whose tasks can't be listed, because of a shim that does not answer, is left out: whoever is missing
        from the listing gets asked for by name.

        Raises:
            ConnectError: There is no connection to be had any more.
        """
        states: list[TaskState] = []

        async def add(namespace: str) -> None:
            states.extend(await self._tasks_of(namespace))

        try:
            async with anyio.create_task_group() as group:
                for name in namespaces:
                    group.start_soon(add, name)
        except* ConnectError as errors:
            raise errors.exceptions[0] from None
        return states

    async def _tasks_of(self, namespace: str) -> list[TaskState]:
        """List the tasks of a namespace; none when they can't be listed."""
        backoff = Backoff()
        while True:
            try:
                reply = await TasksStub(self._channel(namespace)).list(
                    ListTasksRequest(), timeout=_LIST_LIMIT
                )
                return [task_state(namespace, task, "list") for task in reply.tasks]
            except NotFound:
                return []  # removed since
            except ConnectError:
                raise
            except ContainerdError as exc:
                if isinstance(exc, Unavailable) and backoff.attempts < _LIST_AGAIN:
                    await anyio.sleep(backoff.next())
                    continue
                _log.warning("tasks can't be listed", namespace=namespace, error=str(exc))
                return []

    async def task(
        self, namespace: str, container_id: str, exec_id: str = ""
    ) -> TaskState | Literal["missing", "unclear"]:
        """Ask for one task, or an exec in it; ``unclear`` when neither its state nor its absence could be learnt."""
        try:
            reply = await TasksStub(self._channel(namespace)).get(
                GetRequest(container_id=container_id, exec_id=exec_id), timeout=_ASK_LIMIT
            )
        except NotFound:
            return "missing"
        except ContainerdError as exc:
            _log.debug("task state unclear", namespace=namespace, container_id=container_id, error=str(exc))
            return "unclear"
        if reply.process is None:
            return "unclear"
        return task_state(namespace, reply.process, "get", exec_of=container_id if exec_id else "")

    async def oom_killed(self, namespace: str, container_id: str) -> bool | None:
        """Ask the task's cgroup whether the kernel OOM-killed in it; None when it can't say.

        A fifth of the OOM kills send no TaskOOM event when the machine is busy; the counter of the cgroup stays until
        the task is deleted.
        """
        try:
            reply = await TasksStub(self._channel(namespace)).metrics(
                MetricsRequest(filters=[f"id=={container_id}"]), timeout=_OOM_LIMIT
            )
        except ContainerdError as exc:
            _log.debug("no metrics", namespace=namespace, container_id=container_id, error=str(exc))
            return None
        for metric in reply.metrics:
            if metric.id == container_id and metric.data is not None:
                return _oom_kills(typeurl.unpack(metric.data))
        return None

    def _channel(self, namespace: str) -> Any:
        return NamespacedChannel(self._connections, self._connections.rpc, namespace)


def _oom_kills(metrics: Any) -> bool | None:
    """Read the OOM counter of cgroup v1 or v2 metrics; None when there is none."""
    control = getattr(metrics, "memory_oom_control", None)  # io.containerd.cgroups.v1.Metrics
    if control is None:
        control = getattr(metrics, "memory_events", None)  # io.containerd.cgroups.v2.Metrics
    return None if control is None else control.oom_kill > 0


def task_state(
    namespace: str, process: ProcessMessage, source: ExitSource, *, exec_of: str = ""
) -> TaskState:
    """Read the Process message of Tasks.Get and Tasks.List.

    Args:
        namespace: The namespace that was asked in.
        process: The message. No daemon fills its `container_id`; `id` is that, or the exec's.
        source: Where it comes from.
        exec_of: Id of the container if it is about an exec.
    """
    exit_status = None
    if process.status == TaskStatus.STOPPED:
        at = process.exited_at
        exit_status = ExitStatus(
            code=process.exit_status,
            exited_at_ns=to_ns(at.seconds, at.nanos) or None if at else None,
            pid=process.pid,
            source=source,
        )
    return TaskState(
        namespace=namespace,
        container_id=exec_of or process.id,
        exec_id=process.id if exec_of else "",
        pid=process.pid,
        phase=_PHASES.get(process.status),  # UNKNOWN is what a shim that does not answer gets, with pid 0
        exit=exit_status,
        seen_at_ns=time.time_ns(),
    )
