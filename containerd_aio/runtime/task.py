"""Processes and tasks of containerd's ``runtime`` package: the client's, under the names of 2017."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from containerd_aio.api.containerd.services.tasks.v1 import GetRequest
from containerd_aio.runtime.errors import ContainerNotExist, translated
from containerd_aio.runtime.io import lent
from containerd_aio.runtime.types import ConsoleSize, ExecOpts, Exit, State, Status, TaskInfo

if TYPE_CHECKING:
    from containerd_aio.checkpoint import CheckpointOptions
    from containerd_aio.client import Client
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.oci import LinuxResources
    from containerd_aio.process import Process as ClientProcess
    from containerd_aio.task import Task as ClientTask


class Process:
    """A process in a container. Made by `Task.exec` and `Task.process`, or it is a `Task`.

    Attributes:
        client_process: The process as the client has it, for what this package has no name for: waiting, for one.
    """

    client_process: ClientProcess

    def __init__(self, client: Client, process: ClientProcess) -> None:
        self._client = client
        self.client_process = process

    def __repr__(self) -> str:
        return f"<runtime.{type(self).__name__} {self.id}>"

    @property
    def id(self) -> str:
        """The exec id; for a task the container's id."""
        return self.client_process.id

    @property
    def _exec_id(self) -> str:
        return self.id

    async def state(self) -> State:
        """Ask containerd for its state.

        Raises:
            ContainerNotExist: The task was deleted.
            NotFound: The exec was deleted.
            Unavailable: containerd can't tell at the moment.
        """
        request = GetRequest(container_id=self.client_process.container_id, exec_id=self._exec_id)
        with translated():
            process = (await self._client.services.tasks.get(request)).process
        if process is None:
            raise ContainerNotExist(f"containerd says nothing about {self.id!r}")
        return State(
            status=Status.from_raw(process.status),
            pid=process.pid,
            stdin=process.stdin,
            stdout=process.stdout,
            stderr=process.stderr,
            terminal=process.terminal,
        )

    async def kill(self, signal: int, all: bool = False) -> None:  # noqa: A002
        """Send a signal.

        Args:
            signal: Its number.
            all: Signal every process of the container; no difference for an exec.

        Raises:
            ProcessExited: It has ended.
            ContainerNotExist: The task was deleted.
            InvalidArgument: There is no such signal.
        """
        with translated():
            await self.client_process.kill(signal, all=all and not self._exec_id)

    async def resize_pty(self, size: ConsoleSize) -> None:
        """Set the size of its terminal; without a terminal nothing happens.

        Raises:
            ContainerNotExist: The task was deleted.
        """
        with translated():
            await self.client_process.resize(size.width, size.height)

    async def close_io(self) -> None:
        """Let the shim close its side of stdin; the process sees the end once the caller's side is closed too.

        Raises:
            ContainerNotExist: The task was deleted.
        """
        with translated():
            await self.client_process.close_io()


class Task(Process):
    """The processes of a container. Made by `Runtime.create` and `Runtime.get`."""

    client_process: ClientTask

    def __init__(self, client: Client, task: ClientTask, info: TaskInfo) -> None:
        super().__init__(client, task)
        self._info = info

    @property
    def _exec_id(self) -> str:
        return ""

    @property
    def info(self) -> TaskInfo:
        """What it was made from."""
        return self._info

    async def start(self) -> None:
        """Run the container's process.

        Raises:
            FailedPrecondition: It was started before.
            ContainerNotExist: The task was deleted.
            Unknown: The runtime could not start it; the text is runc's.
        """
        with translated():
            await self.client_process.start()

    async def pause(self) -> None:
        """Freeze every process of the container.

        Raises:
            Unknown: It does not run.
            ContainerNotExist: The task was deleted.
        """
        with translated():
            await self.client_process.pause()

    async def resume(self) -> None:
        """Thaw what `pause` froze.

        Raises:
            Unknown: It is not paused.
            ContainerNotExist: The task was deleted.
        """
        with translated():
            await self.client_process.resume()

    async def exec(self, exec_id: str, opts: ExecOpts) -> Process:
        """Add a process to the container and start it, both at once as in 2017: a `Process` has no start.

        Args:
            exec_id: Its id, unique in the container until `delete_process`.
            opts: The process and its streams.

        Raises:
            AlreadyExists: There is an exec of that id.
            ContainerNotExist: The task was deleted.
            InvalidArgument: The id or the process is not valid.
            Unknown: The runtime could not start it; nothing is left of it then.
        """
        spec = dict(opts.spec)
        with translated():
            process = await self.client_process.exec(exec_id, spec, io=lent(opts.io))
            await process.start()
        return Process(self._client, process)

    async def pids(self) -> list[int]:
        """Return the host pids of every process in the container.

        Raises:
            ContainerNotExist: The task was deleted.
        """
        with translated():
            return await self.client_process.pids()

    async def checkpoint(self, path: str, options: CheckpointOptions | None = None) -> None:
        """Dump the processes into a directory, from which ``CreateOpts(checkpoint=path)`` continues them.

        Args:
            path: Absolute path on the daemon's machine.
            options: How, and whether the processes end by it.

        Raises:
            InvalidArgument: The path is not absolute.
            ContainerNotExist: The task was deleted.
            Unknown: CRIU is missing or can't dump these processes; the text is runc's.
        """
        from containerd_aio.checkpoint import CheckpointOptions
        from containerd_aio.errors import InvalidArgument

        if not path:
            raise InvalidArgument("the path of the checkpoint is empty; give a directory")
        with translated():
            await self.client_process.checkpoint(
                options=replace(options or CheckpointOptions(), image_path=path)
            )

    async def delete_process(self, exec_id: str) -> Exit:
        """Remove what is left of an exec that has ended, and return how it ended.

        Raises:
            FailedPrecondition: It runs.
            NotFound: There is no such exec.
            ContainerNotExist: The task was deleted.
        """
        process = await self.process(exec_id)
        with translated():
            return exit_of(await process.client_process.delete())

    async def update(self, resources: LinuxResources) -> None:
        """Change the limits of the container.

        Args:
            resources: The section ``linux.resources`` of a spec; what it does not name stays.

        Raises:
            InvalidArgument: A value is of the wrong kind.
            ContainerNotExist: The task was deleted.
            Unknown: The runtime refused.
        """
        with translated():
            await self.client_process.update(resources)

    async def process(self, exec_id: str) -> Process:
        """Return a handle on an exec.

        Raises:
            NotFound: There is no such exec. (In 2017 that was not looked at.)
            ContainerNotExist: The task was deleted.
        """
        with translated():
            return Process(self._client, await self.client_process.load_process(exec_id))


def exit_of(status: ExitStatus) -> Exit:
    """Return an exit in the form of this package."""
    return Exit(pid=status.pid, status=status.code, timestamp=status.exited_at)
