"""containerd.services.content.v1.Content, without writing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpclib.const import Cardinality, Handler, Status

from containerd_aio.api.containerd.events import ContentDelete
from containerd_aio.api.containerd.services.content.v1 import (
    AbortRequest,
    ContentBase,
    DeleteContentRequest,
    Info,
    InfoRequest,
    InfoResponse,
    ListContentRequest,
    ListContentResponse,
    ListStatusesRequest,
    ListStatusesResponse,
    ReadContentRequest,
    ReadContentResponse,
    StatusRequest,
    StatusResponse,
    UpdateRequest,
    UpdateResponse,
    WriteContentRequest,
    WriteContentResponse,
)
from containerd_aio.api.containerd.services.content.v1 import Status as IngestStatus
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.testing.fake.call import refuse, refuse_plainly, required_namespace
from containerd_aio.testing.fake.content_writer import WriteSession
from containerd_aio.testing.fake.filters import select
from containerd_aio.testing.fake.images import DIGEST
from containerd_aio.testing.fake.labels import check_labels, updated_labels

if TYPE_CHECKING:
    from typing import Any

    from containerd_aio.api.google.protobuf import Timestamp
    from containerd_aio.testing.fake.world import World

_READ_SIZE = 1 << 20
_LIST_BLOCK = 100


@dataclass(slots=True)
class Blob:
    """Content as one namespace knows it; the bytes are shared."""

    digest: str
    size: int
    created_at: Timestamp
    updated_at: Timestamp
    labels: dict[str, str] = field(default_factory=dict)

    def info(self) -> Info:
        """Return it as a message."""
        return Info(
            digest=self.digest,
            size=self.size,
            created_at=self.created_at,
            updated_at=self.updated_at,
            labels=dict(self.labels),
        )


@dataclass(slots=True)
class Ingest:
    """Content that is coming in."""

    ref: str
    started_at: Timestamp
    updated_at: Timestamp
    total: int = 0
    expected: str = ""
    data: bytearray = field(default_factory=bytearray)
    locked_at: Timestamp | None = None
    shared_from: str = ""

    def status(self) -> IngestStatus:
        """Return it as a message."""
        return IngestStatus(
            ref=self.ref,
            offset=len(self.data),
            total=self.total,
            started_at=self.started_at,
            updated_at=self.updated_at,
        )


class ContentService(ContentBase):
    """The content store."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store

    def __mapping__(self) -> dict[str, Handler]:
        """Write needs the stream itself: to unlock its ingest at once when the call ends, however it ends."""
        return super().__mapping__() | {
            "/containerd.services.content.v1.Content/Write": Handler(
                self._write, Cardinality.STREAM_STREAM, WriteContentRequest, WriteContentResponse
            )
        }

    def _find(self, digest: str) -> Blob:
        found = self._store.look(required_namespace()).blobs.get(digest)
        if found is None:
            raise refuse(Status.NOT_FOUND, f"content digest {digest}")
        return found

    async def info(self, message: InfoRequest) -> InfoResponse:
        """Describe a blob."""
        _check_digest(message.digest)
        return InfoResponse(info=self._find(message.digest).info())

    async def update(self, message: UpdateRequest) -> UpdateResponse:
        """Change labels."""
        wanted = message.info or Info()
        _check_digest(wanted.digest)
        blob = self._find(wanted.digest)
        labels = dict(blob.labels)
        for path in (message.update_mask.paths if message.update_mask else []) or ["labels"]:
            updated = updated_labels(path, labels, wanted.labels)
            if updated is None:
                text = f'cannot update "{path}" field on content info "{wanted.digest}"'
                raise refuse(Status.INVALID_ARGUMENT, text)
            labels = updated
        check_labels(self._world.release, labels, "info.Labels")
        blob.labels = labels
        blob.updated_at = self._world.clock.timestamp()
        return UpdateResponse(info=blob.info())

    async def list(self, message: ListContentRequest) -> AsyncIterator[ListContentResponse]:
        """Describe the blobs that match, in blocks of 100."""
        blobs = self._store.look(required_namespace()).blobs
        ordered = [blobs[digest] for digest in sorted(blobs)]
        found = select(ordered, message.filters, lambda blob: {"digest": blob.digest, "labels": blob.labels})
        for start in range(0, len(found), _LIST_BLOCK):
            yield ListContentResponse(info=[blob.info() for blob in found[start : start + _LIST_BLOCK]])

    async def delete(self, message: DeleteContentRequest) -> Empty:
        """Delete a blob from the namespace."""
        namespace = required_namespace()
        if not DIGEST.fullmatch(message.digest):
            raise refuse_plainly(Status.INVALID_ARGUMENT, "invalid checksum digest format")
        self._find(message.digest)
        del self._store.change(namespace).blobs[message.digest]
        self._store.drop_unreferenced_data()
        self._world.exchange.publish(namespace, "/content/delete", ContentDelete(digest=message.digest))
        self._world.collector.deleted(self._world)
        return Empty()

    async def read(self, message: ReadContentRequest) -> AsyncIterator[ReadContentResponse]:
        """Send a blob, or part of it."""
        if not DIGEST.fullmatch(message.digest):
            text = f"{message.digest}: invalid checksum digest format"
            raise refuse_plainly(Status.INVALID_ARGUMENT, text)
        blob = self._find(message.digest)
        data = self._store.data[message.digest]
        start = max(message.offset, 0)
        if start > blob.size:
            raise refuse_plainly(Status.OUT_OF_RANGE, f"read past object length {blob.size} bytes")
        wanted = data[start : start + message.size] if message.size > 0 else data[start:]
        for position in range(0, len(wanted), _READ_SIZE):
            yield ReadContentResponse(offset=position, data=wanted[position : position + _READ_SIZE])

    async def status(self, message: StatusRequest) -> StatusResponse:
        """Describe an ingest."""
        found = self._store.look(required_namespace()).ingests.get(message.ref)
        if found is None:
            text = f'could not get status for ref "{message.ref}": reference {message.ref}'
            raise refuse(Status.NOT_FOUND, text)
        return StatusResponse(status=found.status())

    async def list_statuses(self, message: ListStatusesRequest) -> ListStatusesResponse:
        """Describe the ingests that match."""
        ingests = self._store.look(required_namespace()).ingests
        ordered = [ingests[ref].status() for ref in sorted(ingests)]
        return ListStatusesResponse(
            statuses=select(ordered, message.filters, lambda status: {"ref": status.ref})
        )

    async def abort(self, message: AbortRequest) -> Empty:
        """Throw an ingest away, even one that is being written to."""
        if self._store.look(required_namespace()).ingests.pop(message.ref, None) is None:
            raise refuse(Status.NOT_FOUND, f"reference {message.ref}")
        return Empty()

    async def _write(self, stream: Any) -> None:
        session = WriteSession(self._world, required_namespace())
        try:
            reply: WriteContentResponse | None = None
            async for message in stream:
                reply = session.take(message)
                await stream.send_message(reply)
            if reply is not None:
                await stream.send_message(reply)  # every release repeats its last answer at the end
        finally:
            session.close()


def _check_digest(digest: str) -> None:
    if not DIGEST.fullmatch(digest):
        raise refuse_plainly(Status.INVALID_ARGUMENT, f'"{digest}" failed validation')
