"""One process of a container of the fake."""

from __future__ import annotations

import asyncio
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.testing.fake.fates import Fate

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from containerd_aio.testing.fake.fates import Program
    from containerd_aio.testing.fake.stdio import ShimIO, StreamPaths

_KILLED = 128 + signal.SIGKILL


class FakeProcess:
    """A process, as its program and the test see it.

    Attributes:
        namespace: Namespace of its container.
        container_id: Id of its container.
        exec_id: Its exec id; empty for the init process.
        spec: The OCI process object.
        paths: The standard streams that were asked for.
        pid: Its pid, which no real process has; 0 for an exec that was not started.
        status: Created, running or stopped; that of the task says whether it is paused.
        exit_status: Its exit code; 0 while it has not ended.
        exited_at_ns: When it ended, nanoseconds since 1970; None while it has not, or when it never ran.
        broken: Its start failed.
        ended: Set when it has ended, or nobody will ever tell how.
        program: What it does; may be replaced until it is started.
    """

    def __init__(
        self,
        namespace: str,
        container_id: str,
        exec_id: str,
        *,
        spec: Mapping[str, Any],
        paths: StreamPaths,
        program: Program,
        on_exit: Callable[[FakeProcess, int], None],
    ) -> None:
        self.namespace = namespace
        self.container_id = container_id
        self.exec_id = exec_id
        self.spec = spec
        self.paths = paths
        self.program = program
        self.pid = 0
        self.status: Status = Status.CREATED
        self.exit_status = 0
        self.exited_at_ns: int | None = None
        self.broken = False
        self.ended = anyio.Event()
        self.io: ShimIO | None = None
        self._on_exit = on_exit
        self._traps: dict[int, int | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._scope: anyio.CancelScope | None = None

    def __repr__(self) -> str:
        name = f"{self.namespace}/{self.container_id}" + (f"/{self.exec_id}" if self.exec_id else "")
        return f"<FakeProcess {name} pid={self.pid} {self.status.name}>"

    @property
    def args(self) -> Sequence[str]:
        """The command."""
        return self.spec.get("args") or ()

    @property
    def env(self) -> dict[str, str]:
        """The environment."""
        return dict(pair.partition("=")[::2] for pair in self.spec.get("env") or ())

    # --- for programs -------------------------------------------------------------------------------------------------

    async def write(self, data: bytes, *, stderr: bool = False) -> None:
        """Write to stdout or stderr; it waits while the pipe is full."""
        if self.io is not None:
            await self.io.write(data, stderr=stderr)

    async def read(self, size: int = 65536) -> bytes:
        """Read from stdin; empty at its end."""
        return await self.io.read(size) if self.io is not None else b""

    def trap(self, number: int, exit_code: int | None) -> None:
        """Handle a signal: exit with a code, or ignore it (None)."""
        self._traps[number] = exit_code

    # --- for the shim -------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.status == Status.RUNNING

    def run(self, tasks: TaskGroup) -> None:
        """Begin: its program from now on decides when it ends."""
        self.status = Status.RUNNING
        program = self.program
        if isinstance(program, Fate):
            self._traps |= program.traps
            if program.silent:
                self._run_silently(program)
                return
        tasks.start_soon(self._run, program, name=f"fake process {self!r}")

    def _run_silently(self, fate: Fate) -> None:
        if fate.exit_code is None:
            return
        if fate.after == 0:
            self.end_by_itself(fate.exit_code)
        elif fate.after != float("inf"):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(fate.after, self.end_by_itself, fate.exit_code)

    async def _run(self, program: Program) -> None:
        scope = self._scope = anyio.CancelScope()
        code = None
        with scope:
            code = await self._outcome(program)
        self._scope = None
        if self.status == Status.STOPPED:  # it was killed
            self.close_io()
        elif code is not None:
            self.end_by_itself(code)

    async def _outcome(self, program: Program) -> int:
        try:
            return await program(self) or 0
        except Exception:  # noqa: BLE001 - as any program that fails: a traceback on its stderr
            await self.write(traceback.format_exc().encode(), stderr=True)
            return 1

    def end_by_itself(self, code: int) -> None:
        """Take it that the program ended with this code."""
        if self.running:
            self._on_exit(self, code)

    def stopped(self, code: int, at_ns: int | None) -> None:
        """Take note of the exit: it runs no longer."""
        self.status = Status.STOPPED
        self.exit_status = code
        self.exited_at_ns = at_ns
        self.ended.set()
        self.halt()

    def halt(self) -> None:
        """Have the program end where it stands."""
        if self._timer is not None:
            self._timer.cancel()
        if self._scope is not None:
            self._scope.cancel()
        else:
            self.close_io()

    def close_io(self) -> None:
        """Close its standard streams."""
        if self.io is not None:
            self.io.close()

    def reaction(self, number: int) -> int | None:
        """Return the exit code that a signal leads to; None when it changes nothing."""
        if number == signal.SIGKILL:
            return _KILLED
        if number in self._traps:
            return self._traps[number]
        if not self.exec_id or number in _HARMLESS:
            return None
        return 128 + number


_HARMLESS = frozenset({0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH})
