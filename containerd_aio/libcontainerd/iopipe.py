"""The standard streams of a container or process, handed to whoever shall own them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream

from containerd_aio.errors import Closed
from containerd_aio.libcontainerd.backend import awaited
from containerd_aio.stdio.fifo import FIFOSet, create_fifos, is_path
from containerd_aio.stdio.fifo_streams import OutputStream, StdinStream
from containerd_aio.stdio.process_io import ProcessIO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from containerd_aio.stdio.fifo import IOConfig

S = TypeVar("S", OutputStream, StdinStream)


class EmptyStream(ByteReceiveStream):
    """A stream that is at its end: the stderr of a process with a terminal."""

    async def receive(self, max_bytes: int = 65536) -> bytes:  # noqa: ARG002
        """Say that it is at its end.

        Raises:
            anyio.EndOfStream: Always.
        """
        await anyio.lowlevel.checkpoint()
        raise anyio.EndOfStream

    async def aclose(self) -> None:
        """Do nothing."""
        await anyio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class IOPipe:
    """The standard streams of a process, given to a `StdioCallback` or to `StreamBackend.attach_streams`.

    Once that has returned, the streams are the receiver's, to be read to the end and closed; if it raises, they are closed
    here. The end of stdout and stderr may come long after the process has ended: another process can hold them. What is
    not read is not lost, but a process whose output nobody reads will wait for it.

    Attributes:
        stdin: To the stdin of the process. Closing it lets the process see the end of its input, at once or as soon as it
            runs.
        stdout: From its stdout.
        stderr: From its stderr; at its end from the beginning if there is a terminal.
        terminal: Whether the process has a terminal, whose output is all on `stdout`.
    """

    stdin: ByteSendStream
    stdout: ByteReceiveStream
    stderr: ByteReceiveStream
    terminal: bool = False

    async def aclose(self) -> None:
        """Close all three. After the `Remote` was left, the process does not see the end of its stdin by that."""
        for stream in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, Closed):
                await stream.aclose()


@dataclass(eq=False)
class AttachedIO:
    """An `IOCreator` that gives the streams away.

    Attributes:
        terminal: Whether the process gets a terminal.
        give: Takes the streams; None keeps them until `hand_over`.
    """

    terminal: bool
    give: Callable[[IOPipe], Awaitable[object]] | None = None
    _pipe: IOPipe | None = field(default=None, init=False)
    _fifos: FIFOSet | None = field(default=None, init=False)
    _streams: list[OutputStream | StdinStream] = field(default_factory=list, init=False)

    async def create(self, process_id: str, *, fifo_root: Path) -> ProcessIO:
        """As `IOCreator.create`; the streams are given away before the process exists, so that none of them is late."""
        fifos = create_fifos(fifo_root, process_id, stdin=True, terminal=self.terminal)
        try:
            return await self._open(fifos)
        except BaseException:
            fifos.remove()
            raise

    async def attach(self, config: IOConfig) -> ProcessIO:
        """As `IOCreator.attach`."""
        return await self._open(FIFOSet(config))

    async def _open(self, fifos: FIFOSet) -> ProcessIO:
        config = fifos.config
        try:
            stdin = self._keep(StdinStream(config.stdin)) if config.stdin else None
            stdout = self._keep(OutputStream(config.stdout)) if is_path(config.stdout) else EmptyStream()
            has_stderr = is_path(config.stderr) and not config.terminal
            stderr = self._keep(OutputStream(config.stderr)) if has_stderr else EmptyStream()
            self._pipe = IOPipe(stdin or _ClosedStdin(), stdout, stderr, config.terminal)
            if self.give is not None:
                await self.hand_over(self.give)
        except BaseException:
            self.close()
            raise
        self._fifos = fifos
        # Without the outputs, which are not the process's any more: its end does not close them, nor wait for theirs.
        return ProcessIO(fifos, stdin=stdin)

    def _keep(self, stream: S) -> S:
        self._streams.append(stream)
        return stream

    async def hand_over(self, give: Callable[[IOPipe], Awaitable[object]]) -> None:
        """Give the streams away; they are closed if they are not taken."""
        assert self._pipe is not None
        try:
            await awaited("what takes the streams of a process", give(self._pipe))
        except BaseException:
            self.close()
            raise

    def exited(self) -> None:
        """Take it that the process has ended: streams that nobody ever wrote to end, and the FIFOs are removed."""
        for stream in self._streams:
            if isinstance(stream, OutputStream):
                stream.expect_end()
        if self._fifos is not None:
            self._fifos.remove()

    def close(self) -> None:
        """Close all streams: nobody took them."""
        for stream in self._streams:
            if isinstance(stream, OutputStream):
                stream.close()
            else:
                stream.abandon()


class _ClosedStdin(ByteSendStream):
    """The stdin of a process that was made without one."""

    async def send(self, item: bytes) -> None:  # noqa: ARG002
        """Refuse.

        Raises:
            anyio.BrokenResourceError: Always.
        """
        await anyio.lowlevel.checkpoint()
        raise anyio.BrokenResourceError

    async def aclose(self) -> None:
        """Do nothing."""
        await anyio.lowlevel.checkpoint()
