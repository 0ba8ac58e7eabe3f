"""Snapshots: the layered file systems of containers."""

from __future__ import annotations

import builtins
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import anyio
from grpclib.const import Cardinality

from containerd_aio._log import get_logger
from containerd_aio.api.containerd.services.snapshots.v1 import (
    CleanupRequest,
    CommitSnapshotRequest,
    ListSnapshotsRequest,
    ListSnapshotsResponse,
    MountsRequest,
    PrepareSnapshotRequest,
    RemoveSnapshotRequest,
    StatSnapshotRequest,
    UpdateSnapshotRequest,
    UsageRequest,
    ViewSnapshotRequest,
)
from containerd_aio.api.containerd.services.snapshots.v1 import Info as RawInfo
from containerd_aio.api.containerd.types import Mount as RawMount
from containerd_aio.api.google.protobuf import FieldMask
from containerd_aio.errors import ContainerdError, InvalidArgument, NotFound
from containerd_aio.services._convert import label_mask, label_updates, to_datetime, unique_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
    from datetime import datetime

    from containerd_aio.services.stubs import Services

DEFAULT_SNAPSHOTTER = "overlayfs"
"""What containerd's clients use on Linux when neither the caller nor the namespace says otherwise."""

SNAPSHOTTER_LABEL = "containerd.io/defaults/snapshotter"
"""Namespace label that names the namespace's default snapshotter."""

SNAPSHOT_REF_LABEL = "containerd.io/snapshot.ref"
"""Label of an active snapshot: the committed name it is going to have."""

# Clean-up must not hold up a cancelled caller for long.
_REMOVE_TIMEOUT = 10.0


class Kind(StrEnum):
    """State of a snapshot, in the words of containerd's filters."""

    UNKNOWN = "unknown"
    VIEW = "view"
    ACTIVE = "active"
    COMMITTED = "committed"


_KINDS = (Kind.UNKNOWN, Kind.VIEW, Kind.ACTIVE, Kind.COMMITTED)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount, as containerd and the runtime perform it.

    Attributes:
        type: Kind of file system, such as ``overlay`` or ``bind``.
        source: What is mounted.
        target: Where, relative to the root of the container; empty for the root itself.
        options: Options in the style of fstab.
    """

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()

    @classmethod
    def from_raw(cls, raw: RawMount) -> Self:
        """Take over containerd's message."""
        return cls(raw.type, raw.source, raw.target, tuple(raw.options))

    def to_raw(self) -> RawMount:
        """Return containerd's message."""
        return RawMount(type=self.type, source=self.source, target=self.target, options=list(self.options))


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot as the daemon keeps it.

    Attributes:
        name: Key of an active snapshot or view, name of a committed one.
        parent: Name of the committed snapshot below; empty at the bottom.
        kind: Its state.
        labels: Its labels.
        created_at: When it was made.
        updated_at: When it was changed last.
        raw: containerd's message.
    """

    name: str
    parent: str
    kind: Kind
    labels: Mapping[str, str]
    created_at: datetime | None
    updated_at: datetime | None
    raw: RawInfo = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawInfo | None) -> Self:
        """Take over containerd's message."""
        assert raw is not None
        kind = _KINDS[int(raw.kind)] if 0 <= int(raw.kind) < len(_KINDS) else Kind.UNKNOWN
        return cls(
            raw.name,
            raw.parent,
            kind,
            dict(raw.labels),
            to_datetime(raw.created_at),
            to_datetime(raw.updated_at),
            raw,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Space taken by a snapshot, without its parents.

    Attributes:
        size: Bytes.
        inodes: Inodes.
    """

    size: int
    inodes: int


class Snapshotter:
    """One snapshotter of one namespace.

    Args:
        services: The stubs to call.
        name: Which snapshotter; `resolve_snapshotter` knows the namespace's default.

    Attributes:
        name: Which snapshotter.
    """

    def __init__(self, services: Services, name: str = DEFAULT_SNAPSHOTTER) -> None:
        if not name:
            raise InvalidArgument("the name of the snapshotter is empty")
        self.name = name
        self._stub = services.snapshots

    async def prepare(
        self, key: str, parent: str = "", *, labels: Mapping[str, str] | None = None
    ) -> builtins.list[Mount]:
        """Make a writable snapshot on top of `parent`.

        Args:
            key: Name of the new active snapshot.
            parent: Name of a committed snapshot; empty for an empty file system.
            labels: Labels of the snapshot.

        Returns:
            How to mount it; nothing is mounted.

        Raises:
            AlreadyExists: `key` is taken, or a snapshot of the name in `SNAPSHOT_REF_LABEL` is there already.
            NotFound: There is no such parent.
        """
        reply = await self._stub.prepare(
            PrepareSnapshotRequest(
                snapshotter=self.name, key=_key(key), parent=parent, labels=dict(labels or {})
            )
        )
        return [Mount.from_raw(raw) for raw in reply.mounts]

    async def view(
        self, key: str, parent: str, *, labels: Mapping[str, str] | None = None
    ) -> builtins.list[Mount]:
        """Make a read-only snapshot of `parent`; otherwise as `prepare`."""
        reply = await self._stub.view(
            ViewSnapshotRequest(
                snapshotter=self.name, key=_key(key), parent=parent, labels=dict(labels or {})
            )
        )
        return [Mount.from_raw(raw) for raw in reply.mounts]

    @asynccontextmanager
    async def viewed(self, parent: str) -> AsyncIterator[builtins.list[Mount]]:
        """Have a view of a committed snapshot for the length of a block; it is removed at the end whatever happens.

        Args:
            parent: The committed snapshot.

        Yields:
            How to mount the view, which has a name of its own.

        Raises:
            NotFound: There is no such snapshot.
        """
        key = f"{parent}-view-{unique_name()}"
        try:
            # Shielded: a call broken off may be carried out after the clean-up that follows it.
            with anyio.CancelScope(shield=True):
                mounts = await self.view(key, parent)
            yield mounts
        finally:
            with anyio.move_on_after(_REMOVE_TIMEOUT, shield=True):
                try:
                    await self.remove(key)
                except NotFound:
                    pass
                except ContainerdError as exc:
                    get_logger(__name__).warning("view not removed", key=key, error=str(exc))

    async def mounts(self, key: str) -> builtins.list[Mount]:
        """Return how to mount an active snapshot or a view.

        Raises:
            NotFound: There is no such snapshot.
            FailedPrecondition: It is a committed one.
        """
        reply = await self._stub.mounts(MountsRequest(snapshotter=self.name, key=_key(key)))
        return [Mount.from_raw(raw) for raw in reply.mounts]

    async def commit(self, name: str, key: str, *, labels: Mapping[str, str] | None = None) -> None:
        """Turn the active snapshot `key` into the committed one `name`.

        Raises:
            AlreadyExists: `name` is taken; `key` stays.
            NotFound: There is no active snapshot `key`.
        """
        await self._stub.commit(
            CommitSnapshotRequest(
                snapshotter=self.name, name=_key(name), key=_key(key), labels=dict(labels or {})
            )
        )

    async def remove(self, key: str) -> None:
        """Remove a snapshot of any kind.

        Raises:
            NotFound: There is no such snapshot.
            FailedPrecondition: Others are built on it.
        """
        await self._stub.remove(RemoveSnapshotRequest(snapshotter=self.name, key=_key(key)))

    async def stat(self, key: str) -> SnapshotInfo:
        """Return what the daemon knows of a snapshot.

        Raises:
            NotFound: There is no such snapshot.
        """
        reply = await self._stub.stat(StatSnapshotRequest(snapshotter=self.name, key=_key(key)))
        return SnapshotInfo.from_raw(reply.info)

    async def exists(self, key: str) -> bool:
        """Tell whether there is a snapshot `key`."""
        try:
            await self.stat(key)
        except NotFound:
            return False
        return True

    async def usage(self, key: str) -> Usage:
        """Return the space a snapshot takes, without its parents.

        Raises:
            NotFound: There is no such snapshot.
        """
        reply = await self._stub.usage(UsageRequest(snapshotter=self.name, key=_key(key)))
        return Usage(reply.size, reply.inodes)

    async def update_labels(
        self, key: str, labels: Mapping[str, str | None], *, replace: bool = False
    ) -> SnapshotInfo:
        """Change labels.

        Args:
            key: The snapshot.
            labels: New values; None or an empty one removes the label.
            replace: Remove all labels that are not named.

        Raises:
            NotFound: There is no such snapshot.
        """
        mask = FieldMask(paths=["labels"]) if replace else label_mask(labels)
        if not mask.paths:
            return await self.stat(key)
        info = RawInfo(name=_key(key), labels=label_updates(labels))
        reply = await self._stub.update(
            UpdateSnapshotRequest(snapshotter=self.name, info=info, update_mask=mask)
        )
        return SnapshotInfo.from_raw(reply.info)

    async def list(self, *filters: str) -> builtins.list[SnapshotInfo]:
        """Return the snapshots that match any of `filters` (containerd's filter language), or all."""
        async with aclosing(self.walk(*filters)) as infos:
            return [info async for info in infos]

    async def walk(self, *filters: str) -> AsyncGenerator[SnapshotInfo, None]:
        """Yield the snapshots that match any of `filters`, or all, as they come: a hundred at a time.

        Wrap it in ``contextlib.aclosing`` if you may leave the loop early.
        """
        request = ListSnapshotsRequest(snapshotter=self.name, filters=[*filters])
        async with self._stub.channel.request(
            "/containerd.services.snapshots.v1.Snapshots/List",
            Cardinality.UNARY_STREAM,
            ListSnapshotsRequest,
            ListSnapshotsResponse,
        ) as stream:
            await stream.send_message(request, end=True)
            async for reply in stream:
                for raw in reply.info:
                    yield SnapshotInfo.from_raw(raw)

    async def cleanup(self) -> None:
        """Have the snapshotter remove what no snapshot uses any more.

        Raises:
            Unimplemented: It can't; so say the built-in ones of containerd 1.6 to 2.1, which clean up by themselves.
        """
        await self._stub.cleanup(CleanupRequest(snapshotter=self.name))


def _key(text: str) -> str:
    if not text:
        raise InvalidArgument("the key of a snapshot is empty")
    return text


def mounts_to_raw(mounts: Iterable[Mount]) -> list[RawMount]:
    """Return containerd's messages for `mounts`."""
    return [mount.to_raw() for mount in mounts]


async def resolve_snapshotter(services: Services, name: str | None = None) -> str:
    """Return the snapshotter to use.

    Args:
        services: Says which daemon and namespace.
        name: What the caller asked for; it wins.

    Returns:
        `name`, else the namespace's default (its label `SNAPSHOTTER_LABEL`), else ``overlayfs``.
    """
    if name:
        return name
    from containerd_aio.api.containerd.services.namespaces.v1 import GetNamespaceRequest

    try:
        reply = await services.namespaces.get(GetNamespaceRequest(name=services.namespace))
    except NotFound:
        return DEFAULT_SNAPSHOTTER
    labels = reply.namespace.labels if reply.namespace is not None else {}
    return labels.get(SNAPSHOTTER_LABEL) or DEFAULT_SNAPSHOTTER
