"""Monitors of tasks: told which tasks there are, to watch them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
import anyio.lowlevel

from containerd_aio._log import get_logger
from containerd_aio.errors import Closed

if TYPE_CHECKING:
    from types import TracebackType

    from containerd_aio.client import Client
    from containerd_aio.events.callbacks import StateChanges
    from containerd_aio.events.states import StateChange
    from containerd_aio.runtime.task import Task

_log = get_logger(__name__)


class TaskMonitor(Protocol):
    """Watches tasks, in whatever way. `Runtime.create` and `Runtime.delete` tell it which."""

    async def monitor(self, task: Task) -> None:
        """Begin to watch a task. What it raises makes `Runtime.create` fail, and the task go."""

    async def stop(self, task: Task) -> None:
        """Watch it no more. Of a task that is not watched nothing happens."""


class _Noop:
    async def monitor(self, task: Task) -> None:  # noqa: ARG002
        await anyio.lowlevel.checkpoint()

    async def stop(self, task: Task) -> None:  # noqa: ARG002
        await anyio.lowlevel.checkpoint()


def new_noop_monitor() -> TaskMonitor:
    """Return a monitor that does nothing (Go: NewNoopMonitor)."""
    return _Noop()


class _Multi:
    def __init__(self, monitors: tuple[TaskMonitor, ...], *, strict: bool) -> None:
        self._monitors = monitors
        self._strict = strict

    async def monitor(self, task: Task) -> None:
        begun: list[TaskMonitor] = []
        try:
            for each in self._monitors:
                await each.monitor(task)
                begun.append(each)
        except BaseException:
            if not self._strict:
                with anyio.CancelScope(shield=True):
                    await self._roll_back(begun, task)
            raise

    async def _roll_back(self, begun: list[TaskMonitor], task: Task) -> None:
        for each in reversed(begun):
            try:
                await each.stop(task)
            except Exception as exc:  # noqa: BLE001 - the error that led here is the one to raise
                _log.warning("monitor not stopped", container_id=task.id, error=repr(exc))

    async def stop(self, task: Task) -> None:
        first: Exception | None = None
        for each in self._monitors:
            try:
                await each.stop(task)
            except Exception as exc:
                if self._strict:
                    raise
                first = first or exc
        if first is not None:
            raise first


def new_multi_task_monitor(*monitors: TaskMonitor, strict: bool = False) -> TaskMonitor:
    """Return a monitor that stands for several, told in order (Go: NewMultiTaskMonitor).

    The first error is raised. When it is one of `TaskMonitor.monitor`, those before it are stopped again, the last one
    first; and `TaskMonitor.stop` reaches every one, whatever others raise.

    Args:
        monitors: Any number.
        strict: As in Go: the first error ends it, and nothing is undone.
    """
    return _Multi(monitors, strict=strict)


@dataclass(slots=True)
class _Watch:
    """A task that is watched: whether its exit was told, and whether `EventTaskMonitor.stop` was called."""

    task: Task
    told: bool = False
    stopped: bool = False


class EventTaskMonitor:
    """A monitor that calls a function for every change of state of the tasks it watches, and of no others.

    For use as ``async with EventTaskMonitor(client, handler) as monitor``. The changes are those of
    `Client.state_changes`, with its order and isolation: start, pause, resume, oom, exits of execs, exit.

    Args:
        client: An open client.
        handler: An async function that takes a `Task` and a `StateChange`.
        options: ``retry``, ``timeout``, ``on_error`` and ``buffer`` of `Client.state_changes`.
    """

    def __init__(
        self, client: Client, handler: Callable[[Task, StateChange], Awaitable[object]], **options: Any
    ) -> None:
        self._client = client
        self._handler = handler
        self._options = options
        self._watched: dict[tuple[str, str, int], _Watch] = {}
        self._changes: StateChanges | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises:
            ConnectError: containerd can't be reached.
        """
        changes = self._client.state_changes(self._tell, all_namespaces=True, **self._options)
        self._changes = await changes.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Watch no task any more; a handler at work is cancelled."""
        if self._changes is not None:
            changes, self._changes = self._changes, None
            await changes.__aexit__(exc_type, exc, tb)
        self._watched.clear()

    async def monitor(self, task: Task) -> None:
        """Tell the handler of the changes of this task from now on."""
        await anyio.lowlevel.checkpoint()
        self._watched[_key(task)] = _Watch(task)

    async def stop(self, task: Task) -> None:
        """Tell of this task no more; of one that has ended, however, the exit is still told."""
        await anyio.lowlevel.checkpoint()
        watch = self._watched.get(_key(task))
        if watch is None:
            return
        watch.stopped = True
        if task.client_process.exit_status is None or watch.told:
            del self._watched[_key(task)]

    async def drain(self) -> None:
        """Return when the handler was told of everything that is known so far.

        Raises:
            Closed: The monitor is not open.
        """
        if self._changes is None:
            raise Closed("this monitor is not open; use it in `async with`")
        await self._changes.drain()

    async def _tell(self, change: StateChange) -> None:
        key = (change.namespace, change.container_id, change.incarnation)
        watch = self._watched.get(key)
        if watch is None:
            return
        try:
            await self._handler(watch.task, change)
        finally:
            if change.state == "exit":
                watch.told = True
                if watch.stopped and self._watched.get(key) is watch:
                    del self._watched[key]


def _key(task: Task) -> tuple[str, str, int]:
    incarnation = task.client_process.incarnation
    return incarnation.namespace, incarnation.container_id, incarnation.opened
