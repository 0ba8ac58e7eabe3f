"""A blob, read like a file."""

from __future__ import annotations

import os
from contextlib import aclosing
from typing import TYPE_CHECKING, Self

from containerd_aio.errors import Closed, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import TracebackType

    from containerd_aio.services.content import ContentStore


class ContentReader:
    """A blob, read like a binary file; made by `ContentStore.open`.

    It has a position, which `read` and iteration move on and `seek` sets. Reading on from where the last read ended goes
    on with the same call to the daemon; a seek begins another one with the next read. One task may use it at a time,
    except for `read_at`, which any number may use (Go: ``content.ReaderAt``).

    As data of a write it is read from where the write stands, so that one that is resumed, fetches only the rest.

    Attributes:
        digest: The blob.
        size: Its size in bytes.
    """

    def __init__(self, store: ContentStore, digest: str, size: int) -> None:
        self._store = store
        self.digest = digest
        self.size = size
        self._position = 0
        self._chunks: AsyncGenerator[bytes, None] | None = None
        self._rest = memoryview(b"")  # of the chunk that was read in part
        self._closed = False

    def __repr__(self) -> str:
        return f"<ContentReader {self.digest} at {self._position} of {self.size}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End what is being read. Closing twice does no harm."""
        self._closed = True
        await self._stop()

    async def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes; fewer only at the end, where there are none. Negative: all that is left.

        Raises:
            Closed: The reader was closed.
            NotFound: The blob was deleted meanwhile.
        """
        self._check_open()
        wanted = self.size - self._position if size < 0 else size
        parts: list[memoryview] = []
        while wanted > 0 and (part := await self._some(wanted)):
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    async def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer only at the end; the position stays where it is.

        Raises:
            InvalidArgument: A number is negative.
        """
        self._check_open()
        if offset < 0 or size < 0:
            raise InvalidArgument(f"cannot read {size} bytes at {offset}: neither may be negative")
        if offset >= self.size:
            return b""
        async with aclosing(self._store.read(self.digest, offset=offset, size=size)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    def read_from(self, offset: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` to the end, in pieces; the position stays where it is."""
        self._check_open()
        return self._store.read(self.digest, offset=offset) if offset < self.size else _nothing()

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, as a file's: from the start, the position (``os.SEEK_CUR``) or the end (``os.SEEK_END``).

        Returns:
            The new position; it may lie behind the end, where nothing can be read.

        Raises:
            InvalidArgument: It would lie before the start, or `whence` is none of the three.
        """
        self._check_open()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        if whence not in bases:
            raise InvalidArgument(
                f"whence is {whence}; it is one of os.SEEK_SET, os.SEEK_CUR and os.SEEK_END"
            )
        position = bases[whence] + offset
        if position < 0:
            raise InvalidArgument(f"cannot seek to {position}, before the start")
        if position != self._position:
            await self._stop()
            self._position = position
        return position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece, of up to a few megabytes."""
        self._check_open()
        part = await self._some(self.size)
        if not part:
            raise StopAsyncIteration
        return bytes(part)

    async def _some(self, most: int) -> memoryview:
        """Return up to `most` bytes, none only at the end."""
        if not self._rest and self._position < self.size:
            if self._chunks is None:
                self._chunks = self._store.read(self.digest, offset=self._position)
            self._rest = memoryview(await anext(self._chunks, b""))
        part, self._rest = self._rest[:most], self._rest[most:]
        self._position += len(part)
        return part

    async def _stop(self) -> None:
        chunks, self._chunks, self._rest = self._chunks, None, memoryview(b"")
        if chunks is not None:
            await chunks.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the reader of {self.digest} is closed")


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
