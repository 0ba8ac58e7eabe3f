"""Where an archive comes from and where it goes: paths, files and asynchronous streams."""

from __future__ import annotations

import inspect
import io
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
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable

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
            async with aclosing(_read(_reader(file), fspath(source))) as chunks:
                yield chunks
    elif hasattr(source, "read"):  # before __aiter__: a file iterates over its lines
        async with aclosing(_read(_reader(source))) as chunks:
            yield chunks
    elif hasattr(source, "__aiter__"):
        yield source
    else:
        raise InvalidArgument(
            f"cannot import from a {type(source).__name__}; give a path, a binary file or an asynchronous iterable "
            f"of bytes"
        )


async def _read(
    read: Callable[[int], Awaitable[bytes]], path: str | None = None
) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            data = await read(_CHUNK)
        except OSError as exc:
            exc.filename = exc.filename or path
            raise
        if not data:
            return
        if not isinstance(data, bytes):
            raise InvalidArgument("the archive is a file opened in text mode; open it with mode 'rb'")
        yield data


def _reader(file: Any) -> Callable[[int], Awaitable[bytes]]:
    """Return what reads from a file; nobody is held up by a pipe that nothing comes from, when cancelled."""
    fd = _waiting(file)
    if fd is None:
        return file.read if inspect.iscoroutinefunction(file.read) else _in_thread(file.read)
    plain = _plain(file)
    once = _in_thread(getattr(plain, "read1", plain.read))  # what is there, not all that was asked for

    async def read(size: int) -> bytes:
        await anyio.wait_readable(fd)
        data: bytes = await once(size)
        return data

    return read


def _plain(file: Any) -> Any:
    return file.wrapped if isinstance(file, anyio.AsyncFile) else file


def _waiting(file: Any) -> int | None:
    """Return the descriptor of a file that may keep us waiting: a pipe, a socket, a terminal."""
    plain = _plain(file)
    if not isinstance(plain, io.BufferedReader | io.BufferedWriter | io.FileIO):
        return None
    fd = plain.fileno()
    mode = os.fstat(fd).st_mode
    return fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd) else None


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
    if send is not None and inspect.iscoroutinefunction(send):
        return await _written_with(send, chunks)
    if not hasattr(sink, "write"):
        raise InvalidArgument(
            f"cannot export to a {type(sink).__name__}; give a path, a binary file or what has a coroutine method "
            f"send(bytes)"
        )
    return await _written_to_file(sink, chunks)


async def _written_to_file(file: Any, chunks: AsyncIterable[bytes]) -> int:
    from containerd_aio.stdio.descriptors import DescriptorSendStream

    fd = _waiting(file)
    if fd is None:
        write = file.write
        return await _written_with(write if inspect.iscoroutinefunction(write) else _in_thread(write), chunks)
    await anyio.to_thread.run_sync(_plain(file).flush)
    stream = DescriptorSendStream(fd)
    try:
        return await _written_with(stream.send, chunks)
    except anyio.BrokenResourceError as exc:
        raise (exc.__cause__ or exc) from None
    finally:
        stream.close()


async def _written_with(write: Callable[[bytes], Awaitable[Any]], chunks: AsyncIterable[bytes]) -> int:
    size = 0
    async for chunk in chunks:
        await write(chunk)
        size += len(chunk)
    return size


async def _written_to_path(path: anyio.Path, chunks: AsyncIterable[bytes]) -> int:
    later = aiter(chunks)
    first = await anext(
        later, b""
    )  # what fails before its first byte changes nothing, nor does what cannot be opened
    file = await path.open("wb")
    try:
        async with file, aclosing(_behind(first, later)) as whole:
            return await _written_to_file(file, whole)
    except BaseException as exc:
        with anyio.CancelScope(shield=True):
            made = await path.resolve()  # not the link that led there
            if await made.is_file():  # a device or a pipe stays
                await made.unlink()
        if isinstance(exc, OSError) and exc.filename is None:
            exc.filename = str(path)
        raise


async def _behind(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in rest:
        yield chunk
