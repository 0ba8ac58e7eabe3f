"""The owner of background work: the one place where a task is made that is not in a task group."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from anyio.abc import TaskGroup


class Supervisor:
    """A task group in a task of its own.

    A task group opened by a user's ``async with`` would bind it to one task, and an error in the body would come out
    wrapped in a group. Fixtures and daemons enter and leave in different tasks, so the group lives here; it ends when
    its owner calls `stop`, which waits for everything in it.

    Attributes:
        task_group: Where background work is started; may be used from any task of the loop.
    """

    task_group: TaskGroup

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._started = anyio.Event()

    async def start(self, name: str) -> None:
        """Open the task group; `name` shows in debuggers."""
        self._task = asyncio.create_task(self._run(), name=name)  # noqa: TID251 - see the module's docstring
        try:
            await self._started.wait()
        except BaseException:
            await self.stop()
            raise

    async def _run(self) -> None:
        async with anyio.create_task_group() as self.task_group:
            self._started.set()
            await anyio.sleep_forever()

    async def stop(self) -> None:
        """Cancel what runs and wait for its end, even when cancelled.

        Raises:
            BaseExceptionGroup: Background work failed; that is a bug of this library.
        """
        if self._task is None:
            return
        self._task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()
