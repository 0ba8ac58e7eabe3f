"""Processes in containers: the task, which is a container's init process and all around it, and execs."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through, is_open
from containerd_aio._identifiers import check_identifier
from containerd_aio._signals import parse_signal
from containerd_aio.api.containerd.services.tasks.v1 import (
    CloseIoRequest,
    DeleteProcessRequest,
    DeleteTaskRequest,
    ExecProcessRequest,
    GetRequest,
    KillRequest,
    ListPidsRequest,
    MetricsRequest,
    PauseTaskRequest,
    ResizePtyRequest,
    ResumeTaskRequest,
    UpdateTaskRequest,
)
from containerd_aio.errors import (
    ContainerdError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from containerd_aio.events.exits import ExitStatus
from containerd_aio.events.inquiry import task_state
from containerd_aio.events.records import Incarnation, Phase, ProcessRecord
from containerd_aio.oci import LinuxResources, WindowsResources, to_json
from containerd_aio.oci import Process as OCIProcess
from containerd_aio.process import Process, ProcessStatus
from containerd_aio.stdio import null

if TYPE_CHECKING:
    from containerd_aio._scope import Scope
    from containerd_aio.api.containerd.v1.types import ProcessInfo as RawProcessInfo
    from containerd_aio.checkpoint import CheckpointOptions
    from containerd_aio.image import Image
    from containerd_aio.metrics import TaskMetrics
    from containerd_aio.oci import Spec
    from containerd_aio.stdio.creators import IOCreator
    from containerd_aio.stdio.fifo import IOConfig
    from containerd_aio.stdio.process_io import ProcessIO

__all__ = ["Exec", "ExitStatus", "Process", "ProcessInfo", "ProcessStatus", "Task"]

# Seconds for undoing something after a failure or a cancellation.
_UNDO_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process in a container, as the runtime knows it.

    Attributes:
        pid: Its pid on the host.
        exec_id: Id of the exec that it is; None for the init process, and for what these have started.
        raw: containerd's message.
    """

    pid: int
    exec_id: str | None
    raw: RawProcessInfo = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawProcessInfo) -> Self:
        """Take over containerd's message."""
        details = typeurl.unpack(raw.info) if raw.info is not None else None
        return cls(raw.pid, getattr(details, "exec_id", "") or None, raw)


class Task(Process):
    """A running container: its init process, and what can be done to the whole of it."""

    _record: ProcessRecord

    @property
    def incarnation(self) -> Incarnation:
        """What the event core knows of this life of the container."""
        return self._record.incarnation

    async def pause(self) -> None:
        """Freeze every process of the container.

        Raises:
            Unknown: It does not run; the text is the runtime's.
        """
        await self._tasks.pause(PauseTaskRequest(container_id=self.container_id))
        await self._confirm(Phase.PAUSED)

    async def resume(self) -> None:
        """Thaw what `pause` froze.

        Raises:
            Unknown: It is not paused; the text is the runtime's.
        """
        await self._tasks.resume(ResumeTaskRequest(container_id=self.container_id))
        await self._confirm(Phase.RUNNING)

    async def _confirm(self, phase: Phase) -> None:
        """Ask for the state if the event that tells of it has not come yet: it may be lost.

        A successful call alone is no evidence, as it says nothing of which life of the container it reached.
        """
        hub, incarnation = self._scope.core.hub, self.incarnation
        if incarnation.phase is phase or not incarnation.open:
            return
        as_of = hub.registry.moment
        with suppress(ContainerdError):
            state = task_state(self._scope.namespace, await self._get(), "get")
            if not state.unclear:
                hub.tell(hub.registry.observed(state, as_of=as_of, now=anyio.current_time()))

    async def kill(
        self,
        signal: int | str = signals.SIGTERM,
        *,
        all: bool = False,  # noqa: A002
        exec_id: str | None = None,
    ) -> None:
        """Send a signal; see `Process.kill`.

        Args:
            signal: Number or name (``"SIGTERM"`` or ``"TERM"``).
            all: Signal every process of the container (Go: ``WithKillAll``).
            exec_id: Signal this exec instead (Go: ``WithKillExecID``), whether there is a handle on it or not.

        Raises:
            InvalidArgument: There is no such signal, or `all` and `exec_id` are both given.
            NotFound: It has ended already, or is gone.
            FailedPrecondition: The exec was not started.
        """
        if exec_id is None:
            await super().kill(signal, all=all)
            return
        if all:
            raise InvalidArgument("all and exec_id contradict each other")
        await self._tasks.kill(
            KillRequest(
                container_id=self.container_id,
                exec_id=check_identifier(exec_id, "exec id"),
                signal=parse_signal(signal),
            )
        )

    async def pids(self) -> list[int]:
        """Return the host pids of every process in the container; `processes` tells more of each.

        Raises:
            NotFound: The task was deleted.
        """
        return [process.pid for process in await self.processes()]

    async def processes(self) -> list[ProcessInfo]:
        """Return every process in the container, with what the runtime tells of it (Go: ``Pids``).

        Raises:
            NotFound: The task was deleted.
        """
        reply = await self._tasks.list_pids(ListPidsRequest(container_id=self.container_id))
        return [ProcessInfo.from_raw(raw) for raw in reply.processes]

    async def spec(self) -> Spec:
        """Return the OCI runtime spec of its container.

        Raises:
            NotFound: The container was deleted.
            FailedPrecondition: It was made without a spec.
        """
        from containerd_aio.container import load_container

        return await (await load_container(self._scope, self.container_id)).spec()

    async def metrics(self) -> TaskMetrics:
        """Return what containerd measures of it: memory, CPU time, processes, as its cgroup counts them.

        Raises:
            NotFound: The task was deleted.
            FailedPrecondition: The runtime measures nothing, or no more: its processes have ended.
        """
        from containerd_aio.metrics import TaskMetrics

        request = MetricsRequest(filters=[f"id=={self.container_id}"])
        for raw in (await self._tasks.metrics(request)).metrics:
            if raw.id == self.container_id:
                return TaskMetrics.from_raw(raw)
        status = await self.status()  # NotFound if it is gone
        raise FailedPrecondition(f"containerd has no metrics of {self.container_id!r}, which is {status}")

    async def update(
        self,
        resources: LinuxResources | None = None,
        *,
        windows: WindowsResources | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Change the limits of a running or paused container. The spec of the container stays as it is.

        Args:
            resources: The section ``linux.resources`` of the spec, such as ``{"memory": {"limit": 64 << 20}}``; what it
                does not name stays.
            windows: The section ``windows.resources`` instead.
            annotations: For the runtime, where it knows any.

        Raises:
            InvalidArgument: Nothing or too much is given, or a value is of the wrong kind.
            NotFound: The task was deleted.
            Unknown: The runtime refused; the text is its own.
        """
        if (resources is not None) == (windows is not None) and (
            resources is not None or annotations is None
        ):
            raise InvalidArgument("give resources, or windows, or annotations alone")
        if windows is not None:
            packed = typeurl.pack(to_json(windows, kind=WindowsResources), typeurl.WINDOWS_RESOURCES)
        else:
            packed = typeurl.pack(to_json(resources or {}, kind=LinuxResources), typeurl.LINUX_RESOURCES)
        request = UpdateTaskRequest(
            container_id=self.container_id, resources=packed, annotations=dict(annotations or {})
        )
        await self._tasks.update(request)

    async def checkpoint(
        self, name: str | None = None, *, options: CheckpointOptions | None = None
    ) -> Image | None:
        """Dump its processes into an image from which they can continue; see `Container.new_task` and `Client.restore`.

        It is paused meanwhile, unless it is paused already. The image also has the container's spec, its image, and what
        was changed in the root filesystem. CRIU is needed in the daemon's ``PATH``.

        Args:
            name: Name of the new image, or of one to replace; by default ``containerd.io/checkpoint/<id>:<time>``.
            options: How, and whether the processes end by it. A container with a terminal needs ``terminal=True``.

        Returns:
            The image; None with ``options.image_path``, as then the dump is in that directory only.

        Raises:
            NotFound: The task was deleted.
            Unknown: CRIU is missing or can't dump these processes; the text is runc's.
        """
        from containerd_aio.checkpoint import checkpoint_task
        from containerd_aio.container import load_container

        container = await load_container(self._scope, self.container_id)
        return await checkpoint_task(self._scope, await container.info(refresh=False), name, options)

    async def load_process(self, exec_id: str, *, io: IOCreator | None = None) -> Process:
        """Return a handle on an exec that is there, whoever made it.

        Args:
            exec_id: Its id.
            io: How to attach to its standard streams; None leaves them alone. Bytes go to one reader only.

        Raises:
            NotFound: There is no such exec.
            Unavailable: There is one, whose state the daemon can't tell at the moment.
        """
        check_identifier(exec_id, "exec id")
        hub = await self._scope.core.live_hub()
        as_of = hub.registry.moment
        reply = await self._tasks.get(GetRequest(container_id=self.container_id, exec_id=exec_id))
        process = reply.process
        if process is None:
            raise NotFound(f"container {self.container_id!r} has no exec {exec_id!r}")
        state = task_state(self._scope.namespace, process, "get", exec_of=self.container_id)
        if state.unclear:
            raise Unavailable(f"containerd has an exec {exec_id!r} but can't tell its state; try again")
        record, effects = hub.registry.adopt_exec(
            self.incarnation, state, as_of=as_of, now=anyio.current_time()
        )
        hub.tell(effects)
        config = (process.stdin, process.stdout, process.stderr, process.terminal)
        attached = await attach_io(self._scope, self.container_id, exec_id, io, config)
        return Exec(self._scope, record, attached)

    async def exec(
        self, exec_id: str, args: Sequence[str] | Mapping[str, Any], *, io: IOCreator | None = None
    ) -> Process:
        """Prepare another process in the container; `Process.start` runs it.

        Args:
            exec_id: Its id, unique in the container until it is deleted.
            args: The command; environment, user and all else are those of the container's process. Or a whole OCI
                process object.
            io: Its standard streams; `stdio.null` by default.

        Raises:
            InvalidArgument: The id or the command is not valid.
            AlreadyExists: There is an exec of that id.
        """
        check_identifier(exec_id, "exec id")
        creator = io or null()
        process = dict(args) if isinstance(args, Mapping) else await self._exec_process(args)
        if not process.get("args"):
            raise InvalidArgument(f"exec {exec_id!r}: the command is empty")
        process["terminal"] = creator.terminal
        await self._scope.core.live_hub()
        process_io = await creator.create(exec_id, fifo_root=self._scope.core.fifo_root)
        undo = partial(self._remove_exec, exec_id)
        try:
            start_io(self._scope, self.container_id, exec_id, process_io)
            add = partial(self._add_exec, exec_id, process, process_io.config)
            await carry_through(add, undo=undo)
        except BaseException as exc:
            with anyio.CancelScope(shield=True):
                if isinstance(exc, DeadlineExceeded):
                    await undo()
                await process_io.aclose()
            raise
        hub = self._scope.core.hub
        record, effects = hub.registry.exec_added(self.incarnation, exec_id, now=anyio.current_time())
        hub.tell(effects)
        return Exec(self._scope, record, process_io)

    async def _add_exec(self, exec_id: str, process: dict[str, Any], config: IOConfig) -> None:
        await self._tasks.exec(
            ExecProcessRequest(
                container_id=self.container_id,
                exec_id=exec_id,
                stdin=config.stdin,
                stdout=config.stdout,
                stderr=config.stderr,
                terminal=config.terminal,
                spec=typeurl.pack(to_json(process, kind=OCIProcess), typeurl.PROCESS),
            )
        )

    async def _remove_exec(self, exec_id: str) -> None:
        """Remove the exec that a request may have made that was given up, unless there was one of ours before."""
        former = self.incarnation.execs.get(exec_id)
        if former is not None and former.accepted is None:
            return
        with anyio.move_on_after(_UNDO_TIMEOUT):
            try:
                await self._tasks.delete_process(
                    DeleteProcessRequest(container_id=self.container_id, exec_id=exec_id)
                )
            except NotFound:
                pass
            except ContainerdError as exc:
                self._log.warning("an exec that was given up is left", given_up=exec_id, error=str(exc))

    async def _exec_process(self, args: Any) -> dict[str, Any]:
        listed = isinstance(args, Sequence) and not isinstance(args, str | bytes)
        if not listed or not all(isinstance(arg, str) for arg in args):
            raise InvalidArgument(
                f"a command is a list of strings, not {args!r}; for a shell: ['sh', '-c', ...]"
            )
        from containerd_aio.api.containerd.services.containers.v1 import GetContainerRequest

        reply = await self._scope.services.containers.get(GetContainerRequest(id=self.container_id))
        spec = typeurl.unpack(reply.container.spec) if reply.container and reply.container.spec else {}
        process: dict[str, Any] = dict(spec.get("process") or {})
        process["args"] = list(args)
        return process

    async def _request_delete(self) -> Any:
        return await self._tasks.delete(DeleteTaskRequest(container_id=self.container_id))


class Exec(Process):
    """A process added to a running container."""

    async def _start(self) -> None:
        """Start it; when it can't be started it is removed, so that its id can be used again."""
        try:
            await super()._start()
        except ContainerdError as failure:
            with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
                try:
                    if is_open(failure):
                        await self._kill_and_wait()
                    await self._delete_rpc()
                    self._deleted = True
                except ContainerdError as exc:
                    self._log.debug("exec not removed", error=str(exc))
                await self.aclose()
            raise


def start_io(scope: Scope, container_id: str, exec_id: str, io: ProcessIO) -> None:
    """Begin to copy the standard streams of a process, before the request that makes it; `exec_id` is empty for init."""
    tasks = scope.services.tasks

    async def close_stdin() -> None:
        await tasks.close_io(CloseIoRequest(container_id=container_id, exec_id=exec_id, stdin=True))

    async def resize(width: int, height: int) -> None:
        await tasks.resize_pty(
            ResizePtyRequest(container_id=container_id, exec_id=exec_id, width=width, height=height)
        )

    io.start(scope.core.task_group, close_stdin=close_stdin, resize=resize)


async def attach_io(
    scope: Scope,
    container_id: str,
    exec_id: str,
    io: IOCreator | None,
    config: tuple[str, str, str, bool],
) -> ProcessIO | None:
    """Attach to the standard streams of a process that is there: stdin, stdout, stderr, whether it is a terminal."""
    if io is None:
        return None
    from containerd_aio.stdio.fifo import IOConfig

    process_io = await io.attach(IOConfig(*config))
    start_io(scope, container_id, exec_id, process_io)
    process_io.started()
    return process_io
