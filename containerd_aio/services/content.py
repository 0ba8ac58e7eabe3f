"""The content store: blobs by digest, and the ingests through which they come in."""

from __future__ import annotations

import builtins
import hashlib
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
from grpclib.const import Cardinality

from containerd_aio._log import get_logger
from containerd_aio.api.containerd.services.content.v1 import (
    AbortRequest,
    DeleteContentRequest,
    InfoRequest,
    ListContentRequest,
    ListContentResponse,
    ListStatusesRequest,
    ReadContentRequest,
    ReadContentResponse,
    StatusRequest,
    UpdateRequest,
)
from containerd_aio.api.containerd.services.content.v1 import Info as RawInfo
from containerd_aio.api.containerd.services.content.v1 import Status as RawStatus
from containerd_aio.api.google.protobuf import FieldMask
from containerd_aio.errors import (
    Aborted,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from containerd_aio.services._convert import label_mask, label_updates, to_datetime
from containerd_aio.services._reader import ContentReader
from containerd_aio.services._writer import Seekable, Writer
from containerd_aio.services.descriptor import Descriptor, check_digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from containerd_aio.services._content_writer import ContentWriter
    from containerd_aio.services.stubs import Services

READ_ALL_LIMIT = 20 << 20
"""Most bytes `ContentStore.read_all` returns by default (Go's limit for the JSON files of an import)."""

T = TypeVar("T", int, str)

# Clean-up must not hold up a cancelled caller for long; containerd drops an ingest after a day by itself.
_DISCARD_TIMEOUT = 10.0

_SERVICE = "/containerd.services.content.v1.Content/"


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A blob as the daemon keeps it.

    Attributes:
        digest: Its digest.
        size: Its size in bytes.
        labels: Its labels.
        created_at: When it was committed.
        updated_at: When its labels were changed last.
        raw: containerd's message.
    """

    digest: str
    size: int
    labels: Mapping[str, str]
    created_at: datetime | None
    updated_at: datetime | None
    raw: RawInfo = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawInfo | None) -> Self:
        """Take over containerd's message."""
        assert raw is not None
        return cls(
            raw.digest,
            raw.size,
            dict(raw.labels),
            to_datetime(raw.created_at),
            to_datetime(raw.updated_at),
            raw,
        )


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """A blob that is coming in.

    Attributes:
        ref: Name of the ingest.
        offset: Bytes that have come.
        total: Bytes that are expected; 0 if that is not known.
        expected: Digest that is expected; empty if that is not known.
        started_at: When it was begun.
        updated_at: When the last bytes came.
        raw: containerd's message.
    """

    ref: str
    offset: int
    total: int
    expected: str
    started_at: datetime | None
    updated_at: datetime | None
    raw: RawStatus = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawStatus | None) -> Self:
        """Take over containerd's message."""
        assert raw is not None
        return cls(
            raw.ref,
            raw.offset,
            raw.total,
            raw.expected,
            to_datetime(raw.started_at),
            to_datetime(raw.updated_at),
            raw,
        )


class ContentStore:
    """The content of one namespace.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.content

    async def info(self, digest: str | Descriptor) -> ContentInfo:
        """Return what the daemon knows of a blob.

        Raises:
            NotFound: There is no such blob in this namespace.
        """
        reply = await self._stub.info(InfoRequest(digest=_digest(digest)))
        return ContentInfo.from_raw(reply.info)

    async def exists(self, digest: str | Descriptor) -> bool:
        """Tell whether a blob is there."""
        try:
            await self.info(digest)
        except NotFound:
            return False
        return True

    def read(
        self, digest: str | Descriptor, *, offset: int = 0, size: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a blob in pieces of up to a few megabytes.

        Wrap it in ``contextlib.aclosing`` if you may leave the loop early.

        Args:
            digest: The blob.
            offset: First byte.
            size: How many bytes; None reads to the end.

        Raises:
            InvalidArgument: A number is negative, or `digest` is not a digest.
            NotFound: There is no such blob.
            OutOfRange: `offset` lies behind the end.
        """
        digest = _digest(digest)
        if offset < 0 or (size is not None and size < 0):
            raise InvalidArgument(f"cannot read from offset {offset}, size {size}: neither may be negative")
        return self._read(digest, offset, size)

    async def _read(self, digest: str, offset: int, size: int | None) -> AsyncGenerator[bytes, None]:
        if size == 0:  # the daemon takes 0 for "to the end"
            return
        async with self._stub.channel.request(
            _SERVICE + "Read", Cardinality.UNARY_STREAM, ReadContentRequest, ReadContentResponse
        ) as stream:
            await stream.send_message(
                ReadContentRequest(digest=digest, offset=offset, size=size or 0), end=True
            )
            replies: Any = stream  # typed by grpclib
            while (data := await replies.recv_field("data")) is not None:
                yield data

    async def read_all(self, digest: str | Descriptor, *, limit: int = READ_ALL_LIMIT) -> bytes:
        """Return a whole blob.

        Args:
            digest: The blob. Content embedded in a descriptor is taken from there, if it is what the descriptor says
                (Go: ``content.ReadBlob``).
            limit: Refuse blobs with more bytes than this.

        Raises:
            NotFound: There is no such blob.
            ResourceExhausted: It is larger than `limit`.
        """
        if isinstance(digest, Descriptor) and (embedded := _embedded(digest)) is not None:
            return embedded
        parts: list[bytes] = []
        size = 0
        async with aclosing(self.read(digest)) as chunks:
            async for chunk in chunks:
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise ResourceExhausted(
                        f"content {_digest(digest)} is larger than {limit} bytes; use read()"
                    )
        return b"".join(parts)

    @asynccontextmanager
    async def open(self, digest: str | Descriptor) -> AsyncIterator[ContentReader]:
        """Open a blob to be read like a file: ``async with content.open(digest) as file: await file.read(100)``.

        Raises:
            NotFound: There is no such blob.
        """
        info = await self.info(digest)
        async with ContentReader(self, info.digest, info.size) as reader:
            yield reader

    async def write(
        self,
        ref: str,
        data: bytes | AsyncIterable[bytes] | Seekable,
        *,
        size: int | None = None,
        expected: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Put a blob into the store.

        A blob that is there already counts as written; then the data may not have been read. An ingest `ref` that was
        broken off is resumed: its bytes are skipped in `data`, or not even asked for if it is a `ContentReader` or has
        another ``read_from(offset)``, and `expected` is given. When the writing fails or is cancelled, what has come
        stays for another try; `abort` throws it away. While somebody else writes to `ref` this waits. Hold a lease,
        or the blob may be collected before something refers to it.

        Args:
            ref: Name of the ingest: any text, the same for the same content.
            data: The bytes.
            size: How many there are; checked. Known by itself for `bytes`.
            expected: Their digest; checked. With it a blob that is there is recognised before anything is sent.
            labels: Labels of the blob; set on one that is there as well.

        Returns:
            The digest.

        Raises:
            InvalidArgument: `data` is not what `size` or `expected` says, or an argument is malformed.
            FailedPrecondition: The ingest to be resumed has other bytes, or the digest is wrong.
            Aborted: The blob was there and collected in this very moment; write again.
        """
        _check_ingest(ref, size, expected)
        if isinstance(data, bytes):
            size = _agreed("size", size, len(data))
            expected = _agreed("digest", expected, f"sha256:{hashlib.sha256(data).hexdigest()}")
        elif not isinstance(data, Seekable) and not hasattr(data, "__aiter__"):
            raise InvalidArgument(
                f"cannot write a {type(data).__name__}; give bytes or an async iterable of bytes"
            )
        writer = Writer(self._stub.channel, ref, size, expected, labels or {})
        try:
            digest = await writer.run(data)
        except (FailedPrecondition, Aborted):
            # What has come is wrong, or nothing: nobody should resume it.
            await self.discard(ref)
            raise
        if writer.existed and labels:
            await self.update_labels(digest, labels)
        return digest

    def writer(
        self, ref: str, *, size: int | None = None, expected: str | None = None
    ) -> AbstractAsyncContextManager[ContentWriter]:
        """Open an ingest to write to it step by step: ``async with content.writer(ref) as writer``.

        Where a whole blob is at hand, `write` is simpler. While somebody else writes to `ref` this waits. An ingest that
        is there is gone on with: `ContentWriter.offset` tells how far it is. Without a lease in force containerd drops it
        a day after the last write.

        Args:
            ref: Name of the ingest: any text, the same for the same content.
            size: How many bytes there will be; told by `status`, checked by `ContentWriter.commit` alone.
            expected: Their digest; checked at the commit.

        Raises:
            AlreadyExists: The blob `expected` is there already.
            InvalidArgument: An argument is malformed.
        """
        from containerd_aio.services._content_writer import open_writer

        _check_ingest(ref, size, expected)
        return open_writer(self._stub.channel, ref, size, expected)

    async def copy_from(
        self,
        source: ContentStore,
        digest: str | Descriptor,
        *,
        ref: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Copy a blob from another store: another namespace's, or another daemon's.

        One that is there already is not read. A copy that was broken off is resumed where it stopped (Go:
        ``content.Copy``).

        Args:
            source: Where it is.
            digest: The blob.
            ref: Name of the ingest; made of the digest by default.
            labels: Labels of the copy; by default none, for most labels speak of what else a store has.

        Returns:
            The digest.

        Raises:
            NotFound: `source` does not have it.
        """
        async with source.open(digest) as reader:
            name = ref or f"copy-{reader.digest}"
            return await self.write(name, reader, size=reader.size, expected=reader.digest, labels=labels)

    async def update_labels(
        self, digest: str, labels: Mapping[str, str | None], *, replace: bool = False
    ) -> ContentInfo:
        """Change labels.

        Args:
            digest: The blob.
            labels: New values; None or an empty one removes the label.
            replace: Remove all labels that are not named.

        Raises:
            NotFound: There is no such blob.
        """
        mask = FieldMask(paths=["labels"]) if replace else label_mask(labels)
        if not mask.paths:
            return await self.info(digest)
        info = RawInfo(digest=check_digest(digest), labels=label_updates(labels))
        reply = await self._stub.update(UpdateRequest(info=info, update_mask=mask))
        return ContentInfo.from_raw(reply.info)

    async def delete(self, digest: str) -> None:
        """Remove a blob from this namespace.

        Raises:
            NotFound: There is no such blob.
        """
        await self._stub.delete(DeleteContentRequest(digest=check_digest(digest)))

    async def list(self, *filters: str) -> builtins.list[ContentInfo]:
        """Return the blobs that match any of `filters` (containerd's filter language), or all."""
        async with aclosing(self.walk(*filters)) as infos:
            return [info async for info in infos]

    async def walk(self, *filters: str) -> AsyncGenerator[ContentInfo, None]:
        """Yield the blobs that match any of `filters`, or all, as they come: a hundred at a time.

        Wrap it in ``contextlib.aclosing`` if you may leave the loop early.

        Raises:
            InvalidArgument: A filter is malformed.
        """
        request = ListContentRequest(filters=[*filters])
        async with self._stub.channel.request(
            _SERVICE + "List", Cardinality.UNARY_STREAM, ListContentRequest, ListContentResponse
        ) as stream:
            await stream.send_message(request, end=True)
            async for reply in stream:
                for raw in reply.info:
                    yield ContentInfo.from_raw(raw)

    async def status(self, ref: str) -> IngestStatus:
        """Return how far an ingest has come.

        Raises:
            NotFound: There is no such ingest.
        """
        return IngestStatus.from_raw((await self._stub.status(StatusRequest(ref=ref))).status)

    async def statuses(self, *filters: str) -> builtins.list[IngestStatus]:
        """Return the ingests that match any of `filters` (they know ``ref``), or all."""
        reply = await self._stub.list_statuses(ListStatusesRequest(filters=[*filters]))
        return [IngestStatus.from_raw(raw) for raw in reply.statuses]

    async def abort(self, ref: str) -> None:
        """Throw an ingest away.

        Raises:
            NotFound: There is no such ingest.
        """
        await self._stub.abort(AbortRequest(ref=ref))

    async def discard(self, ref: str) -> None:
        """Throw an ingest away if it is there, whatever else is going on: for clean-up."""
        with anyio.move_on_after(_DISCARD_TIMEOUT, shield=True):
            try:
                await self.abort(ref)
            except NotFound:
                pass
            except ContainerdError as exc:
                get_logger(__name__).warning("ingest not aborted", ref=ref, error=str(exc))


def _digest(content: str | Descriptor) -> str:
    return check_digest(content if isinstance(content, str) else content.digest)


def _embedded(content: Descriptor) -> bytes | None:
    """Return the data in a descriptor, if it is what the descriptor says."""
    data = content.data
    if data is None or len(data) != content.size:
        return None
    algorithm, _, digits = check_digest(content.digest).partition(":")
    return data if hashlib.new(algorithm, data).hexdigest() == digits else None


def _check_ingest(ref: str, size: int | None, expected: str | None) -> None:
    if not ref:
        raise InvalidArgument("the ref of a write is empty")
    if expected is not None and not check_digest(expected).startswith("sha256:"):
        raise InvalidArgument(f"cannot write {expected}: containerd keeps content by sha256 digests only")
    if size is not None and size < 0:
        raise InvalidArgument(f"the size of a write is {size}")


def _agreed(what: str, given: T | None, actual: T) -> T:
    if given is not None and given != actual:
        raise InvalidArgument(f"the data has the {what} {actual}, not {given}")
    return actual
