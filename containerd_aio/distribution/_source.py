"""Where an archive comes from and where it goes: paths, files and asynchronous streams."""

from __future__ import annotations

import inspect
import os
import stat
from contextlib import aclosing, asynccontextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias, cast

import anyio

from containerd_aio.distribution.progress import ProgressEvent
from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

    from containerd_aio.distribution.progress import Action, ProgressCallback

_CHUNK = 1 << 20


class ByteSender(Protocol):
    """What has a coroutine method ``send(bytes)``, such as anyio's byte streams."""

    async def send(self, item: bytes, /) -> None:
        """Send these bytes."""


class AsyncBinaryFile(Protocol):
    """A file whose methods are coroutines, as `anyio.open_file` gives for mode ``rb`` or ``wb``."""

    async def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, none at the end."""

    async def write(self, data: bytes, /) -> object:
        """Write these bytes."""


ArchiveSource: TypeAlias = "str | PathLike[str] | BinaryIO | AsyncBinaryFile | AsyncIterable[bytes]"
"""A path, a binary file that is open (also one of anyio's), or an asynchronous iterable of bytes."""

ArchiveSink: TypeAlias = "str | PathLike[str] | BinaryIO | AsyncBinaryFile | ByteSender"
"""A path, a binary file that is open (also one of anyio's), or what has a coroutine method ``send(bytes)``."""


@asynccontextmanager
async def opened(source: ArchiveSource) -> AsyncGenerator[AsyncIterable[bytes], None]:
    """Give the bytes of `source`. A file that is opened here is closed at the end; others are left open.

    Raises:
        InvalidArgument: It is nothing that bytes can be read from.
        OSError: The file cannot be opened or read.
    """
    if isinstance(source, str | PathLike):
        async with await anyio.open_file(fspath(source), "rb") as file:
            async with aclosing(_read(file.read)) as chunks:
                yield chunks
    elif (
        read := getattr(source, "read", None)
    ) is not None:  # before __aiter__: a file iterates over its lines
        function = read if inspect.iscoroutinefunction(read) else _in_thread(read)
        async with aclosing(_read(function)) as chunks:
            yield chunks
    elif hasattr(source, "__aiter__"):
        yield cast("AsyncIterable[bytes]", source)
    else:
        raise InvalidArgument(
            f"cannot import from a {type(source).__name__}; give a path, a binary file or an asynchronous iterable "
            f"of bytes"
        )


async def _read(read: Callable[[int], Awaitable[bytes]]) -> AsyncGenerator[bytes, None]:
    while data := await read(_CHUNK):
        if not isinstance(data, bytes):
            raise InvalidArgument("the archive is a file opened in text mode; open it with mode 'rb'")
        yield data


def _in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *args)

    return call


def size_of(source: ArchiveSource) -> int:
    """Return how many bytes a path or an open file has; 0 if that is not known."""
    try:
        if isinstance(source, str | PathLike):
            info = Path(source).stat()
        else:
            info = os.fstat(cast("BinaryIO", source).fileno())
    except (OSError, AttributeError, ValueError):
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


async def reported(
    chunks: AsyncIterable[bytes], progress: ProgressCallback, action: Action, name: str, total: int
) -> AsyncGenerator[bytes, None]:
    """Yield `chunks` and tell `progress` how far they have come."""
    offset = 0
    async for chunk in chunks:
        offset += len(chunk)
        progress(ProgressEvent(action, name, offset, total))
        yield chunk


async def written(sink: ArchiveSink, chunks: AsyncIterable[bytes]) -> int:
    """Write `chunks` to `sink`; a file that is opened here is removed if that fails.

    Returns:
        How many bytes that were.

    Raises:
        InvalidArgument: It is nothing that bytes can be written to.
        OSError: The file cannot be opened or written.
    """
    if isinstance(sink, str | PathLike):
        return await _written_to_path(anyio.Path(fspath(sink)), chunks)
    send = getattr(sink, "send", None)
    write = getattr(sink, "write", None)
    if send is not None and inspect.iscoroutinefunction(send):
        return await _written_with(send, chunks)
    if write is None:
        raise InvalidArgument(
            f"cannot export to a {type(sink).__name__}; give a path, a binary file or what has a coroutine method "
            f"send(bytes)"
        )
    return await _written_with(write if inspect.iscoroutinefunction(write) else _in_thread(write), chunks)


async def _written_with(write: Callable[[bytes], Awaitable[Any]], chunks: AsyncIterable[bytes]) -> int:
    size = 0
    async for chunk in chunks:
        await write(chunk)
        size += len(chunk)
    return size


async def _written_to_path(path: anyio.Path, chunks: AsyncIterable[bytes]) -> int:
    try:
        async with await path.open("wb") as file:
            return await _written_with(file.write, chunks)
    except BaseException:
        with anyio.CancelScope(shield=True):
            if await path.is_file():  # a device or a pipe stays
                await path.unlink()
        raise
