"""gzip and Zstandard as streams: bounded pieces in, bounded pieces out, off the event loop when there is much to do."""

from __future__ import annotations

import sys
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import anyio

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterator

Compression = Literal["none", "gzip", "zstd"]
"""How a layer or an archive is packed."""

COMPRESSIONS: tuple[Compression, ...] = ("none", "gzip", "zstd")

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

# Seen now and then, and not read here: a better text than "this is no tar archive".
_FOREIGN = {b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}
_LONGEST_MAGIC = 6

_PIECE = 1 << 20

# What follows a frame is copied by the decompressor: of many small ones, so much at a time, not all that there is.
_AFTER_A_FRAME = 16 << 10

_GZIP_LEVEL = 6  # zlib's own default, said aloud
_ZSTD_LEVEL = 3

# A thread costs a tenth of a millisecond; that is not worth it for less than this.
_WORTH_A_THREAD = 64 << 10


def zstd() -> Any:
    """Return the module for Zstandard: Python's own from 3.14 on, else its backport."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module


def check_compression(compression: str) -> Compression:
    """Return `compression` if there is such a one.

    Raises:
        InvalidArgument: There is not.
    """
    for known in COMPRESSIONS:
        if known == compression:
            return known
    raise InvalidArgument(f"compression {compression!r} is not one of {', '.join(sorted(COMPRESSIONS))}")


def detect(magic: bytes) -> Compression:
    """Return how what begins with these bytes is packed, as far as it can be read here."""
    if magic.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if magic.startswith(ZSTD_MAGIC) else "none"


# -- unpacking --------------------------------------------------------------------------------------------------


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def finish(self) -> None: ...


class _Gunzip:
    """A gzip stream of any number of members."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._inflate = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` unpacks to."""
        view, at, step, piece = memoryview(data), 0, len(data), b""
        try:
            while at < len(data) or len(piece) == _PIECE:
                if self._inflate.eof:
                    step, piece = _AFTER_A_FRAME, b""
                    rest = bytes(view[at : at + step]).lstrip(b"\0")  # padding between and after members
                    at = min(at + step, len(data)) - len(rest)
                    if not rest:
                        continue
                    self._inflate = zlib.decompressobj(wbits=31)
                part = view[at : at + step]
                piece = self._inflate.decompress(part, _PIECE)
                left = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
                at += len(part) - len(left)
                if piece:
                    yield piece
        except zlib.error as exc:
            raise InvalidArgument(f"{self._what}'s gzip compression is damaged: {exc}") from exc

    def finish(self) -> None:
        """Refuse a stream that ended too early."""
        if not self._inflate.eof:
            raise InvalidArgument(f"{self._what} is cut short: its gzip stream does not end")


class _Unzstd:
    """A Zstandard stream of any number of frames."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._zstd = zstd()
        self._frame = self._zstd.ZstdDecompressor()
        self._between = False  # frames

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` unpacks to."""
        view, at, step = memoryview(data), 0, len(data)
        try:
            while at < len(data) or not (self._frame.needs_input or self._frame.eof):
                if self._frame.eof:
                    self._frame, step = self._zstd.ZstdDecompressor(), _AFTER_A_FRAME
                part = view[at : at + step] if self._frame.needs_input else b""
                piece = self._frame.decompress(part, _PIECE)
                at += len(part) - (len(self._frame.unused_data) if self._frame.eof else 0)
                self._between = self._frame.eof
                if piece:
                    yield piece
        except self._zstd.ZstdError as exc:
            raise InvalidArgument(f"{self._what}'s zstd compression is damaged: {exc}") from exc

    def finish(self) -> None:
        """Refuse a stream that ended too early."""
        if not self._between:
            raise InvalidArgument(f"{self._what} is cut short: its zstd stream does not end")


def _decoder(head: bytes, what: str) -> _Decoder | None:
    match detect(head):
        case "gzip":
            return _Gunzip(what)
        case "zstd":
            return _Unzstd(what)
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise InvalidArgument(
                f"{what} is compressed with {name}; only plain, gzip and zstd are read: decompress it first"
            )
    return None


async def decompressed(
    source: AsyncIterable[bytes], *, what: str = "the archive"
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of `source`, unpacked if they are compressed with gzip or zstd, in pieces of a megabyte at most.

    Args:
        source: The bytes.
        what: Names them in errors.

    Raises:
        InvalidArgument: They are compressed in another way, damaged, or cut short.
    """
    head = b""
    decoder: _Decoder | None = None
    begun = False
    async for chunk in source:
        if begun:
            data = chunk
        else:
            head += chunk
            if len(head) < _LONGEST_MAGIC:
                continue
            begun, data = True, head
            decoder = _decoder(head, what)
        if decoder is None:
            yield data
            continue
        pieces = decoder.feed(data)
        while (piece := await _next(pieces, len(data))) is not None:
            yield piece
    if not begun and head:
        yield head
    if decoder is not None:
        decoder.finish()


async def _next(pieces: Iterator[bytes], size: int) -> bytes | None:
    step = partial(next, pieces, None)
    return step() if size < _WORTH_A_THREAD else await anyio.to_thread.run_sync(step)


# -- packing ----------------------------------------------------------------------------------------------------


def compress(data: bytes, compression: str) -> bytes:
    """Return `data` packed, the same bytes for the same data as long as the compressing library is the same.

    Raises:
        InvalidArgument: The compression is not known.
    """
    encoder = _encoder(check_compression(compression))
    return data if encoder is None else encoder.compress(data) + encoder.flush()


def _encoder(compression: Compression) -> Any:
    """Return what has ``compress`` and ``flush``; None for no compression."""
    match compression:
        case "gzip":
            return zlib.compressobj(_GZIP_LEVEL, wbits=31)  # a header without time and name
        case "zstd":
            return zstd().ZstdCompressor(_ZSTD_LEVEL)
    return None


async def compressed(source: AsyncIterable[bytes], compression: Compression) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of `source` packed."""
    encoder = _encoder(compression)
    async for chunk in source:
        if encoder is None:
            yield chunk
            continue
        packed = (
            encoder.compress(chunk)
            if len(chunk) < _WORTH_A_THREAD
            else await anyio.to_thread.run_sync(encoder.compress, chunk)
        )
        if packed:
            yield packed
    if encoder is not None:
        yield encoder.flush()


async def measured(source: AsyncIterable[bytes], into: Any) -> AsyncGenerator[bytes, None]:
    """Yield `source` and feed `into` (a hasher) with it on the way."""
    async for chunk in source:
        into.update(chunk)
        yield chunk
