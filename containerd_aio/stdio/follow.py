"""Reading a log while somebody else writes it, as ``tail --follow=name`` does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from anyio.abc import ByteReceiveStream

from containerd_aio.errors import InvalidArgument

__all__ = ["LogStream", "follow"]

_POLL = 0.05
_CHUNK = 256 * 1024


class LogStream(ByteReceiveStream):
    """What is written to a log file, as it comes; made by `follow`."""

    def __init__(self, path: Path, *, from_end: bool) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._ended = anyio.Event()
        self._closed = False
        if path.is_dir():
            raise InvalidArgument(f"{str(path)!r} is a directory; name the log file in it")
        if from_end and path.exists():
            self._file = path.open("rb")
            self._file.seek(0, os.SEEK_END)

    async def receive(self, max_bytes: int = _CHUNK) -> bytes:
        """Return what comes next.

        Raises:
            EndOfStream: ``until`` has returned, and the log was read to its end.
            ClosedResourceError: It was closed.
        """
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            last = self._ended.is_set()  # asked before the read: what was written until then is read
            if chunk := await anyio.to_thread.run_sync(self._read, max_bytes):
                return chunk
            if last:
                raise anyio.EndOfStream
            with anyio.move_on_after(_POLL):
                await self._ended.wait()

    def _read(self, max_bytes: int) -> bytes:
        """Read on; at the end of the file see whether it was replaced by a new one, or cut and begun again."""
        if self._file is None:
            if not self._path.exists():
                return b""
            self._file = self._path.open("rb")
        if chunk := self._file.read(max_bytes):
            return chunk
        here = os.fstat(self._file.fileno())
        if here.st_size < self._file.tell():
            self._file.seek(0)
        else:
            try:
                there = self._path.stat()
            except FileNotFoundError:
                return b""  # between two files, or removed: what is written to it may still be read
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return b""
            # Once more: it may have been written to between our last read and the change of names.
            if chunk := self._file.read(max_bytes):
                return chunk
            self._file.close()
            self._file = self._path.open("rb")
        return self._file.read(max_bytes)

    def end(self) -> None:
        """Say that nothing more is written: the rest is read, then the stream ends."""
        self._ended.set()

    async def aclose(self) -> None:
        """Close the file."""
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None


@asynccontextmanager
async def follow(
    path: str | os.PathLike[str],
    *,
    until: Callable[[], Awaitable[object]] | None = None,
    from_end: bool = False,
) -> AsyncIterator[LogStream]:
    """Follow a log: ``async with stdio.follow(path, until=done) as log: async for chunk in log``.

    The file need not exist yet. A file that is renamed and made anew is read to its end and then the new one; one that
    is cut is read from its start.

    Args:
        path: The file, such as that of `log_file`.
        until: Awaited beside; when it returns, the log is read to its end, which ends the iteration. A shim may still
            write when a process has ended; when its task or exec is deleted, it no longer does. None: it never ends.
        from_end: Leave out what is there already.

    Raises:
        InvalidArgument: The path names a directory.
    """
    log = LogStream(Path(path), from_end=from_end)

    async def end() -> None:
        assert until is not None
        await until()
        log.end()

    try:
        async with anyio.create_task_group() as group:
            if until is not None:
                group.start_soon(end)
            yield log
            group.cancel_scope.cancel()
    finally:
        await log.aclose()
