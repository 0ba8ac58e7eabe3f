"""Processes in containers: the task, which is a container's init process and all around it, and execs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio import typeurl
from containerd_aio._identifiers import check_identifier
from containerd_aio.api.containerd.services.tasks.v1 import (
    CloseIoRequest,
    DeleteTaskRequest,
    ExecProcessRequest,
    ListPidsRequest,
    PauseTaskRequest,
    ResizePtyRequest,
    ResumeTaskRequest,
)
from containerd_aio.errors import (
    Canceled,
    Closed,
    ContainerdError,
    DeadlineExceeded,
    InvalidArgument,
    Unavailable,
)
from containerd_aio.events.exits import ExitStatus
from containerd_aio.events.inquiry import task_state
from containerd_aio.events.records import Incarnation, Phase, ProcessRecord
from containerd_aio.oci import Process as OCIProcess
from containerd_aio.oci import to_json
from containerd_aio.process import Process, ProcessStatus
from containerd_aio.stdio import null

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containerd_aio._scope import Scope
    from containerd_aio.stdio.creators import IOCreator
    from containerd_aio.stdio.fifo import IOConfig
    from containerd_aio.stdio.process_io import ProcessIO

__all__ = ["Exec", "ExitStatus", "Process", "ProcessStatus", "Task"]

# Seconds for undoing something after a failure or a cancellation.
_UNDO_TIMEOUT = 10.0

# After these nobody knows whether the daemon did what was asked.
_OPEN_OUTCOME = (Canceled, Closed, DeadlineExceeded, Unavailable)


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

    async def pids(self) -> list[int]:
        """Return the host pids of every process in the container."""
        reply = await self._tasks.list_pids(ListPidsRequest(container_id=self.container_id))
        return [process.pid for process in reply.processes]

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
        process = dict(args) if isinstance(args, dict) else await self._exec_process(args)
        if not process.get("args"):
            raise InvalidArgument(f"exec {exec_id!r}: the command is empty")
        process["terminal"] = creator.terminal
        await self._scope.core.live_hub()
        process_io = await creator.create(exec_id, fifo_root=self._scope.core.fifo_root)
        try:
            start_io(self._scope, self.container_id, exec_id, process_io)
            await self._add_exec(exec_id, process, process_io.config)
        except BaseException:
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

    async def _exec_process(self, args: Any) -> dict[str, Any]:
        if isinstance(args, str | bytes) or not all(isinstance(arg, str) for arg in args):
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

    async def start(self) -> None:
        """As `Process.start`; when it can't be started it is removed, so that its id can be used again."""
        try:
            await super().start()
        except ContainerdError:
            with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
                try:
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
