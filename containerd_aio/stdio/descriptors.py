"""Byte streams over descriptors of our own process: its stdout, a terminal, a pipe, a log file.

Two things must never happen. The event loop must not block: another program may have stopped reading our stdout,
and regular files always block. And the descriptor must not be made non-blocking: the flag belongs to the open file,
which we share with our parent shell and all its children.

So pipes and terminals are opened a second time (non-blocking), sockets are asked call by call not to wait, and the
rest is read and written by a worker thread.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio import to_thread
from anyio.abc import ByteReceiveStream, ByteSendStream

from containerd_aio.errors import InvalidArgument

__all__ = [
    "BinaryWriter",
    "BytesReceiveStream",
    "BytesSendStream",
    "DescriptorReceiveStream",
    "DescriptorSendStream",
    "WriterSendStream",
    "check_descriptor",
]

_PTMX = os.makedev(5, 2)  # the master of a terminal: opened a second time it would be another one
_PIPE_BUF = 4096  # a pipe that is writable takes so many bytes without blocking


class BinaryWriter(Protocol):
    """What bytes can be written to: a binary file, `io.BytesIO`, ``sys.stdout.buffer``."""

    def write(self, data: bytes, /) -> int | None:
        """Write bytes; return how many, or None for all."""


def check_descriptor(fd: int) -> None:
    """Refuse a descriptor that is not open.

    Raises:
        InvalidArgument: It is not open in this process.
    """
    try:
        os.fstat(fd)
    except OSError as exc:
        raise InvalidArgument(f"descriptor {fd} is not open in this process") from exc


class _Descriptor:
    """A private descriptor for the same open thing as one that is borrowed, and how to use it without blocking."""

    def __init__(self, fd: int, flags: int) -> None:
        check_descriptor(fd)
        info = os.fstat(fd)
        mode = info.st_mode
        self.socket: socket.socket | None = None
        self.waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
        self.threaded = not self.waits
        self.fd = -1
        if info.st_rdev == _PTMX:
            self.threaded = True
        elif self.waits and not stat.S_ISSOCK(mode):
            try:
                self.fd = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                # Opened by another user before a su, or the other end is gone: use the shared open file.
                self.threaded = True
        if self.fd < 0:
            self.fd = os.dup(fd)
        if stat.S_ISSOCK(mode):
            self.socket = socket.socket(fileno=self.fd)

    async def read(self, max_bytes: int) -> bytes:
        while True:
            fd = self._open_fd()
            try:
                if self.socket is not None:
                    return self.socket.recv(max_bytes, socket.MSG_DONTWAIT)
                if not self.threaded:
                    return os.read(fd, max_bytes)
                if self.waits:
                    await anyio.wait_readable(fd)
                return await to_thread.run_sync(os.read, fd, max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(fd)

    async def write(self, data: memoryview) -> int:
        while True:
            fd = self._open_fd()
            try:
                if self.socket is not None:
                    return self.socket.send(data, socket.MSG_DONTWAIT)
                if not self.threaded:
                    return os.write(fd, data)
                if self.waits:
                    await anyio.wait_writable(fd)
                    data = data[:_PIPE_BUF]
                return await to_thread.run_sync(os.write, fd, data)
            except BlockingIOError:
                await anyio.wait_writable(fd)

    def _open_fd(self) -> int:
        if self.fd < 0:
            raise anyio.ClosedResourceError
        return self.fd

    def close(self) -> None:
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        anyio.notify_closing(fd)
        if self.socket is not None:
            self.socket.close()
        else:
            os.close(fd)


class DescriptorReceiveStream(ByteReceiveStream):
    """Reads from a descriptor of this process, leaving the descriptor itself as it is.

    Args:
        fd: A readable descriptor; the caller keeps it.

    Raises:
        InvalidArgument: `fd` is not open.
    """

    def __init__(self, fd: int) -> None:
        self._descriptor = _Descriptor(fd, os.O_RDONLY)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Read what is there, waiting for at least one byte.

        Raises:
            anyio.EndOfStream: The other end has closed, or the file ends here.
            anyio.ClosedResourceError: The stream was closed.
            anyio.BrokenResourceError: Reading failed; the cause is an `OSError`.
        """
        await anyio.lowlevel.checkpoint()
        try:
            data = await self._descriptor.read(max_bytes)
        except OSError as exc:
            raise anyio.BrokenResourceError from exc
        if not data:
            raise anyio.EndOfStream
        return data

    async def aclose(self) -> None:
        """Close the stream, not the descriptor it was made from."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """Do as `aclose`, at once."""
        self._descriptor.close()


class DescriptorSendStream(ByteSendStream):
    """Writes to a descriptor of this process, leaving the descriptor itself as it is.

    Args:
        fd: A writable descriptor; the caller keeps it.

    Raises:
        InvalidArgument: `fd` is not open.
    """

    def __init__(self, fd: int) -> None:
        self._descriptor = _Descriptor(fd, os.O_WRONLY)

    async def send(self, item: bytes) -> None:
        """Write all of `item`, waiting while the other end is slow.

        Raises:
            anyio.BrokenResourceError: Writing failed; the cause is an `OSError` (nobody reads, the disk is full).
            anyio.ClosedResourceError: The stream was closed.
        """
        await anyio.lowlevel.checkpoint()
        rest = memoryview(item)
        try:
            while rest:
                rest = rest[await self._descriptor.write(rest) :]
        except OSError as exc:
            raise anyio.BrokenResourceError from exc

    async def aclose(self) -> None:
        """Close the stream, not the descriptor it was made from."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """Do as `aclose`, at once."""
        self._descriptor.close()


class WriterSendStream(ByteSendStream):
    """Writes to a binary file object of the user, in a worker thread, flushing every time.

    Args:
        writer: Where to write; the caller keeps it and closes it.
    """

    def __init__(self, writer: BinaryWriter) -> None:
        self._writer = writer
        self._flush: Callable[[], object] | None = getattr(writer, "flush", None)

    async def send(self, item: bytes) -> None:
        """Write all of `item` and flush. Raises what the writer raises.

        Cancelled, a write that blocks is left to its thread: its reader may have stopped for ever.
        """
        await to_thread.run_sync(self._write, item, abandon_on_cancel=True)

    def _write(self, item: bytes) -> None:
        rest = memoryview(item)
        while rest:
            count = self._writer.write(bytes(rest) if len(rest) < len(item) else item)
            rest = rest[len(rest) if count is None else count :]
        if self._flush is not None:
            self._flush()

    async def aclose(self) -> None:
        """Do nothing: the writer belongs to the user."""
        await anyio.lowlevel.checkpoint()


class BytesReceiveStream(ByteReceiveStream):
    """Bytes from memory.

    Args:
        data: All there is to receive.
    """

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes.

        Raises:
            anyio.EndOfStream: All were received.
        """
        await anyio.lowlevel.checkpoint()
        if not self._rest:
            raise anyio.EndOfStream
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return bytes(data)

    async def aclose(self) -> None:
        """Forget the rest."""
        self._rest = memoryview(b"")
        await anyio.lowlevel.checkpoint()


class BytesSendStream(ByteSendStream):
    """Collects bytes in memory, up to a limit; what comes after the limit is counted and dropped.

    Args:
        limit: Most bytes to keep; None for all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._data = bytearray()
        self.truncated = False

    @property
    def data(self) -> bytes:
        """What was collected so far."""
        return bytes(self._data)

    async def send(self, item: bytes) -> None:
        """Keep `item`, as far as the limit allows."""
        kept = item if self._limit is None else item[: self._limit - len(self._data)]
        self._data += kept
        self.truncated |= len(kept) < len(item)

    async def aclose(self) -> None:
        """Do nothing: the bytes stay."""
