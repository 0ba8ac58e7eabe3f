"""A process in a container: started, waited for, signalled, deleted."""

from __future__ import annotations

import signal as signals
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio

from containerd_aio._backoff import Backoff
from containerd_aio._cancellation import carry_through, cleaning_up, through_a_restart
from containerd_aio._log import get_logger
from containerd_aio._signals import parse_signal
from containerd_aio.api.containerd.services.tasks.v1 import (
    CloseIoRequest,
    DeleteProcessRequest,
    GetRequest,
    KillRequest,
    ResizePtyRequest,
    ResumeTaskRequest,
    StartRequest,
)
from containerd_aio.api.containerd.v1.types import Status as RawStatus
from containerd_aio.errors import (
    Closed,
    ContainerdError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unknown,
)
from containerd_aio.events.exits import ExitStatus
from containerd_aio.events.inquiry import task_state
from containerd_aio.events.records import Phase, ProcessRecord
from containerd_aio.events.timestamps import to_ns

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.abc import ByteReceiveStream, ByteSendStream

    from containerd_aio._scope import Scope
    from containerd_aio.stdio.process_io import Captured, ProcessIO

ProcessStatus = Literal["created", "running", "paused", "pausing", "stopped", "unknown"]
"""State of a process, in containerd's words."""

# Seconds that copied output may still take to arrive once the process is dead: a grandchild may hold it open for ever.
DRAIN_TIMEOUT = 5.0
# Seconds for undoing something after a failure or a cancellation.
_UNDO_TIMEOUT = 10.0
# So often a delete is requested again until containerd has noticed that the shim has gone.
_SHIM_ENDS = 5

_log = get_logger(__name__)


_STATUS: dict[int, ProcessStatus] = {
    RawStatus.CREATED: "created",
    RawStatus.RUNNING: "running",
    RawStatus.STOPPED: "stopped",
    RawStatus.PAUSED: "paused",
    RawStatus.PAUSING: "pausing",
}


class Process:
    """A process in a container: started, waited for, signalled, deleted.

    Made by `Task.exec`, or it is a `Task`. As an async context manager it kills and deletes what is left of the process
    at the end, after its output has been read.

    Attributes:
        id: The exec id; for a task the container's id.
        container_id: Id of the container.
        stdin: Stream to its stdin, with ``stdio.pipes(stdin=True)``; else None.
        stdout: Stream of its stdout, with ``stdio.pipes()``; else None.
        stderr: Stream of its stderr, with ``stdio.pipes()``; else None.
    """

    def __init__(self, scope: Scope, record: ProcessRecord, io: ProcessIO | None) -> None:
        self._scope = scope
        self._record = record
        self._io = io
        self._starting = self._deleted = False
        if io is not None and io.config.fifos:
            scope.core.task_group.start_soon(self._tell_io_of_exit, io)
        self._tasks = scope.services.tasks
        self._log = _log.bind(
            namespace=scope.namespace, container_id=self.container_id, exec_id=record.exec_id or None
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._record.name} pid={self.pid} {self._record.exit or ''}>"

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The exec id; for a task the container's id."""
        return self._record.name

    @property
    def container_id(self) -> str:
        """Id of the container."""
        return self._record.incarnation.container_id

    @property
    def pid(self) -> int | None:
        """Process id in the host's pid namespace; None while it is not known, or there is none before a restore."""
        return self._record.pid or None

    @property
    def exit_status(self) -> ExitStatus | None:
        """How it ended; None while that is not known. A late OOM report may still set ``oom_killed``."""
        return self._record.exit

    @property
    def stdin(self) -> ByteSendStream | None:
        """Stream to its stdin; closing it closes the stdin of the process."""
        return self._io.stdin if self._io else None

    @property
    def stdout(self) -> ByteReceiveStream | None:
        """Stream of its stdout."""
        return self._io.stdout if self._io else None

    @property
    def stderr(self) -> ByteReceiveStream | None:
        """Stream of its stderr."""
        return self._io.stderr if self._io else None

    @property
    def captured(self) -> Captured | None:
        """What ``stdio.capture()`` collected so far; complete after `delete`."""
        return self._io.captured if self._io else None

    # --- verbs --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it.

        Raises:
            FailedPrecondition: It was started before.
            NotFound: The process or its container is gone.
            Unknown: The runtime could not start it; the text is runc's (a missing binary, for example).
        """
        if self._starting or (self._record.started and not self._deleted):
            raise FailedPrecondition(f"{self._record.name} was started before")
        self._starting = True
        try:
            # Given up half-way, nobody would know whether it is to be killed before it is deleted.
            await carry_through(self._start)
        except Unknown as exc:
            if "cannot start a running process" in exc.message:
                raise FailedPrecondition(exc.message, method=exc.method) from exc
            raise
        finally:
            self._starting = False

    async def _start(self) -> None:
        hub = self._scope.core.hub
        try:
            reply = await self._tasks.start(
                StartRequest(container_id=self.container_id, exec_id=self._record.exec_id)
            )
        except BaseException:
            hub.tell(hub.registry.start_failed(self._record, now=anyio.current_time()))
            raise
        hub.tell(hub.registry.started(self._record, reply.pid, now=anyio.current_time()))
        if self._io is not None:
            self._io.started()

    async def wait(self, *, timeout: float | None = None) -> ExitStatus:
        """Wait until it has ended and return how.

        It may be called before the start, after the exit, by many at once, and cancelled without harm. A lost connection
        or a restart of containerd is not an exit: the wait goes on and resolves with the truth, or, when the daemon has
        lost it, with code 255 and ``unknown=True``. It does not wait for the output to be read.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            DeadlineExceeded: It still runs after `timeout`, as far as is known; it goes on running.
            Closed: The client was closed meanwhile.
        """
        hub = self._scope.core.hub
        try:
            with anyio.fail_after(timeout):
                return await hub.wait(self._record)
        except TimeoutError:
            question = self._record.question
            unclear = question is not None and question.unclear_since is not None
            raise DeadlineExceeded(
                f"{self._record.name} had not ended after {timeout:g} s"
                + ", as far as is known: containerd can't tell, its shim does not answer" * unclear
            ) from None

    async def kill(self, signal: int | str = signals.SIGTERM, *, all: bool = False) -> None:  # noqa: A002
        """Send a signal.

        The init process of a container ignores signals it has no handler for, SIGTERM too: escalate to SIGKILL.

        Args:
            signal: Number or name (``"SIGTERM"`` or ``"TERM"``).
            all: Signal every process of the container (Go: ``WithKillAll``).

        Raises:
            InvalidArgument: There is no such signal.
            NotFound: It has ended already, or is gone.
            FailedPrecondition: It was not started (execs).
        """
        hub = self._scope.core.hub
        try:
            await self._tasks.kill(
                KillRequest(
                    container_id=self.container_id,
                    exec_id=self._record.exec_id,
                    signal=parse_signal(signal),
                    all=all,
                )
            )
        except NotFound:
            hub.tell(hub.registry.inquire(self._record, now=anyio.current_time()))  # its exit may be lost
            raise

    async def status(self) -> ProcessStatus:
        """Ask containerd for its state.

        Raises:
            NotFound: It was deleted.
        """
        process = await self._get()
        return _STATUS.get(process.status, "unknown")

    async def _get(self) -> Any:
        reply = await self._tasks.get(
            GetRequest(container_id=self.container_id, exec_id=self._record.exec_id)
        )
        if reply.process is None:
            raise NotFound(f"containerd says nothing about {self._record.name}")
        return reply.process

    async def resize(self, width: int, height: int) -> None:
        """Set the size of its terminal, in cells; without a terminal nothing happens.

        Raises:
            InvalidArgument: No terminal has that size.
        """
        if not (0 <= width < 1 << 16 and 0 <= height < 1 << 16):
            raise InvalidArgument(f"a terminal of {width} by {height} cells: both are 0 to 65535")
        await self._tasks.resize_pty(
            ResizePtyRequest(
                container_id=self.container_id, exec_id=self._record.exec_id, width=width, height=height
            )
        )

    async def close_io(self) -> None:
        """Let the shim close its side of the stdin (Go: ``CloseIO(WithStdinCloser)``).

        The process sees the end of its stdin once our side is closed too; ``stdin.aclose()`` does both.
        """
        await self._tasks.close_io(
            CloseIoRequest(container_id=self.container_id, exec_id=self._record.exec_id, stdin=True)
        )

    async def delete(self, *, kill: bool = False, drain_timeout: float = DRAIN_TIMEOUT) -> ExitStatus:
        """Remove what is left of it, after its output has been read, and return how it ended.

        Args:
            kill: Kill it first if it runs (Go: ``WithProcessKill``).
            drain_timeout: Seconds that copied output may still take to arrive; more is given up with a warning.

        Raises:
            FailedPrecondition: It runs, and `kill` is not set.
        """
        if kill:
            await self._kill_and_wait()
        elif self._record.exit is None:
            await self._refuse_if_running()
        await self._drain(drain_timeout)
        status = await self._delete_rpc()
        self._deleted = True
        if self._io is not None and self._io.stdout is None:
            # With pipes, the rest can still be read; they are closed by `aclose` or the end of the `async with`.
            await self._io.aclose()
        return status

    async def _kill_and_wait(self) -> None:
        if self._record.exit is not None:
            return
        killed = False
        try:
            await self.kill(signals.SIGKILL, all=not self._record.exec_id)
            killed = True
        except (NotFound, FailedPrecondition):
            pass  # it has ended, or was never started
        except Unknown as exc:
            self._log.debug("kill failed", error=str(exc))
        if self._record.incarnation.phase is Phase.PAUSED:
            # A frozen process does not even die.
            with suppress(ContainerdError):
                await self._tasks.resume(ResumeTaskRequest(container_id=self.container_id))
        # None: the start had an open end; what could be killed was started.
        if self._record.started or (killed and self._record.started is None):
            await self._scope.core.hub.wait(self._record)

    async def _refuse_if_running(self) -> None:
        """Learn the exit from containerd if its event is still on the way; refuse while it runs."""
        hub = self._scope.core.hub
        as_of = hub.registry.moment
        try:
            process = await self._get()
        except NotFound:
            return
        if process.status in {RawStatus.RUNNING, RawStatus.PAUSED, RawStatus.PAUSING}:
            raise FailedPrecondition(
                f"{self._record.name} is {_STATUS[process.status]}; kill it first, or delete(kill=True)"
            )
        if process.status == RawStatus.STOPPED and not self._record.exec_id:
            state = task_state(self._scope.namespace, process, "get")
            hub.tell(hub.registry.observed(state, as_of=as_of, now=anyio.current_time()))
            await hub.wait(self._record)  # its OOM question can only be answered before the delete

    async def _drain(self, timeout: float) -> None:
        if self._io is not None and not await self._io.wait_drained(timeout):
            self._log.warning(
                "output is still open after the exit; what comes later is lost", waited_seconds=timeout
            )

    async def _delete_rpc(self) -> ExitStatus:
        hub = self._scope.core.hub
        as_of = hub.registry.moment
        try:
            reply = await self._delete_again_if_closed()
        except NotFound:
            # Deleted before, by somebody else or by a call of ours that timed out: what is remembered counts.
            hub.tell(hub.registry.absent(self._record, as_of=as_of, now=anyio.current_time()))
            return await hub.wait(self._record)
        except Unknown as exc:
            if "cannot delete a running process" in exc.message:
                raise FailedPrecondition(exc.message, method=exc.method) from exc
            raise
        at = reply.exited_at
        status = ExitStatus(
            code=reply.exit_status,
            exited_at_ns=(to_ns(at.seconds, at.nanos) or None) if at else None,
            pid=reply.pid,
            source="delete",
        )
        hub.tell(hub.registry.exited(self._record, status, as_of=as_of, now=anyio.current_time()))
        return self._record.exit or status

    async def _delete_again_if_closed(self) -> Any:
        """Request the delete, and again when the shim ends over it: another client may have deleted it just now."""
        backoff = Backoff()
        while True:
            try:
                return await self._request_delete()
            except Unknown as exc:
                if "ttrpc: closed" not in exc.message or backoff.attempts == _SHIM_ENDS:
                    raise
                await anyio.sleep(backoff.next())

    async def _request_delete(self) -> Any:
        return await self._tasks.delete_process(
            DeleteProcessRequest(container_id=self.container_id, exec_id=self._record.exec_id)
        )

    async def aclose(self) -> None:
        """Close our side of its standard streams; the process itself is left alone, and can be attached to again."""
        if self._io is not None:
            await self._io.aclose(keep_fifos=not self._deleted)

    async def _tell_io_of_exit(self, io: ProcessIO) -> None:
        """Wake who still sends to its stdin: nothing else does, the shim keeps the pipe open until the delete."""
        with suppress(Closed):
            await self._scope.core.hub.wait(self._record)
            io.exited()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Delete it, killing it if need be; an error of the body is not replaced by one of the clean-up."""
        what = "exec" if self._record.exec_id else "the task of container"
        try:
            with cleaning_up(f"{what} {self.id!r}", within=_UNDO_TIMEOUT * 3):
                await through_a_restart(partial(self.delete, kill=True))
        except ContainerdError as failure:
            if exc is None:
                raise
            self._log.warning("not cleaned up", error=str(failure))
        finally:
            with anyio.CancelScope(shield=True):
                await self.aclose()
