"""One runtime of a containerd: the tasks that it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from containerd_aio._log import get_logger
from containerd_aio.api.containerd.services.tasks.v1 import ListTasksRequest
from containerd_aio.errors import (
    ContainerdError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
)
from containerd_aio.runtime.errors import ContainerNotExist, translated
from containerd_aio.runtime.io import lent
from containerd_aio.runtime.monitor import TaskMonitor, new_noop_monitor
from containerd_aio.runtime.task import Task, exit_of
from containerd_aio.runtime.types import CreateOpts, Exit, TaskInfo

if TYPE_CHECKING:
    from containerd_aio.client import Client
    from containerd_aio.container import Container, ContainerInfo
    from containerd_aio.oci import RuncOptions
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.task import Task as ClientTask

DEFAULT_RUNTIME = "io.containerd.runc.v2"
# Seconds that the event of an exit may still take when containerd says already that the process has ended.
_EXIT_TIMEOUT = 10.0

_log = get_logger(__name__)


class Runtime:
    """The tasks that one runtime runs, in the namespace of a client.

    A task is made of a container, whose record must be there (`Client.new_container`).

    Args:
        client: An open client.
        name: Name of the runtime, as container records have it.
        monitor: Told of every task that `create` makes, and of every one that `delete` removes.
    """

    def __init__(
        self, client: Client, name: str = DEFAULT_RUNTIME, *, monitor: TaskMonitor | None = None
    ) -> None:
        if not name:
            raise InvalidArgument("the name of the runtime is empty; the usual one is io.containerd.runc.v2")
        self._client = client
        self._name = name
        self._monitor = monitor or new_noop_monitor()

    def __repr__(self) -> str:
        return f"<Runtime {self._name} of {self._client!r}>"

    @property
    def id(self) -> str:
        """Name of the runtime."""
        return self._name

    async def create(self, container_id: str, opts: CreateOpts | None = None) -> Task:
        """Create the task of a container; its process exists afterwards, and waits for `Task.start`.

        When the monitor refuses, the task is deleted again.

        Args:
            container_id: Id of the container, whose record names this runtime.
            opts: How.

        Raises:
            ContainerExists: It has a task.
            ContainerNotExist: There is no such container.
            RuntimeNotExist: The runtime is not installed on the daemon's machine.
            InvalidArgument: The container is of another runtime, or an option can't be used.
            NotFound: There is no such checkpoint.
            Unknown: The runtime refused; the text is runc's.
        """
        opts = opts or CreateOpts()
        container = await self._container(container_id)
        checkpoint, options = await self._checkpoint(opts)
        async with _spec_of(container, opts):
            with translated():
                created = await container.new_task(
                    io=lent(opts.io), rootfs=opts.rootfs or None, options=options, checkpoint=checkpoint
                )
            task = await self._made(container, created)
        try:
            await self._monitor.monitor(task)
        except BaseException:
            with anyio.CancelScope(shield=True):
                try:
                    await created.delete(kill=True)
                except ContainerdError as exc:
                    _log.warning(
                        "a task that its monitor refused is left", container_id=container_id, error=str(exc)
                    )
            raise
        return task

    async def get(self, container_id: str) -> Task:
        """Return a handle on a task of this runtime.

        Raises:
            ContainerNotExist: There is no such container of this runtime, or it has no task.
        """
        try:
            container = await self._container(container_id)
        except InvalidArgument as exc:
            raise ContainerNotExist(f"runtime: container does not exist: {exc.message}") from exc
        with translated():
            return await self._made(container, await container.task())

    async def tasks(self) -> list[Task]:
        """Return all tasks of this runtime."""
        containers = await self._client.containers(f'runtime.name=="{self._name}"')
        listed = (await self._client.services.tasks.list(ListTasksRequest())).tasks
        running = {process.id for process in listed}
        found = []
        for container in containers:
            if container.id in running:
                with suppress(ContainerNotExist):  # deleted meanwhile
                    found.append(await self.get(container.id))
        return found

    async def delete(self, task: Task) -> Exit:
        """Remove the task of a container that has ended, and return how it ended. The container stays.

        The monitor is stopped first; not, however, if the task still runs.

        Raises:
            InvalidArgument: It is not a task of this runtime.
            FailedPrecondition: It runs.
            ContainerNotExist: It was deleted before by somebody else, and nothing is known of its exit.
        """
        if not isinstance(task, Task) or task.info.runtime != self._name:
            raise InvalidArgument(f"{task!r} is not a task of the runtime {self._name!r}")
        process = task.client_process
        with translated():
            await _refuse_if_running(process)
            await self._monitor.stop(task)
            return exit_of(await process.delete())

    async def _container(self, container_id: str) -> Container:
        with translated():
            container = await self._client.container(container_id)
        runtime = (await container.info(refresh=False)).runtime
        if runtime != self._name:
            raise InvalidArgument(
                f"container {container_id!r} is of the runtime {runtime!r}, not of {self._name!r}"
            )
        return container

    async def _made(self, container: Container, task: ClientTask) -> Task:
        info: ContainerInfo = await container.info(refresh=False)
        spec = info.raw.spec.value if info.raw.spec is not None else b""
        namespace = task.incarnation.namespace
        return Task(self._client, task, TaskInfo(info.id, info.runtime, spec, namespace))

    async def _checkpoint(self, opts: CreateOpts) -> tuple[Descriptor | None, RuncOptions | None]:
        """Return what is to be continued, as the client wants it: an archive, or a directory among the options."""
        if not opts.checkpoint:
            return None, opts.options
        if opts.checkpoint.startswith("/"):
            from containerd_aio.oci import RuncOptions

            return None, (opts.options or RuncOptions()).merge(RuncOptions(criu_image_path=opts.checkpoint))
        from containerd_aio.checkpoint import CRIU_ARCHIVE
        from containerd_aio.services.content import ContentStore
        from containerd_aio.services.descriptor import Descriptor

        info = await ContentStore(self._client.services).info(opts.checkpoint)
        return Descriptor(CRIU_ARCHIVE, info.digest, info.size), opts.options


@asynccontextmanager
async def _spec_of(container: Container, opts: CreateOpts) -> AsyncIterator[None]:
    """Have the container's record hold the spec of the options; as it was when that comes to nothing."""
    if opts.spec is None:
        yield
        return
    with translated():
        before = (await container.info(refresh=False)).spec
        await container.update(spec=opts.spec)
    try:
        yield
    except BaseException:
        if before is not None:
            with anyio.CancelScope(shield=True), suppress(ContainerdError):
                await container.update(spec=before)
        raise


async def _refuse_if_running(process: ClientTask) -> None:
    """Refuse to delete what runs; and see to it that the exit of what has ended is known, and told to monitors."""
    if process.exit_status is not None:
        return
    status = await process.status()
    if status in {"running", "paused", "pausing"}:
        raise FailedPrecondition(f"the task of {process.id!r} is {status}; kill it first")
    if status == "stopped":
        with suppress(DeadlineExceeded):
            await process.wait(timeout=_EXIT_TIMEOUT)
