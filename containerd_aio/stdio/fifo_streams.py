"""Our ends of a process's FIFOs, as anyio byte streams.

Facts about FIFOs that shape this module (Linux; each has a test):

* A read end opened before any writer came reads as empty, which looks like the end; but it is not *readable* for
  epoll. So the first read of all waits for readiness.
* Bytes in a FIFO outlive their writer and the removal of the file for as long as a read end is open.
* Opening a write end needs a reader. `StdinStream` brings its own until the shim has come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream

from containerd_aio.errors import NotFound
from containerd_aio.stdio.fifo import open_fifo

__all__ = ["CHUNK", "OutputStream", "StdinStream"]

CHUNK = 256 * 1024
"""Bytes read at once by the copiers (benchmarks/stdio_copy.py)."""

_PIPE_CAPACITY = (
    1024 * 1024
)  # fewer wake-ups than the kernel's 64 KiB, and a process that rarely waits for us
_FIRST_DELAY = 0.001
_LONGEST_DELAY = 0.05


def _close(fd: int) -> None:
    anyio.notify_closing(fd)
    os.close(fd)


class OutputStream(ByteReceiveStream):
    """What a process writes to its stdout or stderr.

    Raises:
        NotFound: The FIFO is gone.
        PermissionDenied: It may not be opened.
        InvalidArgument: The file is not a FIFO.
    """

    def __init__(self, path: str) -> None:
        self._fd: int | None = open_fifo(path, os.O_RDONLY)
        self._reading = False
        self._readable_seen = False
        self._at_end = False
        self._hangup_waits: set[int] = set()
        with contextlib.suppress(OSError):  # unprivileged users have a limit for all their pipes together
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, _PIPE_CAPACITY)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Read what is there, waiting for at least one byte.

        Args:
            max_bytes: At most so many bytes.

        Raises:
            ValueError: `max_bytes` is below 1.
            anyio.EndOfStream: Every writer has closed, and everything was read.
            anyio.ClosedResourceError: The stream was closed here, also while waiting.
            anyio.BusyResourceError: Somebody else is reading.
        """
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._reading:
            raise anyio.BusyResourceError("reading from")
        self._reading = True
        try:
            # No await between a read and its return: a cancellation must not lose bytes.
            if self._readable_seen:
                await anyio.lowlevel.checkpoint()
            else:
                await anyio.wait_readable(self._open_fd())
                self._readable_seen = True
            while True:
                fd = self._open_fd()
                if self._at_end:
                    raise anyio.EndOfStream
                try:
                    data = os.read(fd, max_bytes)
                except BlockingIOError:
                    await anyio.wait_readable(fd)
                    continue
                if data:
                    return data
                self._at_end = True
        finally:
            self._reading = False

    async def aclose(self) -> None:
        """Close our end. What was not read is lost; a reader waiting gets `anyio.ClosedResourceError`."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """Do as `aclose`, at once."""
        for epoll_fd in self._hangup_waits:
            anyio.notify_closing(epoll_fd)
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _close(fd)

    @property
    def closed(self) -> bool:
        """Whether our end was closed."""
        return self._fd is None

    @property
    def complete(self) -> bool:
        """Whether no writer is left, so that all there will ever be can be read (or was)."""
        if self._at_end:
            return True
        if self._fd is None:
            return False
        poll = select.poll()
        poll.register(self._fd, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def expect_end(self) -> None:
        """Let the end be seen also when no writer ever came, or came and went before we opened (attach).

        Only for a process that ran: before, this would end the stream under the shim's hands.
        """
        if self._fd is None or self._at_end:
            return
        # The kernel reports a hang-up only after a writer left. If others still write, this one changes nothing.
        with contextlib.suppress(OSError):
            os.close(os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    async def wait_complete(self) -> None:
        """Return when no writer is left, or this end was closed. Reads nothing."""
        if self._fd is None or self.complete:
            return
        # An epoll of its own, asked for nothing, reports only the hang-up: unread bytes don't wake it.
        with select.epoll() as hangup, contextlib.suppress(anyio.ClosedResourceError):
            hangup.register(self._fd, 0)
            self._hangup_waits.add(hangup.fileno())
            try:
                while not self.complete:
                    await anyio.wait_readable(hangup)
            finally:
                self._hangup_waits.discard(hangup.fileno())

    def _open_fd(self) -> int:
        if self._fd is None:
            raise anyio.ClosedResourceError
        return self._fd


class StdinStream(ByteSendStream):
    """The stdin of a process.

    Bytes may be sent before the process starts: up to the 64 KiB of a pipe are taken at once. The end may come
    before the start, too. The end needs two things, because the shim holds a write end of its own: ours is closed,
    and the daemon is told (CloseIO); `aclose` does both.

    Attributes:
        broken: Nobody reads any more: the process closed its stdin, or is gone, or was let go.

    Raises:
        NotFound: The FIFO is gone.
        PermissionDenied: It may not be opened.
        InvalidArgument: The file is not a FIFO.
    """

    def __init__(self, path: str) -> None:
        # The shim opens its side only during Create or Start, and a FIFO without a reader can't be opened for
        # writing. A read end of our own makes that possible and keeps the bytes until the shim is there.
        self._keeper: int | None = open_fifo(path, os.O_RDONLY)
        try:
            self._fd: int | None = open_fifo(path, os.O_WRONLY)
        except BaseException:
            os.close(self._keeper)
            raise
        self._close_remote: Callable[[], Awaitable[None]] | None = None
        self._connected = anyio.Event()  # the shim has (or had) the FIFO open, or there will never be one
        self._sent = 0
        self._sending = False
        self._ended = False  # by the user
        self._end_told = False  # to the daemon
        self.broken = False

    async def send(self, item: bytes) -> None:
        """Send bytes, waiting while the pipe is full.

        Raises:
            anyio.BrokenResourceError: The process closed its stdin or is gone.
            anyio.ClosedResourceError: The stream was closed here, also while waiting.
            anyio.BusyResourceError: Somebody else is sending.
        """
        if self._sending:
            raise anyio.BusyResourceError("writing to")
        self._sending = True
        try:
            await anyio.lowlevel.checkpoint()
            rest = memoryview(item)
            while rest:
                if self.broken:
                    raise anyio.BrokenResourceError
                if self._ended or self._fd is None:
                    raise anyio.ClosedResourceError
                rest = rest[await self._write(self._fd, rest) :]
        finally:
            self._sending = False

    async def _write(self, fd: int, data: memoryview) -> int:
        """Write what fits; wait, and return 0, when nothing does."""
        try:
            count = os.write(fd, data)
        except BlockingIOError:
            if self._connected.is_set():
                await self._wait_writable(fd)
            else:
                await self._connected.wait()
            return 0
        except BrokenPipeError:
            if self._connected.is_set():
                self.broken = True
                raise anyio.BrokenResourceError from None
            await self._connected.wait()  # our own reader has gone, the shim's has not come
            return 0
        self._sent += count
        return count

    async def _wait_writable(self, fd: int) -> None:
        try:
            await anyio.wait_writable(fd)
        except anyio.ClosedResourceError:
            if not self.broken:  # the loop in send() tells the difference
                raise

    async def aclose(self) -> None:
        """End the stdin of the process: close our end, and tell the daemon to close the shim's.

        Before the process has started this is only noted, and done after the start. May be called again; if the
        daemon could not be told, that tries once more.

        Raises:
            ContainerdError: The daemon could not be told. That the process is gone is no error.
        """
        self._ended = True
        if self._connected.is_set() or self.broken:
            await self._finish()
        else:
            await anyio.lowlevel.checkpoint()

    async def connect(self, started: anyio.Event, close_remote: Callable[[], Awaitable[None]]) -> None:
        """Wait for the start of the process and for the shim's end of the FIFO; then do what `aclose` put off.

        Args:
            started: Set after Start succeeded.
            close_remote: Calls CloseIO.
        """
        self._close_remote = close_remote
        await started.wait()
        if self._keeper is not None:
            os.close(self._keeper)
            self._keeper = None
        delay = _FIRST_DELAY
        while not self.broken and not self._reader_came():
            # The shim opens its end beside answering Start: usually before, sometimes a moment after. Nothing
            # can be waited for here: no event tells a writer that a first reader came.
            await anyio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
        self._connected.set()
        if self._ended:
            await self._finish()

    def _reader_came(self) -> bool:
        assert self._fd is not None
        poll = select.poll()
        poll.register(self._fd, 0)
        if not poll.poll(0):
            return True  # POLLERR would say that there is no reader
        unread = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        return bool(unread < self._sent)  # one came, read, and went

    async def _finish(self) -> None:
        self._close_fds()
        if self.broken or self._end_told or self._close_remote is None:
            await anyio.lowlevel.checkpoint()
            return
        # Half an end would leave the process waiting for ever; the RPC has a deadline of its own.
        with anyio.CancelScope(shield=True), contextlib.suppress(NotFound):
            await self._close_remote()
        self._end_told = True

    def abandon(self) -> None:
        """Give up: the process is gone, or this client lets go of it. The daemon is not told.

        A sender waiting gets `anyio.BrokenResourceError`. May be called again.
        """
        self.broken = True
        self._close_fds()
        self._connected.set()

    def _close_fds(self) -> None:
        if self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            os.close(keeper)
        if self._fd is not None:
            fd, self._fd = self._fd, None
            _close(fd)
