"""A tar file read from an asynchronous stream, member by member, without holding a member in memory."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)

# Sizes are 64 bits wide, to containerd and to everybody else.
_MAX_SIZE = (1 << 63) - 1

# Extended headers carry names and attributes; one of a megabyte is not meant well.
_MAX_HEADER = 1 << 20

_WITHOUT_DATA = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE}
)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the archive.

    Attributes:
        path: Its path, cleaned: relative, without ``.`` and empty parts.
        size: Bytes of a regular file.
        is_file: It is a regular file.
        link: Target of a link, relative to its directory unless it begins with a slash; empty for everything else.
    """

    path: str
    size: int
    is_file: bool
    link: str


class TarReader:
    """Reads a tar file.

    `members` yields the members; `data` the bytes of the one that came last. What is not read is skipped.

    Args:
        chunks: The bytes of the archive, not compressed.
        max_size: Refuse an archive with more bytes than this.
    """

    def __init__(self, chunks: AsyncIterator[bytes], *, max_size: int | None = None) -> None:
        self._stream = _Stream(chunks)
        self._max_size = max_size
        self._left = 0  # bytes of the current member that were not read
        self._padding = 0

    async def members(self) -> AsyncGenerator[Member, None]:
        """Yield the members in the order of the archive.

        Raises:
            InvalidArgument: This is no tar archive, or it is damaged or cut short; the text says where.
        """
        overrides: dict[str, str] = {}
        while True:
            await self._skip()
            where = self._stream.position
            block = await self._stream.read(_BLOCK)
            if not block and where == 0:
                raise InvalidArgument("the archive is empty")
            if not block or block == _END:
                return
            header = _parse_header(block, where)
            self._left, self._padding = header.size, -header.size % _BLOCK
            if header.type in {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}:
                records = _parse_pax(await self._extension(where), where)
                if header.type != tarfile.XGLTYPE:
                    overrides |= records
                continue
            if header.type in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}:
                key = "path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
                overrides[key] = (await self._extension(where)).rstrip(b"\0").decode(errors="replace")
                continue
            member = self._member(header, overrides, where)
            overrides = {}
            yield member

    def _member(self, header: tarfile.TarInfo, overrides: dict[str, str], where: int) -> Member:
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in overrides):
            raise InvalidArgument(f"the archive has a sparse file at byte {where}, which an image never has")
        is_file = header.isreg()
        if "size" in overrides:
            size = _pax_size(overrides["size"])
            if size is None:
                raise InvalidArgument(
                    f"the archive is damaged at byte {where}: size {overrides['size'][:40]!r}"
                )
            self._left, self._padding = size, -size % _BLOCK
        if header.type in _WITHOUT_DATA:  # whatever their size field says
            self._left = self._padding = 0
        if self._max_size is not None and where + self._left > self._max_size:
            raise InvalidArgument(f"the archive has more than the {self._max_size} bytes that are allowed")
        link = overrides.get("linkpath", header.linkname) if header.issym() or header.islnk() else ""
        return Member(
            path=clean_path(overrides.get("path", header.name)),
            size=self._left,
            is_file=is_file,
            # A hard link names a path from the archive's root, a symbolic one from where it is.
            link="/" + clean_path(link) if header.islnk() else link,
        )

    async def _extension(self, where: int) -> bytes:
        if self._left > _MAX_HEADER:
            raise InvalidArgument(f"the archive has an extended header of {self._left} bytes at byte {where}")
        return b"".join([chunk async for chunk in self.data()])

    async def data(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the current member that were not read yet.

        Raises:
            InvalidArgument: The archive ends before they do.
        """
        while self._left:
            chunk = await self._stream.read_some(self._left)
            if not chunk:
                raise InvalidArgument(
                    f"the archive is cut short: {self._left} bytes of a member are missing at its end, "
                    f"byte {self._stream.position}"
                )
            self._left -= len(chunk)
            yield chunk

    async def _skip(self) -> None:
        async for _ in self.data():
            pass
        padding = await self._stream.read(self._padding)
        if len(padding) < self._padding:
            raise InvalidArgument(f"the archive is cut short at byte {self._stream.position}")
        self._padding = 0


def clean_path(path: str) -> str:
    """Return `path` as a relative one without empty and ``.`` parts; ``..`` takes a part away."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _parse_header(block: bytes, where: int) -> tarfile.TarInfo:
    if len(block) < _BLOCK:
        raise InvalidArgument(f"the archive is cut short: it ends inside the header at byte {where}")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        if where == 0:
            raise InvalidArgument(
                "this is no tar archive (neither plain nor compressed with gzip or zstd)"
            ) from exc
        raise InvalidArgument(f"the archive is damaged: no tar header at byte {where} ({exc})") from exc
    if not 0 <= header.size <= _MAX_SIZE:
        raise InvalidArgument(f"the archive is damaged: a member of {header.size} bytes at byte {where}")
    return header


def _parse_pax(data: bytes, where: int) -> dict[str, str]:
    """Return the records of a PAX header: each is a length, a space, key=value and a line feed."""
    records: dict[str, str] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        size = int(digits) if space and digits.isdigit() and len(digits) <= len(str(_MAX_HEADER)) else 0
        key, equals, value = data[len(digits) + 1 : size - 1].partition(b"=")
        if not equals or size > len(data) or data[size - 1 : size] != b"\n":
            raise InvalidArgument(f"the archive is damaged: a malformed extended header at byte {where}")
        records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        data = data[size:]
    return records


def _pax_size(text: str) -> int | None:
    """Return the size that an extended header gives; None if it is none."""
    if not text.isdecimal() or len(text) > len(str(_MAX_SIZE)):
        return None
    size = int(text)
    return size if size <= _MAX_SIZE else None


class _Stream:
    """Exact reads from a stream of chunks."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self.position = 0

    async def read_some(self, limit: int) -> bytes:
        """Return between 1 and `limit` bytes, or none at the end."""
        while not self._rest:
            try:
                self._rest = memoryview(await anext(self._chunks))
            except StopAsyncIteration:
                return b""
        chunk, self._rest = bytes(self._rest[:limit]), self._rest[limit:]
        self.position += len(chunk)
        return chunk

    async def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        data = await self.read_some(size) if size else b""
        while 0 < len(data) < size:
            more = await self.read_some(size - len(data))
            if not more:
                break
            data += more
        return data


class EndFinder:
    """Follows a tar file that comes in chunks, and tells when it is complete.

    Attributes:
        found: The two empty blocks that end an archive have come.
    """

    def __init__(self) -> None:
        self.found = False
        self._buffer = bytearray()
        self._skip = 0
        self._size: int | None = None  # of the next member, from an extended header
        self._empty = 0

    def feed(self, data: bytes) -> bool:
        """Take the next chunk; return `found`.

        Raises:
            InvalidArgument: This is no tar archive.
        """
        self._buffer += data
        while not self.found:
            passed = min(self._skip, len(self._buffer))
            del self._buffer[:passed]
            self._skip -= passed
            if self._skip or len(self._buffer) < _BLOCK or not self._header():
                break
        return self.found

    def _header(self) -> bool:
        """Take a header off the buffer; False if more must come first."""
        block = bytes(self._buffer[:_BLOCK])
        if block == _END:
            self._empty += 1
            self.found = self._empty == 2
            del self._buffer[:_BLOCK]
            return True
        self._empty = 0
        header = _parse_header(block, 0)
        size, extended = header.size, header.type == tarfile.XHDTYPE
        if extended:
            if size > _MAX_HEADER:
                raise InvalidArgument(f"the archive has an extended header of {size} bytes")
            if len(self._buffer) < _BLOCK + size:
                return False
            records = _parse_pax(bytes(self._buffer[_BLOCK : _BLOCK + size]), 0)
            self._size = _pax_size(records.get("size", ""))
        elif header.type in _WITHOUT_DATA:
            size = 0
        elif self._size is not None:
            size = self._size
        if not extended:
            self._size = None
        self._skip = _BLOCK + size + -size % _BLOCK
        return True
