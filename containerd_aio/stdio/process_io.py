"""The standard streams of one process, from before its Create request until everything is closed.

The order in which a Task or Process uses a `ProcessIO`, and why no output can be lost in it:

1. `IOCreator.create`: FIFOs exist and their read ends are open, so that the shim's opens don't block.
2. `ProcessIO.start`: copiers run.
3. RPCs: Create (or Exec), then Start; then `ProcessIO.started`.
4. The exit is known: `ProcessIO.exited`; `ProcessIO.wait_drained`: everything was read, or can't be lost any more.
5. RPC: Delete. The shim closes whatever it still had.
6. `ProcessIO.aclose`: descriptors closed, FIFOs removed. Also the way out after any failure above.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Self, TypeVarTuple, Unpack

import anyio
from anyio.abc import AnyByteReceiveStream, AnyByteSendStream, TaskGroup

from containerd_aio._log import get_logger
from containerd_aio.errors import ContainerdError, FailedPrecondition
from containerd_aio.stdio.console import WindowSize, raw_mode, window_sizes
from containerd_aio.stdio.descriptors import BytesSendStream
from containerd_aio.stdio.fifo import FIFOSet, IOConfig
from containerd_aio.stdio.fifo_streams import CHUNK, OutputStream, StdinStream

__all__ = ["Captured", "CopyPlan", "ProcessIO"]

_log = get_logger(__name__)
_Args = TypeVarTuple("_Args")


@dataclass(frozen=True, slots=True)
class Captured:
    """Output collected in memory.

    Attributes:
        stdout: What the process wrote to its stdout.
        stderr: What it wrote to its stderr.
        stdout_truncated: Whether `stdout` lacks bytes after the limit.
        stderr_truncated: The same of `stderr`.
    """

    stdout: bytes
    stderr: bytes
    stdout_truncated: bool = False
    stderr_truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What the copiers of a `ProcessIO` do.

    Attributes:
        source: Copied to the stdin of the process.
        stdout: Where its stdout goes; None throws it away.
        stderr: Where its stderr goes; None throws it away.
        terminal: Descriptor of our own terminal, kept in raw mode and its size forwarded while the process runs.
    """

    source: AnyByteReceiveStream | None = None
    stdout: AnyByteSendStream | None = None
    stderr: AnyByteSendStream | None = None
    terminal: int | None = None


class _OutputCopy:
    """Copies one output to where it goes."""

    def __init__(self, name: str, source: OutputStream, destination: AnyByteSendStream | None) -> None:
        self._name = name
        self._source = source
        self._destination = destination
        self.complete = False
        self.ended = anyio.Event()
        self.failure: Exception | None = None

    async def run(self) -> None:
        """Copy to the end. A destination that fails is reported once, and output is thrown away from then on."""
        try:
            while True:
                chunk = await self._source.receive(CHUNK)
                # The process must not be stopped by our failure, and would be once its pipe is full: read on.
                if self._destination is not None and self.failure is None:
                    await self._deliver(self._destination, chunk)
        except anyio.EndOfStream:
            self.complete = True
        finally:
            self.ended.set()

    async def _deliver(self, destination: AnyByteSendStream, chunk: bytes) -> None:
        try:
            await destination.send(chunk)
        except Exception as exc:  # noqa: BLE001 - a stream of the user may raise anything; kept for them
            self.failure = exc
            _log.warning("output is thrown away, its destination failed", stream=self._name, exc_info=True)


class ProcessIO:
    """The standard streams of one process. Made by an `IOCreator`; an async context manager that ends in `aclose`.

    Attributes:
        config: What to put into the Create or Exec request.
        stdin: With `stdio.pipes`, the stdin of the process if asked for; otherwise None.
        stdout: With `stdio.pipes`, the stdout of the process; otherwise None.
        stderr: With `stdio.pipes`, the stderr of the process; None with a terminal, and otherwise.
    """

    def __init__(
        self,
        fifos: FIFOSet,
        *,
        stdin: StdinStream | None = None,
        stdout: OutputStream | None = None,
        stderr: OutputStream | None = None,
        plan: CopyPlan | None = None,
        resources: contextlib.ExitStack | None = None,
    ) -> None:
        self.config: IOConfig = fifos.config
        self._fifos = fifos
        self._stdin = stdin
        self._outputs = [output for output in (stdout, stderr) if output is not None]
        self._plan = plan
        self._resources = resources or contextlib.ExitStack()
        self._copies: list[_OutputCopy] = []
        if plan is not None:
            if stdout is not None:
                self._copies.append(_OutputCopy("stdout", stdout, plan.stdout))
            if stderr is not None:
                self._copies.append(_OutputCopy("stderr", stderr, plan.stderr))
        exposed = plan is None
        self.stdin: StdinStream | None = stdin if exposed else None
        self.stdout: OutputStream | None = stdout if exposed else None
        self.stderr: OutputStream | None = stderr if exposed else None
        self._scope = anyio.CancelScope()
        self._started = anyio.Event()
        self._begun = anyio.Event()  # started, or ended without our having been told of the start
        self._presentable = anyio.Event()  # our terminal, if there is one, is ready for the output
        self._exited = False
        self._stopped: anyio.Event | None = None  # None until start()
        self._closed = False
        self._failures: list[Exception] = []

    @property
    def captured(self) -> Captured | None:
        """What `stdio.capture` has collected so far; complete once `wait_drained` returned True. None for others."""
        plan = self._plan
        if plan is None or not isinstance(plan.stdout, BytesSendStream):
            return None
        assert isinstance(plan.stderr, BytesSendStream)
        return Captured(plan.stdout.data, plan.stderr.data, plan.stdout.truncated, plan.stderr.truncated)

    @property
    def failures(self) -> tuple[Exception, ...]:
        """What went wrong while copying: a full disk, a broken stream of the user. Also logged when it happened."""
        return (*self._failures, *(copy.failure for copy in self._copies if copy.failure is not None))

    def start(
        self,
        task_group: TaskGroup,
        *,
        close_stdin: Callable[[], Awaitable[None]],
        resize: Callable[[int, int], Awaitable[None]],
    ) -> None:
        """Begin to copy. Call before the Create or Exec request.

        Args:
            task_group: Where the copiers run. They end by themselves with the output, or in `aclose`, and never
                raise into it.
            close_stdin: Calls CloseIO for the stdin of this process. Called at most once at a time, only after
                `started`.
            resize: Calls ResizePty with width and height in cells. Called only after `started`.

        Raises:
            FailedPrecondition: Called a second time, or after `aclose`.
        """
        if self._stopped is not None or self._closed:
            raise FailedPrecondition("the standard streams of a process can be started only once")
        stopped = anyio.Event()
        task_group.start_soon(self._run, stopped, close_stdin, resize, name="stdio")
        self._stopped = stopped

    def started(self) -> None:
        """Say that the process runs: Start succeeded, or it was found running.

        Raises:
            FailedPrecondition: `start` was not called before.
        """
        if self._stopped is None:
            raise FailedPrecondition("the standard streams were not started")
        self._started.set()
        self._begun.set()

    def exited(self) -> None:
        """Say that the process has ended: nothing more is sent to its stdin.

        A sender waiting gets `anyio.BrokenResourceError`. Nothing else would tell it: a shim keeps the pipe to the
        process open until Delete, so that a full one stays full. May be called again, and without `started`: the
        answer to Start may have been lost.
        """
        self._exited = True
        self._begun.set()
        if self._stdin is not None:
            self._stdin.abandon()

    def cancel(self) -> None:
        """Stop copying at once. What was not read yet is lost: see `wait_drained` for the orderly way."""
        self._scope.cancel()

    async def wait_drained(self, timeout: float | None = None) -> bool:
        """Wait until no output can be lost any more. Call when the process has exited, before Delete.

        Copied output has then been read to its end and written to where it goes. Of the streams of `stdio.pipes`
        the end is known to be there: they can be read at leisure, until `aclose`. Implies `exited`.

        Args:
            timeout: Seconds; None waits for ever. The end may be far: a grandchild of the process can hold its
                output open, and a destination can be slow.

        Returns:
            Whether all output has come. False when the time was up, or copying was cancelled; what comes later is
            still copied until `aclose`. True for a process that never started.
        """
        if not self._started.is_set() and not self._exited:
            return True
        self.exited()
        for output in self._outputs:
            output.expect_end()
        with anyio.move_on_after(timeout):
            if self._plan is None:
                for output in self._outputs:
                    await output.wait_complete()
            else:
                for copy in self._copies:
                    await copy.ended.wait()
        if self._plan is None:
            return all(output.complete or output.closed for output in self._outputs)
        return all(copy.complete for copy in self._copies)

    async def aclose(self, *, keep_fifos: bool = False) -> None:
        """Close everything and remove the FIFOs. May be called at any time and again; finishes when cancelled.

        Args:
            keep_fifos: Leave the FIFOs where they are, for somebody who attaches later.
        """
        self._closed = True
        self.cancel()
        try:
            if self._stopped is not None:
                with anyio.CancelScope(shield=True):
                    await self._stopped.wait()
        finally:
            self._resources.close()
            if not keep_fifos:
                self._fifos.remove()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _run(
        self,
        stopped: anyio.Event,
        close_stdin: Callable[[], Awaitable[None]],
        resize: Callable[[int, int], Awaitable[None]],
    ) -> None:
        plan = self._plan
        try:
            with self._scope:
                async with anyio.create_task_group() as jobs:
                    if plan is None or plan.terminal is None:
                        self._presentable.set()
                    for copy in self._copies:
                        jobs.start_soon(self._guard, self._copy, copy)
                    if self._stdin is not None:
                        jobs.start_soon(self._guard, self._stdin.connect, self._started, close_stdin)
                    if plan is not None and plan.terminal is not None:
                        jobs.start_soon(self._guard, self._use_terminal, plan.terminal, resize)
                    elif plan is not None and plan.source is not None:
                        jobs.start_soon(self._guard, self._feed, plan.source)
        finally:
            for copy in self._copies:
                copy.ended.set()
            stopped.set()

    async def _copy(self, copy: _OutputCopy) -> None:
        # A process may write before Start is answered, and our terminal is raw only then.
        await self._presentable.wait()
        await copy.run()

    async def _guard(self, job: Callable[[Unpack[_Args]], Awaitable[None]], *args: *_Args) -> None:
        """Run a job whose failure must not reach the task group, which belongs to the whole client."""
        try:
            await job(*args)
        except Exception as exc:  # noqa: BLE001 - kept for the user
            self._failures.append(exc)
            _log.warning("copying standard streams failed", exc_info=True)

    async def _feed(self, source: AnyByteReceiveStream) -> None:
        """Copy our source to the stdin of the process, and end that with the source."""
        stdin = self._stdin
        if stdin is None:
            return
        await self._started.wait()  # a start that fails must not have eaten our user's input
        try:
            async for chunk in source:
                await stdin.send(chunk)
        except Exception:
            if stdin.broken:
                return  # the process wants no more: its right
            # The source broke. Without an end the process might wait for the rest for ever.
            await stdin.aclose()
            raise
        await stdin.aclose()

    async def _use_terminal(self, fd: int, resize: Callable[[int, int], Awaitable[None]]) -> None:
        """Keep our terminal raw, feed its input and forward its size, until the output has ended."""
        await self._begun.wait()
        try:
            with raw_mode(fd), window_sizes(fd) as sizes:
                self._presentable.set()
                async with anyio.create_task_group() as jobs:
                    if self._plan is not None and self._plan.source is not None:
                        jobs.start_soon(self._guard, self._feed, self._plan.source)
                    jobs.start_soon(self._guard, _forward_size, sizes, resize)
                    for copy in self._copies:
                        await copy.ended.wait()
                    jobs.cancel_scope.cancel()
        finally:
            self._presentable.set()  # without the terminal, too: the process must not be stopped by our failure


async def _forward_size(
    sizes: AsyncIterator[WindowSize], resize: Callable[[int, int], Awaitable[None]]
) -> None:
    async for size in sizes:
        try:
            await resize(size.width, size.height)
        except ContainerdError:
            # The process may just have gone, the daemon may be restarting; the next size tells it anyway.
            _log.debug("window size not forwarded", exc_info=True)
