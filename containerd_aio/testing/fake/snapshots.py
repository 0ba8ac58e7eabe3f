"""containerd.services.snapshots.v1.Snapshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.events import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from containerd_aio.api.containerd.services.snapshots.v1 import (
    CleanupRequest,
    CommitSnapshotRequest,
    Info,
    Kind,
    ListSnapshotsRequest,
    ListSnapshotsResponse,
    MountsRequest,
    MountsResponse,
    PrepareSnapshotRequest,
    PrepareSnapshotResponse,
    RemoveSnapshotRequest,
    SnapshotsBase,
    StatSnapshotRequest,
    StatSnapshotResponse,
    UpdateSnapshotRequest,
    UpdateSnapshotResponse,
    UsageRequest,
    UsageResponse,
    ViewSnapshotRequest,
    ViewSnapshotResponse,
)
from containerd_aio.api.containerd.types import Mount
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.testing.fake.call import refuse, refuse_plainly, required_namespace
from containerd_aio.testing.fake.filters import select
from containerd_aio.testing.fake.labels import check_labels, updated_labels, without_empty
from containerd_aio.testing.fake.leases import lease_of_call
from containerd_aio.testing.fake.system import SNAPSHOTTERS

if TYPE_CHECKING:
    from containerd_aio.api.google.protobuf import Timestamp
    from containerd_aio.testing.fake.world import World

_LIST_BLOCK = 100
_REF_LABEL = "containerd.io/snapshot.ref"


@dataclass(slots=True)
class Snapshot:
    """A snapshot. Its files are in a directory of its own: copies by hard link of those below."""

    number: int
    name: str
    parent: str
    kind: Kind
    path: Path
    created_at: Timestamp
    updated_at: Timestamp
    labels: dict[str, str] = field(default_factory=dict)

    def info(self) -> Info:
        """Return it as a message."""
        return Info(
            name=self.name,
            parent=self.parent,
            kind=self.kind,
            created_at=self.created_at,
            updated_at=self.updated_at,
            labels=dict(self.labels),
        )

    def mounts(self) -> list[Mount]:
        """Return what a container mounts."""
        mode = "ro" if self.kind == Kind.VIEW else "rw"
        return [Mount(type="bind", source=str(self.path), options=[mode, "rbind"])]


class SnapshotsService(SnapshotsBase):
    """The snapshotters, which all work the same way here: by copying."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers = 0

    def _snapshots(self, snapshotter: str, *, change: bool = False) -> dict[str, Snapshot]:
        namespace = required_namespace()
        if not snapshotter:
            raise refuse(Status.INVALID_ARGUMENT, "snapshotter argument missing")
        if snapshotter not in SNAPSHOTTERS:
            raise refuse(Status.INVALID_ARGUMENT, f"snapshotter not loaded: {snapshotter}")
        store = self._world.store
        records = store.change(namespace) if change else store.look(namespace)
        return records.snapshots[snapshotter]

    def _find(self, snapshotter: str, key: str) -> Snapshot:
        found = self._snapshots(snapshotter).get(key)
        if found is None:
            raise refuse(Status.NOT_FOUND, f"snapshot {key} does not exist")
        return found

    async def prepare(self, message: PrepareSnapshotRequest) -> PrepareSnapshotResponse:
        """Make a snapshot that can be written to."""
        made = self._make(message.snapshotter, message.key, message.parent, message.labels, Kind.ACTIVE)
        event = SnapshotPrepare(key=message.key, parent=message.parent)
        self._publish("/snapshot/prepare", event, message.snapshotter)
        return PrepareSnapshotResponse(mounts=made.mounts())

    async def view(self, message: ViewSnapshotRequest) -> ViewSnapshotResponse:
        """Make a snapshot that can only be read; no event tells of it."""
        made = self._make(message.snapshotter, message.key, message.parent, message.labels, Kind.VIEW)
        return ViewSnapshotResponse(mounts=made.mounts())

    def _make(self, snapshotter: str, key: str, parent: str, labels: dict[str, str], kind: Kind) -> Snapshot:
        snapshots = self._snapshots(snapshotter, change=True)
        check_labels(self._world.release, labels, "info.Labels")
        lease = lease_of_call(self._world.store.change(required_namespace()))
        if not key:
            raise refuse_plainly(Status.UNKNOWN, "key required" if lease else "bucket name required")
        target = labels.get(_REF_LABEL, "")
        if target in snapshots:
            raise refuse(Status.ALREADY_EXISTS, f'target snapshot "{target}"')
        if key in snapshots:
            raise refuse(Status.ALREADY_EXISTS, f'snapshot "{key}"')
        below = snapshots.get(parent)
        if parent and below is None:
            raise refuse(Status.NOT_FOUND, f"parent snapshot {parent} does not exist")
        if below is not None and below.kind != Kind.COMMITTED:
            text = f'failed to create snapshot: parent "{self._internal(below)}" is not committed snapshot'
            raise refuse(Status.INVALID_ARGUMENT, text)
        self._numbers += 1
        folder = self._world.root / f"io.containerd.snapshotter.v1.{snapshotter}" / "snapshots"
        path = folder / str(self._numbers) / "fs"
        if below is None:
            path.mkdir(parents=True)
        else:
            shutil.copytree(below.path, path, symlinks=True, copy_function=os.link)
        now = self._world.clock.timestamp()
        made = Snapshot(self._numbers, key, parent, kind, path, now, now, without_empty(labels))
        snapshots[key] = made
        if lease is not None:
            lease.resources.add((f"snapshots/{snapshotter}", key))
        return made

    def _internal(self, snapshot: Snapshot) -> str:
        return f"{required_namespace()}/{snapshot.number}/{snapshot.name}"

    async def mounts(self, message: MountsRequest) -> MountsResponse:
        """Return the mounts of a snapshot."""
        found = self._find(message.snapshotter, message.key)
        if found.kind == Kind.COMMITTED:
            text = (
                f"failed to get active mount: requested snapshot {self._internal(found)} not active or view"
            )
            raise refuse(Status.FAILED_PRECONDITION, text)
        return MountsResponse(mounts=found.mounts())

    async def commit(self, message: CommitSnapshotRequest) -> Empty:
        """Make an active snapshot one that others can be made on."""
        snapshots = self._snapshots(message.snapshotter)
        lease = lease_of_call(self._world.store.change(required_namespace()))
        if not message.name:
            raise refuse_plainly(Status.UNKNOWN, "bucket name required")
        if message.name in snapshots:
            raise refuse(Status.ALREADY_EXISTS, f'snapshot "{message.name}"')
        found = self._find(message.snapshotter, message.key)
        if found.kind != Kind.ACTIVE:
            name = self._internal(found)
            what = "" if self._world.release.name == "1.6" else f" {name}"
            text = f'failed to commit snapshot{what}: snapshot "{name}" is not active'
            raise refuse(Status.FAILED_PRECONDITION, text)
        check_labels(self._world.release, message.labels, "info.Labels")
        del snapshots[message.key]
        found.name, found.kind = message.name, Kind.COMMITTED
        found.labels = without_empty(message.labels)
        found.created_at = found.updated_at = self._world.clock.timestamp()
        snapshots[message.name] = found
        if lease is not None:
            kind = f"snapshots/{message.snapshotter}"
            lease.resources.discard((kind, message.key))
            lease.resources.add((kind, message.name))
        event = SnapshotCommit(key=message.key, name=message.name)
        self._publish("/snapshot/commit", event, message.snapshotter)
        return Empty()

    async def remove(self, message: RemoveSnapshotRequest) -> Empty:
        """Remove a snapshot that no other is made on."""
        snapshots = self._snapshots(message.snapshotter)
        found = self._find(message.snapshotter, message.key)
        if any(other.parent == message.key for other in snapshots.values()):
            raise refuse(Status.FAILED_PRECONDITION, "cannot remove snapshot with child")
        del snapshots[message.key]
        shutil.rmtree(found.path.parent, ignore_errors=True)
        self._publish("/snapshot/remove", SnapshotRemove(key=message.key), message.snapshotter)
        self._world.collector.deleted(self._world)
        return Empty()

    async def stat(self, message: StatSnapshotRequest) -> StatSnapshotResponse:
        """Describe a snapshot."""
        return StatSnapshotResponse(info=self._find(message.snapshotter, message.key).info())

    async def update(self, message: UpdateSnapshotRequest) -> UpdateSnapshotResponse:
        """Change labels."""
        wanted = message.info or Info()
        if not wanted.name:
            raise refuse_plainly(Status.INVALID_ARGUMENT, "invalid argument")
        found = self._find(message.snapshotter, wanted.name)
        labels = dict(found.labels)
        for path in (message.update_mask.paths if message.update_mask else []) or ["labels"]:
            updated = updated_labels(path, labels, wanted.labels)
            if updated is None:
                text = f'cannot update "{path}" field on snapshot "{wanted.name}"'
                raise refuse(Status.INVALID_ARGUMENT, text)
            labels = updated
        check_labels(self._world.release, labels, "info.Labels")
        found.labels, found.updated_at = labels, self._world.clock.timestamp()
        return UpdateSnapshotResponse(info=found.info())

    async def list(self, message: ListSnapshotsRequest) -> AsyncIterator[ListSnapshotsResponse]:
        """Describe the snapshots that match, in blocks of 100."""
        snapshots = self._snapshots(message.snapshotter)
        ordered = [snapshots[name] for name in sorted(snapshots)]
        found = select(ordered, message.filters, _fields, status=Status.UNKNOWN)
        for start in range(0, len(found), _LIST_BLOCK):
            block = found[start : start + _LIST_BLOCK]
            yield ListSnapshotsResponse(info=[snapshot.info() for snapshot in block])

    async def usage(self, message: UsageRequest) -> UsageResponse:
        """Measure a snapshot's files."""
        found = self._find(message.snapshotter, message.key)
        paths = [found.path, *found.path.rglob("*")]
        size = sum(path.lstat().st_blocks * 512 for path in paths)
        return UsageResponse(size=size, inodes=len(paths))

    async def cleanup(self, message: CleanupRequest) -> Empty:
        """Refuse, as the real snapshotters of these names do."""
        self._snapshots(message.snapshotter)
        raise refuse(Status.UNIMPLEMENTED, "snapshotter does not implement Cleanup method")

    def _publish(
        self, topic: str, event: SnapshotPrepare | SnapshotCommit | SnapshotRemove, snapshotter: str
    ) -> None:
        if self._world.release.snapshotter_in_events:
            event.snapshotter = snapshotter
        self._world.exchange.publish(required_namespace(), topic, event)


def _fields(snapshot: Snapshot) -> dict[str, object]:
    return {
        "kind": {Kind.VIEW: "view", Kind.ACTIVE: "active", Kind.COMMITTED: "committed"}[snapshot.kind],
        "name": snapshot.name,
        "parent": snapshot.parent,
        "labels": snapshot.labels,
    }
