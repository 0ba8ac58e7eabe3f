"""One call of Content.Write, message by message."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.events import ContentCreate
from containerd_aio.api.containerd.services.content.v1 import (
    WriteAction,
    WriteContentRequest,
    WriteContentResponse,
)
from containerd_aio.testing.fake.call import refuse, refuse_plainly
from containerd_aio.testing.fake.labels import check_labels, without_empty
from containerd_aio.testing.fake.leases import lease_of_call

if TYPE_CHECKING:
    from containerd_aio.testing.fake.content import Ingest
    from containerd_aio.testing.fake.world import World


class WriteSession:
    """The state between two messages of a write.

    Args:
        world: Where to.
        namespace: Namespace of the call.
    """

    def __init__(self, world: World, namespace: str) -> None:
        self._world = world
        self._namespace = namespace
        self._ingest: Ingest | None = None
        self._total = 0
        self._expected = ""

    def take(self, message: WriteContentRequest) -> WriteContentResponse:
        """Do what a message asks for.

        Raises:
            GRPCError: It can't be done.
        """
        if self._ingest is None:
            if not message.ref:
                raise refuse_plainly(Status.INVALID_ARGUMENT, "first message must have a reference")
            self._ingest = self._open(message.ref, message.total, message.expected)
        self._agree(message)
        match message.action:
            case WriteAction.STAT:
                pass
            case WriteAction.WRITE | WriteAction.COMMIT:
                self._write(message)
                if message.action == WriteAction.COMMIT:
                    return self._commit(message)
            case _:
                return WriteContentResponse(action=message.action)
        return self._reply(message.action)

    def close(self) -> None:
        """Let another call have the ingest."""
        if self._ingest is not None:
            self._ingest.locked_at = None

    def _open(self, ref: str, total: int, expected: str) -> Ingest:
        from containerd_aio.testing.fake.content import Ingest

        records = self._world.store.change(self._namespace)
        lease = lease_of_call(records)
        if expected and expected in records.blobs:
            if lease is not None:
                lease.resources.add(("content", expected))
            raise refuse(Status.ALREADY_EXISTS, f"content {expected}")
        now = self._world.clock.timestamp()
        ingest = records.ingests.get(ref)
        if ingest is not None and ingest.locked_at is not None:
            raise refuse_plainly(
                Status.UNAVAILABLE,
                f"ref {self._namespace}/1/{ref} locked for 1ms (since {ingest.locked_at.seconds}): unavailable",
            )
        if ingest is None:
            ingest = records.ingests[ref] = Ingest(ref, now, now, total, expected)
            data = self._world.store.data.get(expected)
            if data is not None:  # another namespace shares it
                ingest.data += data
        if lease is not None:
            lease.resources.add(("ingests", ref))
        ingest.locked_at = now
        return ingest

    def _agree(self, message: WriteContentRequest) -> None:
        assert self._ingest is not None
        if message.total:
            self._total = self._total or message.total
            self._ingest.total = self._ingest.total or message.total
        if message.expected:
            records = self._world.store.change(self._namespace)
            if message.expected in records.blobs:
                records.ingests.pop(self._ingest.ref, None)
                text = f"blob with expected digest {message.expected} exists"
                raise refuse_plainly(Status.ALREADY_EXISTS, text)
            self._expected = message.expected

    def _write(self, message: WriteContentRequest) -> None:
        assert self._ingest is not None
        have = len(self._ingest.data)
        if message.offset == 0:
            self._ingest.data.clear()
        elif message.offset != have:
            text = f"write @{message.offset} must occur at current offset {have}"
            raise refuse_plainly(Status.OUT_OF_RANGE, text)
        self._ingest.data += message.data
        self._ingest.updated_at = self._world.clock.timestamp()

    def _commit(self, message: WriteContentRequest) -> WriteContentResponse:
        from containerd_aio.testing.fake.content import Blob

        ingest = self._ingest
        assert ingest is not None
        records = self._world.store.change(self._namespace)
        check_labels(self._world.release, message.labels, "info.Labels")
        data = bytes(ingest.data)
        digest = _digest(data)
        if message.total and message.total != len(data):
            text = f'"{ingest.ref}" failed size validation: {len(data)} != {message.total}'
            raise refuse(Status.FAILED_PRECONDITION, text)
        if self._expected and self._expected != digest:
            text = (
                f'"{ingest.ref}" failed commit: unexpected commit digest {digest}, expected {self._expected}'
            )
            raise refuse(Status.FAILED_PRECONDITION, text)
        records.ingests.pop(ingest.ref, None)
        lease = lease_of_call(records)
        if lease is not None:
            lease.resources.discard(("ingests", ingest.ref))
            lease.resources.add(("content", digest))
        if digest in records.blobs:
            raise refuse(Status.ALREADY_EXISTS, f"content {digest}")
        now = self._world.clock.timestamp()
        records.blobs[digest] = Blob(digest, len(data), now, now, without_empty(message.labels))
        self._world.store.data[digest] = data
        if self._world.release.content_create_event:
            event = ContentCreate(digest=digest, size=len(data))
            self._world.exchange.publish(self._namespace, "/content/create", event)
        reply = WriteContentResponse(action=message.action, offset=len(data), digest=digest)
        if self._world.release.name == "1.6":
            reply.started_at, reply.updated_at = ingest.started_at, ingest.updated_at
        return reply

    def _reply(self, action: WriteAction) -> WriteContentResponse:
        ingest = self._ingest
        assert ingest is not None
        return WriteContentResponse(
            action=action,
            started_at=ingest.started_at,
            updated_at=ingest.updated_at,
            offset=len(ingest.data),
            total=ingest.total,
            digest=_digest(bytes(ingest.data)),
        )


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
