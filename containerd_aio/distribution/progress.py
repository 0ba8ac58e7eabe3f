"""How far a pull, a push, an import or an export has come: typed values, as they come or as an async iterator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import anyio

if TYPE_CHECKING:
    from types import TracebackType

    from containerd_aio.services.descriptor import Descriptor


class Action(StrEnum):
    """What is being done with an object, or has been done."""

    RESOLVING = "resolving"
    RESOLVED = "resolved"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    UPLOADING = "uploading"
    UNPACKING = "unpacking"
    READING = "reading"
    WRITING = "writing"
    EXISTS = "exists"
    MOUNTED = "mounted"
    DONE = "done"
    UNPACKED = "unpacked"
    OTHER = "other"


FINISHED = frozenset({Action.RESOLVED, Action.EXISTS, Action.MOUNTED, Action.DONE, Action.UNPACKED})
"""Actions after which nothing more happens to the object, except that a layer that has come may be unpacked."""


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """A step in the transfer of one object.

    Attributes:
        action: What is being done.
        name: The object: its digest, or the image's name for what concerns the whole.
        offset: Bytes that were moved so far.
        total: Bytes there are; 0 if that is not known.
        target: The object's descriptor, where it is known.
        text: The daemon's own word, when it is the daemon that moves the image and has none of the above.
    """

    action: Action
    name: str
    offset: int = 0
    total: int = 0
    target: Descriptor | None = None
    text: str = ""


ProgressCallback = Callable[[ProgressEvent], object]
"""Takes each step as it happens. It is called in the event loop and must not block."""


def silent(event: ProgressEvent) -> None:
    """Take a step and do nothing with it."""


class Progress:
    """Collects steps, and yields them to whoever iterates: give it as ``progress=`` and read it in another task.

    ::

        async with anyio.create_task_group() as tasks, Progress() as progress:
            tasks.start_soon(show, progress)  # async for event in progress: ...
            image = await client.pull(name, progress=progress)

    A reader that is slow misses steps of an object, never its latest one: nothing grows, and nobody waits for it.

    Attributes:
        state: Name of each object -> its latest step, in the order in which the objects turned up.
    """

    def __init__(self) -> None:
        self.state: dict[str, ProgressEvent] = {}
        self._fresh: dict[str, ProgressEvent] = {}
        self._wake = anyio.Event()
        self._closed = False

    def __call__(self, event: ProgressEvent) -> None:
        """Take a step."""
        self.state[event.name] = event
        if not self._closed:
            self._fresh[event.name] = event
            self._wake.set()

    def close(self) -> None:
        """End the iteration once what has come is read."""
        self._closed = True
        self._wake.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProgressEvent:
        while not self._fresh:
            if self._closed:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        name = next(iter(self._fresh))
        return self._fresh.pop(name)
