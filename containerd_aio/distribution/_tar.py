"""A tar file read from an asynchronous stream, member by member, without holding a member in memory."""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)

# Extended headers carry names and attributes; one of a megabyte is not meant well.
_MAX_HEADER = 1 << 20

_WITHOUT_DATA = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE}
)

_COMPRESSIONS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the archive.

    Attributes:
        path: Its path, cleaned: relative, without ``.`` and empty parts.
        size: Bytes of a regular file.
        is_file: It is a regular file.
        link: Target of a symbolic link; empty for everything else.
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
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._stream = _Stream(chunks)
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
            if not overrides["size"].isdecimal():
                raise InvalidArgument(f"the archive is damaged at byte {where}: size {overrides['size']!r}")
            self._left = int(overrides["size"])
            self._padding = -self._left % _BLOCK
        if header.type in _WITHOUT_DATA:  # whatever their size field says
            self._left = self._padding = 0
        return Member(
            path=clean_path(overrides.get("path", header.name)),
            size=self._left,
            is_file=is_file,
            link=overrides.get("linkpath", header.linkname) if header.issym() else "",
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
            raise InvalidArgument("this is no tar archive (neither plain nor compressed with gzip)") from exc
        raise InvalidArgument(f"the archive is damaged: no tar header at byte {where} ({exc})") from exc
    if header.size < 0:
        raise InvalidArgument(f"the archive is damaged: a member of {header.size} bytes at byte {where}")
    return header


def _parse_pax(data: bytes, where: int) -> dict[str, str]:
    """Return the records of a PAX header: each is a length, a space, key=value and a line feed."""
    records: dict[str, str] = {}
    while data:
        digits, space, _ = data.partition(b" ")
        size = int(digits) if space and digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : size - 1].partition(b"=")
        if not equals or size > len(data) or data[size - 1 : size] != b"\n":
            raise InvalidArgument(f"the archive is damaged: a malformed extended header at byte {where}")
        records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        data = data[size:]
    return records


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


async def decompressed(source: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of `source`, unpacked if they are compressed with gzip.

    Raises:
        InvalidArgument: They are compressed in another way, or damaged.
    """
    head = b""
    inflate: _Gunzip | None = None
    begun = False
    async for chunk in source:
        if begun:
            data = chunk
        else:
            head += chunk
            if len(head) < 6:
                continue
            begun, data = True, head
            inflate = _detect(head)
        if inflate is None:
            yield data
        else:
            for piece in inflate.feed(data):
                yield piece
    if not begun and head:
        yield head
    if inflate is not None:
        inflate.finish()


def _detect(head: bytes) -> _Gunzip | None:
    if head.startswith(b"\x1f\x8b"):
        return _Gunzip()
    for magic, name in _COMPRESSIONS.items():
        if head.startswith(magic):
            raise InvalidArgument(
                f"the archive is compressed with {name}; only plain tar and gzip are read: decompress it first"
            )
    return None


class _Gunzip:
    """A gzip stream of any number of members, unpacked in bounded pieces."""

    _PIECE = 1 << 20

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` unpacks to."""
        piece = b""
        try:
            while data or len(piece) == self._PIECE:
                if self._inflate.eof:
                    data = data.lstrip(b"\0")  # padding between and after members
                    if not data:
                        return
                    self._inflate = zlib.decompressobj(wbits=31)
                piece = self._inflate.decompress(data, self._PIECE)
                data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
                if piece:
                    yield piece
        except zlib.error as exc:
            raise InvalidArgument(f"the archive's gzip compression is damaged: {exc}") from exc

    def finish(self) -> None:
        """Refuse a stream that ended too early."""
        if not self._inflate.eof:
            raise InvalidArgument("the archive is cut short: its gzip stream does not end")
