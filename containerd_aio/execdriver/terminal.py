"""Terminals: what a driver makes of the pipes of a process, to resize and close it later. The height comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import anyio.lowlevel
from anyio.streams.stapled import StapledByteStream

from containerd_aio import stdio
from containerd_aio.errors import FailedPrecondition

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from containerd_aio.execdriver.pipes import Pipes
    from containerd_aio.execdriver.types import ProcessConfig
    from containerd_aio.process import Process


@runtime_checkable
class Terminal(Protocol):
    """What `ProcessConfig.terminal` holds while a process runs."""

    async def resize(self, height: int, width: int) -> None:
        """Set the size, in cells."""

    async def close(self) -> None:
        """Close our side."""


@runtime_checkable
class TtyTerminal(Protocol):
    """A `Terminal` that can be read and written."""

    def master(self) -> ByteStream:
        """Return the stream of the terminal: what is sent is typed, what is received was printed."""


class StdConsole:
    """No terminal: three streams. `resize` and `close` do nothing.

    Args:
        process_config: The process, whose ``io`` is set.
        pipes: Its streams.
    """

    def __init__(self, process_config: ProcessConfig, pipes: Pipes) -> None:
        self.attach_pipes(process_config, pipes)

    def attach_pipes(self, process_config: ProcessConfig, pipes: Pipes) -> None:
        """Wire the streams. stdin is copied in the background, and its end is the end of the process's stdin.

        Raises:
            InvalidArgument: One is not a stream.
        """
        process_config.io = stdio.streams(stdin=pipes.stdin, stdout=pipes.stdout, stderr=pipes.stderr)

    async def resize(self, height: int, width: int) -> None:  # noqa: ARG002
        """Do nothing: there is no terminal."""
        await anyio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Do nothing: the streams are the caller's."""
        await anyio.lowlevel.checkpoint()


def new_std_console(process_config: ProcessConfig, pipes: Pipes) -> StdConsole:
    """Return a `StdConsole` (Docker: NewStdConsole).

    Raises:
        InvalidArgument: A pipe is not a stream.
    """
    return StdConsole(process_config, pipes)


class TtyConsole:
    """A terminal, which the shim holds: its output goes to ``pipes.stdout``, ``pipes.stdin`` is typed.

    Without any pipe it is left to the caller as `master`, who must read what is printed.

    Args:
        process_config: The process, whose ``io`` is set.
        pipes: Its streams; there is no stderr.
    """

    def __init__(self, process_config: ProcessConfig, pipes: Pipes) -> None:
        self._process: Process | None = None
        self._free = pipes.stdin is None and pipes.stdout is None
        process_config.io = (
            stdio.pipes(stdin=True, terminal=True)
            if self._free
            else stdio.streams(stdin=pipes.stdin, stdout=pipes.stdout, terminal=True)
        )

    def attach_process(self, process: Process) -> None:
        """Take the process that has the terminal; called by the driver once it exists."""
        self._process = process

    def master(self) -> ByteStream:
        """Return the stream of the terminal.

        Raises:
            FailedPrecondition: Pipes are attached to it, or the process does not exist yet.
        """
        if not self._free:
            raise FailedPrecondition("the terminal is attached to pipes; give Pipes() without any to have it")
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise FailedPrecondition("the terminal is not there yet; use it in the start callback or later")
        return StapledByteStream(self._process.stdin, self._process.stdout)

    async def resize(self, height: int, width: int) -> None:
        """Set the size, in cells; nothing happens before the process exists.

        Raises:
            NotFound: The process is gone.
        """
        await anyio.lowlevel.checkpoint()
        if self._process is not None:
            await self._process.resize(width, height)

    async def close(self) -> None:
        """Close our side."""
        await anyio.lowlevel.checkpoint()
        if self._process is not None:
            await self._process.aclose()


def new_console(process_config: ProcessConfig, pipes: Pipes) -> StdConsole | TtyConsole:
    """Return what fits the process, and put it into ``process_config.terminal``.

    Raises:
        InvalidArgument: A pipe is not a stream.
    """
    made = TtyConsole(process_config, pipes) if process_config.tty else StdConsole(process_config, pipes)
    process_config.terminal = made
    return made
