"""What the contract tests talk to: a containerd, real or fake."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio import Client, ContainerdError, Event, typeurl
from containerd_aio.api.containerd.services.tasks.v1 import ExecProcessRequest, GetRequest, WaitRequest
from containerd_aio.api.containerd.v1.types import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from containerd_aio import Container, Subscription, Task
    from containerd_aio.testing.fake import FakeContainerd, Fate

IMAGE = "docker.io/library/busybox:latest"
YEAR_ONE = -62_135_596_800
LONG_LABEL = {"k" * 4000: "v" * 200}

_NUMBERS = itertools.count(1)


class Backend:
    """One containerd, and a client in a namespace of its own.

    Attributes:
        client: The client.
        release: Which release line it is.
        fake: The fake, if it is one.
    """

    def __init__(
        self, client: Client, release: str, fake: FakeContainerd | None = None, archive: Path | None = None
    ) -> None:
        self.client = client
        self.release = release
        self.fake = fake
        self.tasks = client.services.tasks
        self._archive = archive

    def id(self) -> str:
        """Return an id that was not used yet."""
        return f"c{next(_NUMBERS)}-{secrets.token_hex(2)}"

    async def ensure_image(self) -> None:
        """See to it that the image is there, which the real ones have from the beginning."""
        archive, self._archive = self._archive, None
        if archive is not None:
            await self.client.import_archive(archive, unpack=True)

    def shim(self, text: str) -> str:
        """Return the text of an error that comes from the shim."""
        return text if self.release == "2.1" else f"{text}: unknown"

    def script(self, container_id: str, fate: Fate) -> None:
        """Tell a fake what a container does; a real one runs the command."""
        if self.fake is not None:
            self.fake.script(container_id, fate)

    @asynccontextmanager
    async def container(self, *args: str, **options: Any) -> AsyncIterator[Container]:
        """Make a container of the image, deleted with its task at the end."""
        await self.ensure_image()
        name = options.pop("id", None) or self.id()
        async with await self.client.new_container(name, image=IMAGE, args=args, **options) as container:
            yield container

    @asynccontextmanager
    async def running(self, *args: str, **options: Any) -> AsyncIterator[tuple[str, Task]]:
        """Run a command in a container; yields its id and the task."""
        async with self.container(*(args or ("sleep", "1000")), **options) as container:
            task = await container.new_task()
            await task.start()
            yield container.id, task

    async def get(self, container_id: str, exec_id: str = "") -> Any:
        """Ask for the state of a process."""
        return (await self.tasks.get(GetRequest(container_id=container_id, exec_id=exec_id))).process

    async def wait(self, container_id: str, exec_id: str = "") -> int:
        """Wait for a process with Tasks.Wait and return its code."""
        request = WaitRequest(container_id=container_id, exec_id=exec_id)
        return (await self.tasks.wait(request, timeout=20)).exit_status

    async def add_exec(self, container_id: str, exec_id: str, *args: str, **options: Any) -> None:
        """Add a process."""
        process = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        spec = typeurl.pack(process, typeurl.PROCESS)
        await self.tasks.exec(
            ExecProcessRequest(container_id=container_id, exec_id=exec_id, spec=spec, **options)
        )

    @asynccontextmanager
    async def recorder(self) -> AsyncIterator[Recorder]:
        """Record the events of the namespace from here on."""
        async with self.client.events() as events:
            yield Recorder(self, events)


class Recorder:
    """Events as they come."""

    def __init__(self, backend: Backend, events: Subscription) -> None:
        self._backend = backend
        self._events = events
        self.seen: list[Event] = []

    async def until(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """Return all events up to one that is wanted."""
        with anyio.fail_after(20):
            while not any(wanted(event) for event in self.seen):
                item = await anext(self._events)
                assert isinstance(item, Event)
                self.seen.append(item)
        return self.seen

    async def until_topic(self, topic: str) -> list[Event]:
        """Return all events up to one of a topic."""
        return await self.until(lambda event: event.topic == topic)

    async def published(self) -> list[Event]:
        """Return all that the daemon has published until now."""
        await self._backend.client.barrier()
        while self._events.pending:
            item = await anext(self._events)
            assert isinstance(item, Event)
            self.seen.append(item)
        return self.seen

    async def published_after_delete(self) -> list[Event]:
        """Return all events, after a task was deleted: the event of that was published before the reply.

        Only a 2.1 loses it now and then (4 of 25 times when this was written): its shim ends faster than it is sent.
        """
        events = await self.published()
        if self._backend.release != "2.1" or self._backend.fake is not None:
            assert any(event.topic == "/tasks/delete" for event in events)
        return events


def short(events: list[Event], *, delete: bool = True) -> list[tuple[str, ...]]:
    """Return topic and exec id of task events, whose order is compared; without `delete` not the deletion of the task."""
    named: list[tuple[str, ...]] = []
    for event in events:
        if event.topic.startswith("/tasks/") and (delete or event.topic != "/tasks/delete"):
            name = getattr(event, "exec_id", "") or getattr(event, "id", "")
            container_id = getattr(event, "container_id", "")
            named.append((event.topic.removeprefix("/tasks/"), name if name != container_id else ""))
    return named


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    """Return class and text of the error that a call ends with."""
    try:
        with anyio.fail_after(20):
            result = await call
    except ContainerdError as exc:
        return type(exc).__name__, exc.message
    raise AssertionError(f"it was not refused: {result!r}")


async def until_stopped(backend: Backend, container_id: str, exec_id: str = "") -> Any:
    """Wait until Get says that a process has stopped, and return what it says."""
    await backend.wait(container_id, exec_id)
    process = await backend.get(container_id, exec_id)
    assert process.status == Status.STOPPED
    return process
